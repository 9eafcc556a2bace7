"""The environment tree: the same lock gives the same files, whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from making import small_lock, tampered
from serving import make_wheel, serving

from envs import finish, interpreter, sources, tree
from envs.errors import BuildError, FetchError
from envs.interpreter import tree_sha256
from envs.lock import EnvLock, LockedInterpreter
from envs.progress import Silent


@pytest.fixture
def small(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EnvLock]:
    sources.index_url.cache_clear()
    made = small_lock(tmp_path / "wheels")
    with serving() as server:
        server.add_wheels(tmp_path / "wheels")
        monkeypatch.setenv("EDGEKILN_INDEX_URL", f"{server.url}/simple")
        yield made
    sources.index_url.cache_clear()


def site(lock: EnvLock, made: Path) -> Path:
    return tree.site_packages(made, lock.python)


def test_a_tree_runs_in_place_and_knows_only_its_own_packages(small: EnvLock) -> None:
    made = tree.ensure_tree(small, Silent())
    ask = "import small, sys, ssl, sqlite3, ctypes, lzma, bz2, json; print(json.dumps([small.__file__, sys.prefix]))"
    done = subprocess.run([made / "bin/python3", "-c", ask], env={}, capture_output=True, text=True, check=True)
    where, prefix = json.loads(done.stdout)
    assert Path(where).is_relative_to(made)
    assert Path(prefix) == made


def test_the_same_lock_gives_the_same_bytes_elsewhere(
    small: EnvLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tree.ensure_tree(small, Silent())
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "a longer name of another cache"))
    old = os.umask(0o077)
    try:
        second = tree.ensure_tree(small, Silent())
    finally:
        os.umask(old)
    for made in (first, second):
        (made / tree.RECORD).unlink()  # says how long it took
    assert first != second
    assert tree_sha256(first) == tree_sha256(second)


def test_a_second_build_does_nothing(small: EnvLock) -> None:
    made = tree.ensure_tree(small, Silent())
    before = (made / tree.RECORD).stat().st_mtime_ns
    assert tree.ensure_tree(small, Silent()) == made
    assert (made / tree.RECORD).stat().st_mtime_ns == before


def test_trimmed_files_are_gone_and_record_stays_true(small: EnvLock) -> None:
    folder = site(small, tree.ensure_tree(small, Silent()))
    assert not (folder / "small/gpu_only.so").exists()
    with (folder / "small-1.0.dist-info/RECORD").open() as record:
        listed = {row[0] for row in csv.reader(record)}
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert listed == there


def test_two_builds_at_once_make_one_tree(small: EnvLock) -> None:
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(tree.ensure_tree(small, Silent()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2
    assert made[0] == made[1]
    assert [p.name for p in tree.trees_root().iterdir()] == [made[0].name]


def test_a_wheel_with_another_hash_stops_the_build_and_leaves_nothing(small: EnvLock) -> None:
    broken = msgspec.structs.replace(small, package=(tampered(small.package[0]),))
    with pytest.raises(FetchError, match=r"small-1.0-py3-none-any.whl: sha256 is"):
        tree.ensure_tree(broken, Silent())
    assert list(tree.trees_root().iterdir()) == []


def test_a_killed_build_is_cleaned_up_by_the_next(small: EnvLock) -> None:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    abandoned = tree.trees_root() / f".small-{int(done.stdout)}"
    abandoned.mkdir(parents=True)
    tree.ensure_tree(small, Silent())
    assert not abandoned.exists()


def test_the_first_source_that_gives_the_locked_bytes_is_taken_and_recorded(
    small: EnvLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKILN_INTERPRETER_URL", "http://127.0.0.1:9")
    standalone = LockedInterpreter(
        source="python-build-standalone", version=small.python, file="1/cpython.tar.gz", sha256="a" * 64
    )
    both = msgspec.structs.replace(small, interpreter=(standalone, *small.interpreter))
    record = tree.read_record(tree.ensure_tree(both, Silent()))
    assert record.interpreter.source == "installed"
    assert record.tried == ("python-build-standalone: cpython.tar.gz: 127.0.0.1 can't be reached",)


def test_another_build_of_the_same_version_is_not_the_locked_interpreter(small: EnvLock) -> None:
    other = msgspec.structs.replace(small.interpreter[0], sha256="0" * 64)
    with pytest.raises(FetchError, match=r"is another build than the locked one.*invoke lock"):
        tree.ensure_tree(msgspec.structs.replace(small, interpreter=(other,)), Silent())


def test_a_trim_pattern_that_matches_nothing_is_an_error(small: EnvLock) -> None:
    stale = msgspec.structs.replace(small, trim={"small": ("small/no_such_*",)})
    with pytest.raises(BuildError, match=r"no_such_"):
        tree.ensure_tree(stale, Silent())


def test_finishing_twice_changes_nothing(small: EnvLock) -> None:
    folder = site(small, tree.ensure_tree(small, Silent()))
    before = tree_sha256(folder)
    finish.finish(folder, {})
    assert tree_sha256(folder) == before


def test_the_test_tools_are_a_tree_of_their_own(
    small: EnvLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tree.ensure_tree(small, Silent())
    tool = make_wheel(tmp_path / "wheels", "tool", "1.0", {"tool.py": b""})
    with serving() as server:
        server.add_wheels(tmp_path / "wheels")
        monkeypatch.setenv("EDGEKILN_INDEX_URL", f"{server.url}/simple")
        sources.index_url.cache_clear()
        folder = tree.ensure_test_tree(msgspec.structs.replace(small, test=(tool,)), made, Silent())
    assert (folder / "tool.py").exists()
    assert not (site(small, made) / "tool.py").exists()


@pytest.mark.parametrize("name", ["../out", "/etc/out"])
def test_an_interpreter_archive_can_not_leave_its_folder(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "cpython.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(BuildError, match=r"would leave its folder"):
        interpreter._unpack(archive, tmp_path / "target")
    assert not (tmp_path / "out").exists()


def standalone(folder: Path, executable: bytes | None = None) -> LockedInterpreter:
    """The installed CPython in an archive of python-build-standalone's layout, served from `folder`.

    The real releases can't be reached from every machine.
    """
    own = interpreter.installed("3.10")[0]
    archive = folder / "20240101" / "cpython-x.tar.gz"
    archive.parent.mkdir()

    def without_tests(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if {"site-packages", "test", "tests"} & set(Path(member.name).parts) else member

    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        content = Path(own.executable).read_bytes() if executable is None else executable
        program = tarfile.TarInfo("python/bin/python3.10")
        program.size, program.mode = len(content), 0o755
        tar.addfile(program, io.BytesIO(content))
        tar.add(own.stdlib, "python/lib/python3.10", filter=without_tests)
        if own.library:
            tar.add(own.library, f"python/lib/{Path(own.library).name}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    return LockedInterpreter(
        source="python-build-standalone", version=own.version, file="20240101/cpython-x.tar.gz", sha256=digest
    )


def test_a_standalone_archive_becomes_a_tree(small: EnvLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKILN_INTERPRETER_URL", tmp_path.as_uri())
    made = tree.ensure_tree(msgspec.structs.replace(small, interpreter=(standalone(tmp_path),)), Silent())
    assert tree.read_record(made).interpreter.source == "python-build-standalone"
    subprocess.run([made / "bin/python3", "-c", "import ssl, small"], env={}, check=True)


def test_a_tree_for_another_machine_is_made_without_running_it(
    small: EnvLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = bytearray(Path(interpreter.installed("3.10")[0].executable).read_bytes())
    program[18:20] = (183).to_bytes(2, "little")  # e_machine: EM_AARCH64
    monkeypatch.setenv("EDGEKILN_INTERPRETER_URL", tmp_path.as_uri())
    foreign = msgspec.structs.replace(
        small, platform="linux/arm64", interpreter=(standalone(tmp_path, bytes(program)),)
    )
    made = tree.ensure_tree(foreign, Silent())
    assert (site(foreign, made) / "small" / "__init__.py").exists()
    with pytest.raises(OSError, match="Exec format error"):
        subprocess.run([made / "bin/python3", "-c", ""], check=True)


def test_locks_that_share_packages_share_their_files(small: EnvLock, tmp_path: Path) -> None:
    first = site(small, tree.ensure_tree(small, Silent()))
    other = msgspec.structs.replace(small, omit=("nothing",))  # another key, the same packages
    second = site(other, tree.ensure_tree(other, Silent()))
    assert first != second
    assert (first / "small/__init__.py").samefile(second / "small/__init__.py")


def test_a_lock_for_another_machine_is_not_used_here(small: EnvLock) -> None:
    with pytest.raises(BuildError, match=r"is for linux/s390x, this machine is linux/.*--output oci:DIR"):
        tree.refuse_foreign(msgspec.structs.replace(small, platform="linux/s390x"))
