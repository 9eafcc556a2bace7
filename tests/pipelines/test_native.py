"""The loader of compiled kernels: the best level of this CPU, and everything else refused in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import native
from pipelines.native import (
    ABI,
    LEVELS,
    Native,
    Refused,
    describe,
    form,
    levels,
    levels_of,
    load,
    open_kernels,
    sources_sha256,
    why_missing,
)

FLAGS = sorted(LEVELS["x86_64"]["x86-64-v4"])


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the compiled package, to be damaged."""
    if load() is None:
        pytest.skip(f"no compiled kernels here: {why_missing()}")
    return Path(shutil.copytree(native._folder(), tmp_path / "package"))


@pytest.fixture
def whole(package: Path) -> Path:
    """The same, its libraries links to the compiled ones: a container loads no code from /tmp."""
    for library in package.glob("*.so"):
        library.unlink()
        library.symlink_to(native._folder() / library.name)
    return package


def rewrite(package: Path, **changes: object) -> None:
    record = json.loads((package / "kernels.json").read_text())
    (package / "kernels.json").write_text(json.dumps({**record, **changes}))


def refused(package: Path) -> str:
    with pytest.raises(Refused) as caught:
        open_kernels(package, levels())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_kernels_load_or_the_reason_is_one_line() -> None:
    loaded, reason = load(), why_missing()
    assert (loaded is None) == bool(reason)
    assert "\n" not in reason
    assert describe() == (loaded.level if loaded else f"none: {reason}")
    assert form() == ("compiled" if loaded else "numpy")


def test_the_best_level_of_this_cpu_is_loaded(package: Path) -> None:
    loaded = load()
    assert loaded is not None
    assert loaded.level == levels()[-1]
    assert loaded.library.edgekiln_abi() == ABI
    assert load() is loaded


def test_a_lower_level_can_be_asked_for(package: Path) -> None:
    assert [one.level for level in levels() if isinstance(one := load(level), Native)] == list(levels())


@pytest.mark.parametrize("level", ["", "x86-64-v1", "avx2", "x86-64-v9"])
def test_a_level_that_this_cpu_lacks_is_a_wrong_argument(level: str) -> None:
    with pytest.raises(ValueError, match="level"):
        load(level)


def test_a_package_with_fewer_levels_gives_the_best_it_has(whole: Path) -> None:
    record = json.loads((whole / "kernels.json").read_text())
    lowest = levels()[0]
    rewrite(whole, files={lowest: record["files"][lowest]})
    assert open_kernels(whole, levels()).level == lowest


@given(flags=st.sets(st.sampled_from(FLAGS)), more=st.sets(st.sampled_from(FLAGS)))
def test_more_features_never_give_fewer_levels(flags: set[str], more: set[str]) -> None:
    few, many = levels_of("x86_64", frozenset(flags)), levels_of("x86_64", frozenset(flags | more))
    order = tuple(LEVELS["x86_64"])
    assert few == order[: len(few)] == many[: len(few)]


@pytest.mark.parametrize("lacking", FLAGS)
def test_no_level_is_taken_whose_feature_the_cpu_lacks(lacking: str) -> None:
    found = levels_of("x86_64", frozenset(FLAGS) - {lacking})
    assert len(found) < 3
    assert all(lacking not in LEVELS["x86_64"][level] for level in found)


def test_other_machines_have_the_levels_that_we_compile_for() -> None:
    assert levels_of("aarch64", frozenset()) == ("aarch64",)
    assert levels_of("riscv64", frozenset(FLAGS)) == ()


def test_no_package_on_the_import_path_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "PACKAGE", "edgekiln_native_absent")
    with pytest.raises(Refused, match="no package edgekiln_native_absent on the import path"):
        native._folder()


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"sources": 1, "files": 2}', "\x00"])
def test_a_record_that_is_none_is_refused(package: Path, text: str | None) -> None:
    (package / "kernels.json").unlink()
    if text is not None:
        (package / "kernels.json").write_text(text)
    assert "kernels.json can't be read" in refused(package)


def test_kernels_of_other_sources_are_refused(package: Path) -> None:
    rewrite(package, sources="0" * 64)
    assert "compiled from other sources than these" in refused(package)


@settings(deadline=None, max_examples=30)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_before_the_library_is_opened(place: float, bit: int) -> None:
    if load() is None:
        pytest.skip(f"no compiled kernels here: {why_missing()}")
    level = levels()[-1]
    content = bytearray((native._folder() / f"{level}.so").read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    with tempfile.TemporaryDirectory() as copy:
        package = Path(shutil.copytree(native._folder(), Path(copy, "package")))
        (package / f"{level}.so").write_bytes(content)
        assert f"{level}.so is damaged" in refused(package)


@pytest.mark.parametrize("left", [0, 1, 64, 1000])
def test_a_library_that_is_cut_off_is_refused(package: Path, left: int) -> None:
    path = package / f"{levels()[-1]}.so"
    path.write_bytes(path.read_bytes()[:left])
    assert f"{path.name} is damaged" in refused(package)


def test_a_library_that_is_gone_is_refused(package: Path) -> None:
    (package / f"{levels()[-1]}.so").unlink()
    assert "can't be loaded" in refused(package)


def test_a_file_that_is_no_library_is_refused(package: Path) -> None:
    content = b"not a library"
    (package / f"{levels()[-1]}.so").write_bytes(content)
    rewrite(package, files={levels()[-1]: hashlib.sha256(content).hexdigest()})
    assert "can't be loaded" in refused(package)


def test_a_library_without_our_abi_is_refused(package: Path) -> None:
    content = min(Path(np.__file__).parent.rglob("*.so")).read_bytes()
    (package / f"{levels()[-1]}.so").write_bytes(content)
    rewrite(package, files={levels()[-1]: hashlib.sha256(content).hexdigest()})
    assert "can't be loaded" in refused(package)


def test_a_library_of_another_abi_is_refused(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "ABI", ABI + 1)
    assert f"has ABI {ABI}, this code wants {ABI + 1}" in refused(whole)


def test_a_cpu_below_every_level_is_said(package: Path) -> None:
    with pytest.raises(Refused, match="has none that we compile for"):
        open_kernels(package, ())


def test_the_header_and_this_module_name_the_same_abi() -> None:
    assert f"#define EDGEKILN_ABI {ABI}\n" in (native.SOURCES / "kernels.h").read_text()


def test_the_sources_hash_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_bytes(b"1")
    first = sources_sha256(tmp_path)
    (tmp_path / "notes.txt").write_bytes(b"of no account")
    assert sources_sha256(tmp_path) == first
    (tmp_path / "a.c").rename(tmp_path / "b.c")
    renamed = sources_sha256(tmp_path)
    (tmp_path / "b.c").write_bytes(b"2")
    assert len({first, renamed, sources_sha256(tmp_path)}) == 3
