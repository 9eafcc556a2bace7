"""Where a cache may lie: a disk that fills up, another file system, a store of others that is only read."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from making import small_lock
from serving import Server

from envs import sources, tree
from envs.errors import EdgekilnError, FetchError
from envs.fetch import fetch, keep, stored, wheel
from envs.files import explain_os_error, sha256_file
from envs.lock import EnvLock
from envs.progress import Silent
from envs.store import shared

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="mounting a file system needs root"
)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    sources.index_url.cache_clear()
    shared._is_whole.cache_clear()
    yield
    sources.index_url.cache_clear()


@pytest.fixture
def lock(server: Server, tmp_path: Path) -> EnvLock:
    made = small_lock(tmp_path / "wheels")
    server.add_wheels(tmp_path / "wheels")
    return made


@contextlib.contextmanager
def tmpfs(folder: Path, *options: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(("size=200m", *options)), "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def said(error: BaseException) -> str:
    """What the command line would say: one line, or nothing where it would show a traceback."""
    told = explain_os_error(error) if isinstance(error, OSError) else error
    return str(told or "")


def works(made: Path) -> bool:
    return subprocess.run([made / "bin/python3", "-c", "import small"], env={}).returncode == 0


# --- a disk that fills up


@needs_root
@pytest.mark.parametrize("size_kib", [64, 4_000, 30_000])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_made(cache: Path, lock: EnvLock, size_kib: int) -> None:
    with tmpfs(cache, f"size={size_kib}k"):
        with pytest.raises((EdgekilnError, OSError)) as failed:
            tree.ensure_tree(lock, Silent())
        assert "no space left" in said(failed.value).lower(), failed.value
        assert "\n" not in said(failed.value)
        assert not list(cache.glob("trees/*"))
        assert not list(cache.glob("trees/.*"))
        remount(cache, "size=200m")
        assert works(tree.ensure_tree(lock, Silent()))


@needs_root
def test_a_download_onto_a_full_disk_is_one_clear_line_and_goes_on_later(cache: Path, lock: EnvLock) -> None:
    package = lock.package[0]
    with tmpfs(cache, "size=64k"):
        with contextlib.suppress(OSError), (cache / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 1024)
        with pytest.raises((EdgekilnError, OSError)) as failed:
            fetch([wheel(package)], "small", Silent())
        assert "no space left" in said(failed.value)
        assert not stored(package.sha256, package.file).exists()
        (cache / "filler").unlink()
        (path,) = fetch([wheel(package)], "small", Silent())
        assert sha256_file(path) == package.sha256


# --- another file system


@needs_root
@pytest.mark.parametrize("apart", ["trees", "store", "unpacked"])
def test_a_part_of_the_cache_on_another_disk_gives_the_same_tree(
    cache: Path, lock: EnvLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: str
) -> None:
    with tmpfs(tmp_path / "disk"):
        cache.mkdir(exist_ok=True)
        (cache / apart).symlink_to(tmp_path / "disk")
        made = tree.ensure_tree(lock, Silent())
        assert works(made)
        assert (cache / apart).stat().st_dev != cache.stat().st_dev


# --- a store of others


@pytest.fixture
def others(cache: Path, lock: EnvLock, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that holds the lock's sources, and no source that would serve them."""
    fetch([wheel(one) for one in lock.package], "packages", Silent())
    folder = tmp_path / "others"
    (cache / "store").rename(folder)
    server.files.clear()
    monkeypatch.setenv("EDGEKILN_STORE", str(folder))
    return folder


def test_what_a_store_of_others_holds_is_not_downloaded(cache: Path, lock: EnvLock, others: Path) -> None:
    assert works(tree.ensure_tree(lock, Silent()))
    assert not list(cache.glob("store/*"))


@needs_root
def test_a_store_of_others_is_only_read(
    cache: Path, lock: EnvLock, tmp_path: Path, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readable = tmp_path / "mounted"
    with tmpfs(readable):
        subprocess.run(["cp", "-a", f"{others}/.", readable], check=True)
        remount(readable, "ro")
        monkeypatch.setenv("EDGEKILN_STORE", str(readable))
        assert works(tree.ensure_tree(lock, Silent()))
        (tmp_path / "mine.tar").write_bytes(b"x")
        assert keep(tmp_path / "mine.tar", "e" * 64).is_relative_to(cache)


def test_a_store_of_others_may_be_named_in_the_configuration(
    cache: Path, lock: EnvLock, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEKILN_STORE")
    sources.config_path().parent.mkdir(parents=True)
    sources.config_path().write_text(f'store = "{others}"\n')
    assert works(tree.ensure_tree(lock, Silent()))


def test_other_bytes_in_a_store_of_others_are_refused_by_name(cache: Path, lock: EnvLock, others: Path) -> None:
    (path,) = others.glob("*/*.whl")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(FetchError, match=rf"{path}: the shared store holds other bytes.*EDGEKILN_STORE"):
        tree.ensure_tree(lock, Silent())


def test_a_store_of_others_that_is_not_there_changes_nothing(
    cache: Path, lock: EnvLock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEKILN_STORE", str(tmp_path / "no such folder"))
    assert works(tree.ensure_tree(lock, Silent()))
