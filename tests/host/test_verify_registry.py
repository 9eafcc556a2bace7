"""`invoke verify --image`: what a registry holds is the lock's, packed or not, or the difference is named."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from registries import Registry, needs, push, registry
from verify_images import SITE, Member, changed, lock_with_base

from envs.errors import RegistryError
from envs.lock import EnvLock
from envs.paths import cache_root
from envs.progress import Silent
from envs.tree import ensure_tree
from envs.verify import verify as wing
from envs.verify.rebuild import Rebuilt
from envs.verify.records import VerifyReport
from envs.verify.verify import Request, verify


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, Rebuilt]]:
    """A registry, and a built lock with its tree."""
    work = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch, registry(work / "registry") as made:
        patch.setenv("EDGEKILN_CACHE", str(work / "cache"))
        lock = lock_with_base(work)
        patch.setattr(wing, "read_lock", lambda name, platform="": lock)
        yield made, Rebuilt(lock, ensure_tree(lock, Silent()), Silent())


def of_image(reference: str, lock: EnvLock) -> VerifyReport:
    (report,) = verify(Request(env=lock.name, image=reference), Silent())
    return report


def copied(archive: bytes, folder: Path, to: str, *more: str) -> None:
    """Into the registry by another program than ours."""
    needs("skopeo")
    (folder / "image.tar").write_bytes(archive)
    words = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", *more]
    subprocess.run([*words, f"docker-archive:{folder}/image.tar", f"docker://{to}"], check=True, capture_output=True)


def test_a_pushed_image_is_the_locks(held: tuple[Registry, Rebuilt]) -> None:
    where, rebuilt = held
    pushed = push(rebuilt.plan(), f"{where.host}/mine:v1")
    report = of_image(pushed.reference, rebuilt.lock)
    assert report.equal
    assert report.subject == f"image {pushed.reference}"
    assert report.notes == ()
    assert of_image(f"{where.host}/mine:v1", rebuilt.lock).subject == f"image {pushed.reference}"


def test_packed_layers_are_the_same_bytes_under_another_manifest(
    held: tuple[Registry, Rebuilt], tmp_path: Path
) -> None:
    where, rebuilt = held
    whole = b"".join(rebuilt.plan().archive())
    copied(whole, tmp_path, f"{where.host}/packed:v1", "--dest-compress-format", "gzip")
    report = of_image(f"{where.host}/packed:v1", rebuilt.lock)
    assert "its manifest is another one" in report.notes[0]
    assert report.equal


def test_a_changed_image_in_a_registry_is_caught(held: tuple[Registry, Rebuilt], tmp_path: Path) -> None:
    def change(layers: list[list[Member]]) -> None:
        info = next(info for layer in layers for info, _ in layer if info.name == f"{SITE}/cases/time.txt")
        info.mtime = 1_780_000_000

    where, rebuilt = held
    copied(changed(b"".join(rebuilt.plan().archive()), change), tmp_path, f"{where.host}/changed:v1")
    report = of_image(f"{where.host}/changed:v1", rebuilt.lock)
    found = [(one.path, one.what, one.cause) for one in report.differences if one.path.startswith("opt/")]
    assert found == [(f"{SITE}/cases/time.txt", "mtime", "clock")]


def test_nothing_is_rebuilt_where_there_is_nothing_to_compare(
    held: tuple[Registry, Rebuilt], monkeypatch: pytest.MonkeyPatch
) -> None:
    where, rebuilt = held
    monkeypatch.setattr(wing, "rebuild", lambda *_: pytest.fail("it was rebuilt"))
    with pytest.raises(RegistryError, match="nowhere"):
        of_image(f"{where.host}/nowhere:v1", rebuilt.lock)
    assert not list(cache_root().glob(".verify-*"))
