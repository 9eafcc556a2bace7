"""The kernels: the same bytes wherever they are compiled, whole or not there, and what is said where there are none."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import native, native_compiler, sources
from envs.errors import CheckFailed, FetchError
from envs.files import sha256_file
from envs.native import CompileError, compile_levels, ensure_native, kernels, kernels_key, read_sources
from envs.native_compiler import compilers_root, ensure_compiler, locked_compilers
from envs.native_package import PACKAGE, kept_archive, native_root, pack, read_archive, sources_sha256
from envs.platforms import MACHINES, host_platform
from envs.progress import Silent
from envs.store.items import Ledger, inventory
from envs.store.needs import Uses, needed

ROOT = Path(__file__).resolve().parents[2]
HOST = host_platform()
TINY = {"a.c": b'#include "a.h"\n', "a.h": b'__attribute__((visibility("default"))) int a(void) { return 1; }\n'}


class Telling(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(scope="session")
def zig(compiled: Path) -> Path:
    """The compiler from the machine's own cache."""
    return ensure_compiler(Silent())


@pytest.fixture(scope="session")
def archive(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("archive") / "kernels.tar"
    pack(compiled, 0, path)
    return path.read_bytes()


def libraries(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (folder / PACKAGE).glob("*.so")}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another temporary folder, home, umask, time zone, locale and set of compiler variables."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    changes = {"HOME": "/nowhere", "TZ": "Asia/Tokyo", "LC_ALL": "tr_TR.UTF-8", "CFLAGS": "-g", "CPATH": "/usr/include"}
    for name, value in {**changes, "SOURCE_DATE_EPOCH": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    old = os.umask(0o077)
    yield
    os.umask(old)


def test_kernels_compiled_again_elsewhere_are_the_same_bytes(compiled: Path, zig: Path, elsewhere: None) -> None:
    assert compile_levels(zig, HOST, read_sources()) == libraries(compiled)


@pytest.mark.parametrize("platform", sorted(native.LEVELS))
def test_every_platform_is_compiled_on_any_host(zig: Path, platform: str) -> None:
    machine = {"linux/amd64": 62, "linux/arm64": 183}[platform]  # e_machine of ELF
    made = compile_levels(zig, platform, TINY)
    assert list(made) == list(native.LEVELS[platform])
    for content in made.values():
        assert content[:6] == b"\x7fELF\x02\x01"
        assert struct.unpack_from("<H", content, 18) == (machine,)


def test_a_library_names_no_place_of_this_machine_and_no_newer_glibc(compiled: Path) -> None:
    oldest = tuple(map(int, native.GLIBC.split(".")))
    for content in libraries(compiled).values():
        assert not re.search(rb"/(tmp|root|home|work|usr)/|edgekiln-kernels|\.cache", content)
        wanted = [tuple(map(int, one.split(b"."))) for one in re.findall(rb"GLIBC_(\d+(?:\.\d+)+)", content)]
        assert all(one <= oldest for one in wanted), wanted


def test_a_fault_in_a_source_is_named_by_file_and_line(zig: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"good.c": b"int a;\n", "bad.c": b"int a;\nint b = ;\n"}
    with pytest.raises(
        CompileError, match=r"pipelines/native: .*bad\.c:2:9: error: expected expression; mend the file"
    ):
        compile_levels(zig, HOST, broken)
    monkeypatch.setattr(native, "ensure_compiler", lambda progress: zig)
    monkeypatch.setattr(native, "read_sources", lambda: broken)
    with pytest.raises(CompileError):  # not passed over: NumPy would hide it
        kernels(HOST, Silent())
    assert list(native_root().glob("*")) == list(native_root().glob(".*")) == []


def test_a_compiler_that_is_killed_is_no_fault_of_the_sources(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "zig"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(native, "ensure_compiler", lambda progress: killed)
    telling = Telling()
    assert kernels(HOST, telling) is None
    assert re.fullmatch(r"no compiled kernels, NumPy .*: zig ended with -9: no message", telling.said[-1])


def test_without_a_compiler_one_line_says_so_and_there_are_none(cache: Path) -> None:
    telling = Telling()
    assert kernels(HOST, telling) is None
    assert telling.said == ["no compiled kernels, NumPy does their work and takes longer: no compiler in a test"]
    with pytest.raises(FetchError):
        ensure_native(HOST, Silent())


def test_a_platform_without_kernels_is_said_too(cache: Path) -> None:
    telling = Telling()
    assert kernels("darwin/arm64", telling) is None
    assert "linux/amd64, linux/arm64, not for darwin/arm64" in telling.said[0]


def test_a_compiler_that_cannot_be_had_says_what_brings_the_kernels_without_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.index_url.cache_clear()
    monkeypatch.setenv("EDGEKILN_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(FetchError, match=r"ziglang.*; a bundle \(EDGEKILN_BUNDLE\) brings them compiled"):
        native_compiler.ensure_compiler(Silent())
    sources.index_url.cache_clear()
    assert not compilers_root().exists()


def test_the_key_follows_what_decides_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    key = kernels_key("linux/amd64", TINY)
    other = {
        kernels_key("linux/arm64", TINY),
        kernels_key("linux/amd64", {**TINY, "a.h": b""}),
        kernels_key("linux/amd64", {"b.c": TINY["a.c"], "a.h": TINY["a.h"]}),
    }
    assert key == kernels_key("linux/amd64", dict(reversed(TINY.items())))
    for name, value in (("FLAGS", ("-O0",)), ("RULES", 0), ("GLIBC", "2.28"), ("locked_compilers", dict)):
        with monkeypatch.context() as changed:
            changed.setattr(native, name, value)
            other.add(kernels_key("linux/amd64", TINY))
    assert len(other | {key}) == 8


def test_the_lock_has_the_same_compiler_for_every_host() -> None:
    locked = locked_compilers()
    assert set(locked) == set(MACHINES) == set(native.LEVELS)
    assert len({(one.name, one.version) for one in locked.values()}) == 1
    for platform, one in locked.items():
        assert MACHINES[platform][0] in one.file
        assert re.fullmatch("[0-9a-f]{64}", one.sha256)
        assert one.bytes > 0


def test_the_compilers_of_both_wings_agree_on_the_sources() -> None:
    """The host writes their sha256, the pipeline compares it: two walls apart, so they must count alike."""
    ask = "from pipelines.native import sources_sha256; print(sources_sha256())"
    env = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    said = subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True, text=True, check=True).stdout
    assert said.strip() == sources_sha256(read_sources())


def test_what_is_compiled_loads(compiled: Path) -> None:
    ask = "from pipelines.native import describe, load; print(describe(), load().library.edgekiln_abi())"
    env = {"PYTHONPATH": f"{ROOT}:{compiled}", "PYTHONDONTWRITEBYTECODE": "1"}
    said = subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True, text=True, check=True).stdout
    level, abi = said.split()
    assert (level in native.LEVELS[HOST], abi) == (True, "1")


def test_the_package_can_be_read_by_whoever_a_container_runs_as(compiled: Path) -> None:
    for path in (compiled, *compiled.rglob("*")):
        wanted = 0o755 if path.is_dir() else 0o644
        assert path.stat().st_mode & 0o777 == wanted, path


def test_an_archive_gives_back_what_went_in_and_the_same_bytes_again(
    compiled: Path, archive: bytes, tmp_path: Path
) -> None:
    record, held = read_archive(archive, HOST, sources_sha256(read_sources()))
    assert held == libraries(compiled)
    assert json.loads((compiled / PACKAGE / "kernels.json").read_text())["files"] == record.files
    pack(compiled, 0, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive


def test_an_archive_of_other_sources_or_for_another_machine_is_refused(archive: bytes) -> None:
    for platform, wanted in ((HOST, "0" * 64), ("linux/other", sources_sha256(read_sources()))):
        with pytest.raises(CheckFailed, match="other sources or for another platform"):
            read_archive(archive, platform, wanted)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_damaged_archive_never_gives_other_libraries(compiled: Path, archive: bytes, data: st.DataObject) -> None:
    content = bytearray(archive)
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        _, held = read_archive(bytes(content), HOST, sources_sha256(read_sources()))
    except CheckFailed:
        return
    assert held == libraries(compiled)


def test_what_a_bundle_left_is_unpacked_without_a_compiler(compiled: Path, archive: bytes, cache: Path) -> None:
    kept_archive(compiled.name).parent.mkdir(parents=True)
    kept_archive(compiled.name).write_bytes(archive)
    telling = Telling()
    folder = ensure_native(HOST, telling)
    assert (folder.name, libraries(folder), telling.said) == (compiled.name, libraries(compiled), [])


def test_a_damaged_archive_is_said_and_compiled_instead(
    compiled: Path, archive: bytes, cache: Path, zig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_archive(compiled.name).parent.mkdir(parents=True)
    kept_archive(compiled.name).write_bytes(archive[:1000])
    monkeypatch.setattr(native, "ensure_compiler", lambda progress: zig)
    telling = Telling()
    assert libraries(ensure_native(HOST, telling)) == libraries(compiled)
    assert telling.said[0].endswith("; compiling them")
    assert telling.said[1] == f"compiling kernels for {HOST} (once for these sources)"


def test_pruning_keeps_the_kernels_of_these_sources(compiled: Path, cache: Path, tmp_path: Path) -> None:
    old, left = native_root() / ("0" * 64), native_root() / ".0123456789ab-999999999"
    for folder in (native_root() / compiled.name, old, left, compilers_root() / ("1" * 64)):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x")
    kept_archive(old.name).write_bytes(b"x")
    (tmp_path / "locks").mkdir()
    items = inventory(cache, needed(Uses(), tmp_path / "locks"), Ledger(), time.time())
    seen = {(item.kind, item.name): (item.needed_by, len(item.paths)) for item in items}
    assert seen == {
        ("kernels", compiled.name[:12]): ("these sources", 1),
        ("kernels", old.name[:12]): ("", 2),
        ("leftover", left.name): ("", 1),
        ("tool", "compiler 111111111111"): ("", 1),
    }


def test_an_unpacked_compiler_is_the_one_that_was_locked(zig: Path) -> None:
    locked = locked_compilers()[HOST]
    assert zig.parents[1].name == locked.sha256
    kept = sources.shared_store() or zig.parents[3] / "store"
    wheel = kept / locked.sha256 / locked.file
    if not wheel.exists():
        pytest.skip("the wheel was pruned from the store after it was unpacked")
    assert sha256_file(wheel) == locked.sha256
