"""`invoke verify`: rebuilt in a fresh place and compared with a tree, an image, a container or files."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from verify_images import SITE, Member, changed, lock_with_base

from envs import tree
from envs.build import image_plan
from envs.engines.choose import choose
from envs.errors import EngineError, FetchError, WrongUse
from envs.files import write_atomic
from envs.image_oci import parse_output, write_output
from envs.layers import tree_layers
from envs.lock import EnvLock
from envs.paths import cache_root
from envs.progress import Silent
from envs.verbs.verify import verify as verb
from envs.verify import verify as wing
from envs.verify.check import check_image, check_tree
from envs.verify.detail import ABSENT, detail
from envs.verify.fresh import fresh_place
from envs.verify.rebuild import Rebuilt, rebuild
from envs.verify.records import VerifyReport
from envs.verify.subjects import archive
from envs.verify.verify import Request, verify

NAME = f"verify-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rebuilt]:
    """A lock that was built in a cache (tests work on copies of it), and its rebuild in a fresh place."""
    work = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKILN_CACHE", str(work / "cache"))
        lock = msgspec.structs.replace(lock_with_base(work), name=NAME)
        tree.ensure_tree(lock, Silent())
        with fresh_place():
            made = rebuild(lock, Silent())
            patch.setenv("EDGEKILN_CACHE", str(work / "cache"))
            yield made


@pytest.fixture
def lock(rebuilt: Rebuilt, cache: Path, monkeypatch: pytest.MonkeyPatch) -> EnvLock:
    """The lock, with a copy of the cache it was built in."""
    source = rebuilt.tree.parents[2]
    cache.mkdir()
    (cache / "store").symlink_to(source / "store")
    shutil.copytree(source / "trees", cache / "trees", symlinks=True, copy_function=os.link)
    monkeypatch.setattr(wing, "read_lock", lambda name, platform="": rebuilt.lock)
    return rebuilt.lock


def made_tree(lock: EnvLock) -> Path:
    found = tree.existing_tree(lock)
    assert found is not None
    return found


def site(lock: EnvLock) -> Path:
    return tree.site_packages(made_tree(lock), lock.python)


def local(lock: EnvLock) -> VerifyReport:
    (report,) = verify(Request(env=lock.name, engine="local"), Silent())
    return report


def of_tree(rebuilt: Rebuilt) -> VerifyReport:
    """As `local`, without rebuilding once more."""
    return check_tree(rebuilt, made_tree(rebuilt.lock))


def seen(report: VerifyReport) -> set[tuple[str, str, str]]:
    return {(Path(one.path).name, one.what, one.cause) for one in report.differences}


def overwrite(path: Path, data: bytes) -> None:
    """Another content; the copy's file is a hard link, and the others stay."""
    path.unlink()
    path.write_bytes(data)


# --- trees


def test_a_tree_as_built_is_equal_and_nothing_is_left_behind(lock: EnvLock) -> None:
    before = {path.name for path in cache_root().iterdir()}
    report = local(lock)
    assert report.equal
    assert report.verdict == f"these are the bytes of lock {lock.digest}"
    assert report.files > 700
    assert {path.name for path in cache_root().iterdir()} - before <= {"locks"}
    assert os.environ["EDGEKILN_CACHE"] == str(cache_root())


def test_a_file_that_changed_while_its_record_did_not_is_caught(lock: EnvLock, rebuilt: Rebuilt) -> None:
    epoch = lock.source_date_epoch
    for layer in tree_layers(made_tree(lock), epoch):
        b"".join(layer.stream())
    overwrite(site(lock) / "small" / "__init__.py", b"x = 2\n")
    made_tree(lock).with_name(f"{made_tree(lock).name}.layers.json").unlink()
    assert all(layer.diff_id for layer in tree_layers(made_tree(lock), epoch))  # the memory by RECORD sees nothing
    report = of_tree(rebuilt)
    assert seen(report) == {("__init__.py", "content", "changed after it was installed")}
    assert not report.equal


def test_what_a_user_did_to_a_tree_is_told_by_path_and_cause(lock: EnvLock, rebuilt: Rebuilt) -> None:
    place = site(lock)
    (place / "cases" / "__pycache__").mkdir()
    (place / "cases" / "__pycache__" / "a.pyc").write_bytes(b"code")
    (place / "pip.log").write_text("log")
    overwrite(place / "cases" / "crlf.txt", b"one\r\ntwo\r\nthree\r\n")
    overwrite(place / "cases" / "run.sh", b"#!\n")
    (place / "cases" / "run.sh").chmod(0o755)
    (place / "cases" / "gone.txt").unlink()
    (made_tree(lock) / "bin" / "python").unlink()
    (made_tree(lock) / "bin" / "python").symlink_to("/home/ann/bin/python3")
    os.mkfifo(place / "pipe")
    assert seen(of_tree(rebuilt)) == {
        ("__pycache__", "extra", "bytecode"),
        ("a.pyc", "extra", "bytecode"),
        ("pip.log", "extra", "log"),
        ("crlf.txt", "content", "line ends"),
        ("run.sh", "mode", "executable bit"),
        ("gone.txt", "missing", ""),
        ("python", "link", "build path"),
        ("pipe", "extra", ""),
    }


