"""Specs and locks: what is read is what was written, and what is wrong is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs import lock, paths, spec, toml
from envs.errors import LockError, SpecError, WrongUse
from envs.lock import EnvLock, LockedDeb, LockedInterpreter, LockedWheel

ROOT = Path(__file__).resolve().parents[2]

words = st.text("abcdefghijklmnopqrstuvwxyz0123456789-+.", min_size=1, max_size=20)
hexes = st.text("0123456789abcdef", min_size=64, max_size=64)
wheels = st.builds(LockedWheel, name=words, version=words, file=words, sha256=hexes, bytes=st.integers(0, 2**40))
locks = st.builds(
    EnvLock,
    version=st.just(lock.LOCK_VERSION),
    name=words,
    spec_sha256=hexes,
    platform=words,
    exclude_newer=words,
    source_date_epoch=st.integers(0, 2**33),
    python=words,
    suite=words,
    omit=st.lists(words, max_size=3).map(tuple),
    trim=st.dictionaries(words, st.lists(words, max_size=3).map(tuple), max_size=3),
    interpreter=st.lists(
        st.builds(LockedInterpreter, source=st.sampled_from(["installed"]), version=words, sha256=hexes), max_size=2
    ).map(tuple),
    base=st.lists(
        st.builds(
            LockedDeb, name=words, version=words, architecture=words, file=words, sha256=hexes, bytes=st.integers(0)
        ),
        max_size=3,
    ).map(tuple),
    package=st.lists(wheels, max_size=4).map(tuple),
    test=st.just(()),
    data=st.just(()),
    hub=st.just(()),
)


@given(locks)
def test_a_lock_survives_its_text(made: EnvLock) -> None:
    tables = toml.tomllib.loads(lock.to_text(made))
    assert tables.pop("digest") == made.digest
    assert msgspec.convert(tables, EnvLock) == made


@given(locks)
def test_the_text_of_a_lock_is_deterministic(made: EnvLock) -> None:
    again = msgspec.json.decode(msgspec.json.encode(made), type=EnvLock)
    assert lock.to_text(again) == lock.to_text(made)


@given(locks, words)
def test_any_change_changes_the_digest(made: EnvLock, suite: str) -> None:
    other = msgspec.structs.replace(made, suite=suite)
    assert (other.digest == made.digest) == (suite == made.suite)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of specs and locks that a test may break."""
    shutil.copytree(ROOT / "envs" / "specs", tmp_path / "specs")
    shutil.copytree(ROOT / "envs" / "locks", tmp_path / "locks")
    for module in (spec, paths):
        monkeypatch.setattr(module, "SPECS", tmp_path / "specs")
    for module in (lock, paths):
        monkeypatch.setattr(module, "LOCKS", tmp_path / "locks")
    return tmp_path


@pytest.mark.parametrize("name", ["sigmastar", "light"])
def test_shipped_locks_belong_to_their_specs(name: str) -> None:
    read = lock.read_lock(name)
    pinned = {package.name: package.version for package in read.package}
    wanted = spec.load_spec(name)
    assert {p: v for p, v in wanted.packages.items() if pinned.get(p) != v} == {}
    assert not set(wanted.omit) & set(pinned)
    assert all(len(package.sha256) == 64 for package in read.package)
    assert read.python.startswith("3.10.")


def test_an_edited_lock_is_refused(checkout: Path) -> None:
    path = checkout / "locks" / "light.lock.toml"
    path.write_text(path.read_text().replace('version = "1.23.5"', 'version = "1.23.4"'))
    with pytest.raises(LockError, match=r"it was edited.*invoke lock --env light"):
        lock.read_lock("light")


def test_a_spec_newer_than_its_lock_says_invoke_lock(checkout: Path) -> None:
    path = checkout / "specs" / "light.toml"
    path.write_text(path.read_text().replace('"1.23.5"', '"1.23.4"'))
    with pytest.raises(LockError, match=r"older than envs/specs/light.toml.*invoke lock"):
        lock.read_lock("light")


def test_a_comment_in_a_spec_does_not_age_its_lock(checkout: Path) -> None:
    path = checkout / "specs" / "light.toml"
    path.write_text("# a thought\n" + path.read_text())
    assert lock.read_lock("light").name == "light"


def test_a_missing_lock_says_how_to_make_it(checkout: Path) -> None:
    (checkout / "locks" / "light.lock.toml").unlink()
    with pytest.raises(LockError, match=r"has no lock.*invoke lock --env light"):
        lock.read_lock("light")


def test_an_unknown_environment_suggests_the_nearest(checkout: Path) -> None:
    with pytest.raises(WrongUse, match="sigmastar"):
        lock.read_lock("sigmastr")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[base]", "[base]\nsuit = 1", r"unknown key 'suit' in \[base\]; allowed: archive, image, packages, suite"),
        ("[export]", "[export]\nopse = 1", r"unknown key 'opse' in \[export\]; allowed: ir_version, opset, simplifier"),
        ('summary = "', 'sumary = "', r"unknown key 'sumary' at top level; allowed: .*summary"),
        ("opset = 13", 'opset = "x"', r"key 'export.opset'"),
        ('collection = "skimage"', 'colection = "skimage"', r"unknown key 'colection' in \[data\[1\]\]|missing"),
        ("[base]", "[base", r"not valid TOML: .*line"),
        ('numpy = "1.23.5"', 'numpy = ">=1.23"', r"numpy = '>=1.23' is not one exact version"),
        ('name = "light"', 'name = "heavy"', r"key 'name' is 'heavy'"),
        ('python = "3.10"', 'python = "three"', r"key 'python' is 'three'"),
    ],
)
def test_a_broken_spec_is_named_with_file_and_key(checkout: Path, old: str, new: str, said: str) -> None:
    path = checkout / "specs" / "light.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(SpecError, match=said) as caught:
        spec.load_spec("light")
    assert "light.toml" in str(caught.value)
    assert "\n" not in caught.value.message


def test_a_base_is_packages_or_an_archive_and_never_both(checkout: Path) -> None:
    path = checkout / "specs" / "light.toml"
    path.write_text(path.read_text().replace("[base]", '[base]\narchive = "base.tar"', 1))
    with pytest.raises(SpecError, match="exactly one of 'packages', 'archive' and 'image'"):
        spec.load_spec("light")
