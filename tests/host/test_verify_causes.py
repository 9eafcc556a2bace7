"""Each cause is injected for real into an image, and verify says path, what differs, and why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from verify_cases import CASES, Case
from verify_images import SITE, changed, inject_all, lock_with_base

from envs.progress import Silent
from envs.verify.check import check_image
from envs.verify.fresh import fresh_place
from envs.verify.rebuild import rebuild
from envs.verify.records import Difference, VerifyReport
from envs.verify.subjects import archive


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VerifyReport]:
    """One image with every case in it, compared with the rebuild of its lock."""
    work = tmp_path_factory.mktemp("verify")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKILN_CACHE", str(work / "cache"))
        lock = lock_with_base(work)
        with fresh_place():
            rebuilt = rebuild(lock, Silent())
            whole = b"".join(rebuilt.plan().archive())
            (work / "changed.tar").write_bytes(changed(whole, inject_all))
            subject = archive(f"docker-archive:{work}/changed.tar", str, Silent())
            yield check_image(rebuilt, subject.name, subject.read)


def found(report: VerifyReport, case: Case) -> list[Difference]:
    path = case.path[1:] if case.path.startswith("/") else f"{SITE}/{case.path}"
    return [one for one in report.differences if one.path == path]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path)
def test_an_injected_cause_is_named(report: VerifyReport, case: Case) -> None:
    seen = [(one.what, one.cause) for one in found(report, case)]
    assert (case.what, case.cause) in seen
    assert all(bool(one.cause) == bool(one.advice) for one in found(report, case))


def test_nothing_else_is_reported(report: VerifyReport) -> None:
    ours = {case.path[1:] if case.path.startswith("/") else f"{SITE}/{case.path}" for case in CASES}
    stray = {one.path for one in report.differences if not one.path.startswith("(")} - ours
    assert stray == set()
    assert not report.equal
    assert report.by_what["content"] > 30
    assert {one.cause for one in report.differences if one.path == "(interpreter)"} == {"tar form"}  # tarfile wrote it