def test_the_umask_of_a_tree_is_no_difference(lock: EnvLock, rebuilt: Rebuilt) -> None:
    for path in made_tree(lock).rglob("*.py"):
        path.chmod(0o600)
    assert of_tree(rebuilt).equal


def test_a_source_that_was_changed_in_the_store_is_named(lock: EnvLock) -> None:
    own = cache_root() / "store"
    source = own.readlink()
    own.unlink()
    shutil.copytree(source, own)
    wheel = next(one for one in lock.package if one.name == "small")
    overwrite(own / wheel.sha256 / wheel.file, b"other")
    with pytest.raises(FetchError, match=r"small-1.0.*the lock says.*the store was changed; remove that file"):
        local(lock)
    assert list(cache_root().glob(".verify-*")) == []


def test_a_verify_that_was_killed_leaves_nothing_for_long(cache: Path) -> None:
    (cache / ".verify-999999999-x" / "trees").mkdir(parents=True)
    with fresh_place() as place:
        assert list(cache.glob(".verify-*")) == [place]
    assert list(cache.glob(".verify-*")) == []


def test_nothing_built_is_said_so(lock: EnvLock) -> None:
    shutil.rmtree(made_tree(lock))
    with pytest.raises(EngineError, match=f"nothing of {NAME} is built here; `invoke build"):
        local(lock)


# --- files


def outputs(lock: EnvLock, folder: Path) -> tuple[str, str]:
    plan = image_plan(lock, made_tree(lock), Silent())
    both = (f"docker-archive:{folder}/a.tar", f"oci:{folder}/layout")
    for text in both:
        write_output(plan, parse_output(text), Silent())
    return both


def of_archive(rebuilt: Rebuilt, text: str) -> VerifyReport:
    subject = archive(text, lambda: rebuilt.plan().manifest_digest, Silent())
    return check_image(rebuilt, subject.name, subject.read)


def test_written_images_are_equal_by_digest_alone(lock: EnvLock, tmp_path: Path) -> None:
    for text in outputs(lock, tmp_path):
        (report,) = verify(Request(env=lock.name, archive=text), Silent())
        assert report.equal
        assert report.files == 0
        assert [one.ours for one in report.digests] == [one.theirs for one in report.digests]
        assert len(report.digests) > 2


def test_a_changed_blob_under_its_old_name_is_caught(lock: EnvLock, rebuilt: Rebuilt, tmp_path: Path) -> None:
    _, text = outputs(lock, tmp_path)
    for blob in (tmp_path / "layout/blobs/sha256").iterdir():
        blob.write_bytes(blob.read_bytes().replace(b"g\n" + bytes(510), b"G\n" + bytes(510)))
    assert seen(of_archive(rebuilt, text)) == {("group.txt", "content", "changed after it was installed")}


def test_times_of_another_day_are_told(lock: EnvLock, rebuilt: Rebuilt, tmp_path: Path) -> None:
    def later(layers: list[list[Member]]) -> None:
        for layer in layers:
            for info, _ in layer:
                info.mtime = 1_780_000_000

    text, _ = outputs(lock, tmp_path)
    written = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(changed(written, later))
    report = of_archive(rebuilt, text)
    assert report.by_cause["clock"] > 700
    assert "mtime" in report.by_what


@pytest.mark.parametrize("text", ["oci:/nowhere", "docker-archive:/nowhere", "tar:x", "oci:", "x"])
def test_an_archive_that_is_none_is_wrong_use(lock: EnvLock, text: str) -> None:
    with pytest.raises(WrongUse, match="--archive"):
        verify(Request(env=lock.name, archive=text), Silent())


def test_one_thing_at_a_time(lock: EnvLock) -> None:
    with pytest.raises(WrongUse, match="--container and --archive"):
        verify(Request(env=lock.name, container="x", archive="oci:y"), Silent())


def test_a_local_container_is_its_tree(lock: EnvLock) -> None:
    with pytest.raises(WrongUse, match="process in the tree itself; `invoke verify"):
        verify(Request(env=lock.name, engine="local", container="x"), Silent())


# --- what a person and a machine see


def test_the_verb_ends_with_0_where_equal_and_1_where_not(lock: EnvLock, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb(Request(env=lock.name, engine="local"), True) == 0
    assert json.loads(capsys.readouterr().out)["equal"] is True
    for number in range(60):
        (site(lock) / f"[red]{number}.log").write_text("x")
    assert verb(Request(env=lock.name, engine="local"), True) == 1
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["checks"][0]["differences"]) == 60
    assert shown["checks"][0]["by_cause"] == {"log": 60}
    assert verb(Request(env=lock.name, engine="local"), False) == 1
    out = capsys.readouterr().out
    assert "NOT the bytes of lock" in out
    assert "[red]0.log" in out
    assert "10 more, --json has all" in out
    assert "remove logs after each step" in out


def test_diffoscope_shows_the_content_or_its_absence_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pair = ("x/text.txt", b"one\ntwo\n", b"one\n2\n")
    notes: list[str] = []
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert detail([pair], notes) == ()
    assert notes == [ABSENT]
    if shutil.which("diffoscope") is None and os.environ.get("CI") != "true":
        pytest.skip("diffoscope is not installed here")
    (found,) = detail([pair], notes)
    assert {"-two", "+2"} <= {line.lstrip("│ ") for line in found.lines}


def test_a_diffoscope_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "diffoscope"
    program.write_text("#!/bin/sh\nsleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("envs.verify.detail.FILE_S", 0.3)
    monkeypatch.setattr("envs.verify.detail.ALL_S", 0.5)
    notes: list[str] = []
    found = detail([(f"{number}", b"1", b"2") for number in range(4)], notes)
    assert found[0].lines == ("diffoscope did not end within 0 s",)
    assert "were not looked into" in notes[0]


# --- a Docker Engine


@pytest.fixture
def engine(lock: EnvLock) -> Iterator[Any]:
    chosen = choose("docker").docker
    assert chosen is not None
    yield chosen
    for container in chosen.client.containers.list(all=True, filters={"label": f"io.edgekiln.env={NAME}"}):
        container.remove(force=True)
    for image in chosen.client.images.list(filters={"label": f"io.edgekiln.env={NAME}"}):
        chosen.client.images.remove(image.id, force=True)


def load(engine: Any, lock: EnvLock) -> bytes:
    plan = image_plan(lock, made_tree(lock), Silent())
    whole = b"".join(plan.archive())
    engine.client.images.load(whole)
    return whole


@pytest.mark.engine
def test_an_image_in_the_engine_its_tree_and_its_memory_are_verified(engine: Any, lock: EnvLock) -> None:
    load(engine, lock)
    reports = verify(Request(env=lock.name, engine="docker"), Silent())
    assert [report.equal for report in reports] == [True, True, True]
    assert "in the engine" in reports[0].subject


@pytest.mark.engine
def test_a_changed_image_under_the_locks_tag_is_caught(engine: Any, lock: EnvLock) -> None:
    def change(layers: list[list[Member]]) -> None:
        for layer in layers:
            for place, (info, data) in enumerate(layer):
                if info.name == f"{SITE}/small/__init__.py":
                    layer[place] = (info, data.replace(b"1", b"2"))

    whole = load(engine, lock)
    plan = image_plan(lock, made_tree(lock), Silent())
    engine.client.images.load(changed(whole, change, list(plan.tags)))
    report = verify(Request(env=lock.name, engine="docker"), Silent())[0]
    assert ("__init__.py", "content", "changed after it was installed") in seen(report)
    assert [one.path for one in report.differences if one.what == "content" and "opt/" in one.path] == [
        f"{SITE}/small/__init__.py"
    ]


@pytest.mark.engine
def test_an_engine_without_the_image_says_what_makes_it(engine: Any, lock: EnvLock) -> None:
    with pytest.raises(EngineError, match=f"the engine has no image edgekiln/{NAME}.*`invoke build --env {NAME}`"):
        verify(Request(env=lock.name, engine="docker"), Silent())


@pytest.mark.engine
def test_a_remembered_digest_that_is_wrong_is_caught(engine: Any, lock: EnvLock) -> None:
    load(engine, lock)
    memory = made_tree(lock).with_name(f"{made_tree(lock).name}.layers.json")
    record = json.loads(memory.read_bytes())
    record["layers"][0]["known"]["diff_id"] = "sha256:" + "0" * 64
    write_atomic(memory, json.dumps(record).encode())
    reports = verify(Request(env=lock.name, engine="docker"), Silent())
    assert [report.equal for report in reports] == [True, True, False]
    assert seen(reports[2]) == {("(remembered layer) interpreter", "content", "layer memory")}


@pytest.mark.engine
def test_a_container_is_its_image_until_something_is_written(engine: Any, lock: EnvLock) -> None:
    load(engine, lock)
    plan = image_plan(lock, made_tree(lock), Silent())
    labels = {"io.edgekiln.project": "edgekiln", "io.edgekiln.env": NAME, "io.edgekiln.lock-digest": lock.digest}
    container = engine.client.containers.create(
        plan.image_id, name=NAME, command=["x"], labels=labels, tmpfs={"/tmp": ""}, network_mode="none"
    )
    asked = Request(env=lock.name, engine="docker", container=NAME)
    (report,) = verify(asked, Silent())
    assert report.differences == ()
    assert report.equal
    assert ".dockerenv" in report.passed_over
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        info = tarfile.TarInfo("machine-id")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    container.put_archive("/etc", made.getvalue())
    (report,) = verify(asked, Silent())
    assert seen(report) == {("machine-id", "extra", "machine id")}
