"""A bundle is the same bytes for the same contents, goes on where it was cut off, and finds every change."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import msgspec
import pytest
from bundling import Made, a_bundle, empty_checkout, sha256
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs.bundle import load
from envs.bundle.load import load_bundle
from envs.bundle.manifest import NAME, Member
from envs.bundle.read import find, open_bundle
from envs.errors import BuildError, CheckFailed, EdgekilnError, LockError, WrongUse
from envs.lock import to_text
from envs.native_package import kept_archive
from envs.progress import Silent

SILENT = Silent()
OFTEN = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # each example loads what the one before left: a store that is half there is the usual case


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return a_bundle(tmp_path / "made")


@pytest.fixture
def bundle(made: Made, tmp_path: Path) -> Path:
    return made.write(tmp_path / "tiny.tar")


@pytest.fixture
def here(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine before a load: an empty cache and a checkout without locks."""
    return empty_checkout(tmp_path / "checkout", monkeypatch)


def store_is_right(cache: Path) -> bool:
    """Every file of the store has the hash of its folder, and nothing else is left."""
    found = [path for path in (cache / "store").rglob("*") if path.is_file() and path.suffix != ".lock"]
    return all(sha256(path.read_bytes()) == path.parent.name for path in found)


# --- writing


def test_the_same_contents_give_the_same_bytes(made: Made, tmp_path: Path) -> None:
    first = made.write(tmp_path / "a.tar").read_bytes()
    for path in made.files.values():
        path.touch()
    assert a_bundle(tmp_path / "again").write(tmp_path / "b.tar").read_bytes() == first


def test_any_tar_reads_it(bundle: Path, made: Made, tmp_path: Path) -> None:
    with tarfile.open(bundle) as tar:
        assert tar.getnames() == [NAME, *(member.path for member in made.manifest.members)]
        for member in made.manifest.members:
            if not member.link:
                content = tar.extractfile(member.path)
                assert content is not None
                assert content.read() == made.files[member.path].read_bytes()
    subprocess.run(["tar", "xf", bundle, "tool"], cwd=tmp_path, check=True)
    assert (tmp_path / "tool/envs/contract.py").read_text() == "x = 1\n"
    assert (tmp_path / "tool/inv").stat().st_mode & 0o777 == 0o755


@given(share=st.floats(0, 1), broken=st.booleans())
@OFTEN
def test_an_interrupted_write_is_gone_on_with(bundle: Path, made: Made, share: float, broken: bool) -> None:
    whole = bundle.read_bytes()
    part = bundle.with_name("next.tar.part")
    kept = bytearray(whole[: int(share * len(whole))])
    if broken and kept:
        kept[len(kept) // 2] ^= 1
    part.write_bytes(kept)
    assert made.write(bundle.with_name("next.tar")).read_bytes() == whole
    assert not part.exists()


def test_what_an_interrupted_write_left_is_not_written_again(bundle: Path, made: Made) -> None:
    part = bundle.with_name("next.tar.part")
    shutil.copyfile(bundle, part)
    gone = made.files.copy()
    for path in gone.values():
        path.unlink()
    assert made.write(bundle.with_name("next.tar")).read_bytes() == bundle.read_bytes()


def test_a_source_that_rotted_in_the_store_is_not_bundled(made: Made, tmp_path: Path) -> None:
    path = made.files[made.member("source").path]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(BuildError, match=path.name):
        made.write(tmp_path / "bad.tar")
    assert not (tmp_path / "bad.tar").exists()


# --- loading


def test_a_load_brings_everything_to_its_place(bundle: Path, made: Made, here: Path, cache: Path) -> None:
    loaded = load_bundle(bundle, "local", SILENT)
    assert (loaded.lock, loaded.bundle_digest) == (made.lock, made.manifest.digest)
    for member in made.manifest.members:
        if member.kind == "source":
            assert (cache / "store" / member.path.removeprefix("sources/")).is_file()
    assert store_is_right(cache)
    (weights,) = cache.glob("data/*/hub/*.pth")
    assert weights.name == made.lock.hub[0].file
    assert (here / "locks/tiny.lock.toml").read_text() == to_text(made.lock)
    assert (here / "specs/tiny.toml").is_file()


def test_a_second_load_writes_nothing(bundle: Path, here: Path, cache: Path) -> None:
    assert load_bundle(bundle, "local", SILENT).new_bytes > 0
    before = {path: path.stat().st_ino for path in cache.rglob("*.whl")}
    assert load_bundle(bundle, "local", SILENT).new_bytes == 0
    assert before == {path: path.stat().st_ino for path in cache.rglob("*.whl")}


def test_kernels_are_kept_for_whoever_wants_them_first(made: Made, here: Path, tmp_path: Path, cache: Path) -> None:
    content, key = b"kernels" * 100, "5" * 64
    member = Member(path=f"kernels/{key}.tar", kind="kernels", sha256=sha256(content), bytes=len(content))
    load_bundle(made.replaced(None, member, content).write(tmp_path / "b.tar"), "local", SILENT)
    assert [(path, path.read_bytes()) for path in (cache / "native").iterdir()] == [(kept_archive(key), content)]


def test_a_bundle_of_the_first_format_is_still_read(made: Made, here: Path, tmp_path: Path, cache: Path) -> None:
    older = Made(msgspec.structs.replace(made.manifest, format=1), made.files, made.lock)
    assert load_bundle(older.write(tmp_path / "b.tar"), "local", SILENT).lock == made.lock


@pytest.mark.parametrize("number", range(1, 9))
def test_an_interrupted_load_is_gone_on_with(
    bundle: Path, made: Made, here: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real, calls = load.read_member, iter(range(100))

    def dying(bundle: object, file: object, place: object, advance: object, sink: object = None) -> None:
        if next(calls) == number:
            if sink:
                sink(b"half")  # type: ignore[operator]
            raise KeyboardInterrupt
        real(bundle, file, place, advance, *([sink] if sink else []))  # type: ignore[arg-type]

    monkeypatch.setattr(load, "read_member", dying)
    with pytest.raises(KeyboardInterrupt):
        load_bundle(bundle, "local", SILENT)
    assert store_is_right(cache)
    assert not (here / "locks/tiny.lock.toml").exists()
    monkeypatch.setattr(load, "read_member", real)
    load_bundle(bundle, "local", SILENT)
    assert len([path for path in (cache / "store").glob("*/*") if path.is_file()]) == 3


def test_another_lock_in_the_checkout_stops_it_before_anything_is_written(
    bundle: Path, here: Path, cache: Path
) -> None:
    (here / "locks/tiny.lock.toml").write_text('digest = "sha256:0"\n')
    with pytest.raises(LockError, match=r"another tiny than tiny.tar; use the tool inside it"):
        load_bundle(bundle, "local", SILENT)
    assert not (cache / "store").exists()
    assert (here / "locks/tiny.lock.toml").read_text() == 'digest = "sha256:0"\n'


def test_a_source_is_found_by_its_hash(bundle: Path, made: Made) -> None:
    wheel = made.lock.package[0]
    found = find(bundle, wheel.sha256)
    assert found is not None
    with found:
        assert sha256(found.read()) == wheel.sha256
    assert find(bundle, "0" * 64) is None


# --- tampering


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@OFTEN
def test_any_changed_bit_is_found(bundle: Path, here: Path, cache: Path, where: float, bit: int) -> None:
    content = bytearray(bundle.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    changed = bundle.with_name("changed.tar")
    changed.write_bytes(content)
    with pytest.raises(EdgekilnError, match=r"changed\.tar"):
        load_bundle(changed, "local", SILENT)
    assert store_is_right(cache)
    assert not (here / "locks/tiny.lock.toml").exists()


@given(share=st.floats(0, 1, exclude_max=True))
@OFTEN
def test_a_bundle_that_was_cut_off_is_refused(bundle: Path, here: Path, cache: Path, share: float) -> None:
    cut = bundle.with_name("cut.tar")
    cut.write_bytes(bundle.read_bytes()[: int(share * bundle.stat().st_size)])
    with pytest.raises(EdgekilnError, match=r"cut\.tar"):
        load_bundle(cut, "local", SILENT)
    assert not list((cache / "store").glob("*/*"))  # its structure is looked at before anything is taken


def test_a_changed_member_is_named(bundle: Path, made: Made, here: Path) -> None:
    for place in open_bundle(bundle).places[1:]:
        if place.member.bytes:
            content = bytearray(bundle.read_bytes())
            content[place.content] ^= 1
            changed = bundle.with_name("changed.tar")
            changed.write_bytes(content)
            with pytest.raises(CheckFailed, match=f"member {place.member.path} was changed"):
                load_bundle(changed, "local", SILENT)


def header_flags(bundle: Path, path: str, flag: bytes) -> Path:
    """The bundle with that member's type changed, under a checksum that is right."""
    place = open_bundle(bundle).place(path)
    content = bytearray(bundle.read_bytes())
    head = content[place.start : place.start + 512]
    head[156:157] = flag
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    content[place.start : place.start + 512] = head
    changed = bundle.with_name("flag.tar")
    changed.write_bytes(content)
    return changed


@pytest.mark.parametrize("flag", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_a_member_that_became_a_link_a_device_or_a_folder_is_refused(bundle: Path, here: Path, flag: bytes) -> None:
    with pytest.raises(CheckFailed, match="header of member tool/inv was changed"):
        load_bundle(header_flags(bundle, "tool/inv", flag), "local", SILENT)


def repacked(bundle: Path, drop: str = "", add: str = "", last: bool = False) -> Path:
    """The bundle as tar programs would change it."""
    target = bundle.with_name("repacked.tar")
    with tarfile.open(bundle) as old, tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as new:
        extra = tarfile.TarInfo(add)
        for info in old:
            if info.name == drop:
                continue
            info.devmajor = info.devminor = 0
            new.addfile(info, old.extractfile(info) if info.isreg() else None)
            if add and info.name == "tool/inv" and not last:
                new.addfile(extra, io.BytesIO())
        if last:
            new.addfile(extra, io.BytesIO())
    return target


def test_a_missing_member_is_named(bundle: Path, made: Made, here: Path) -> None:
    with pytest.raises(CheckFailed, match=r"member tool/pipelines/contract.py is missing"):
        load_bundle(repacked(bundle, drop="tool/pipelines/contract.py"), "local", SILENT)


@pytest.mark.parametrize("name", ["tool/extra", "/etc/passwd", "../../outside"])
def test_an_extra_member_is_named(bundle: Path, here: Path, name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=f"member '{name}' is not in the manifest"):
        load_bundle(repacked(bundle, add=name), "local", SILENT)


def test_a_member_or_anything_else_behind_the_last_is_found(bundle: Path, here: Path) -> None:
    with pytest.raises(CheckFailed, match="too many after the last member"):
        load_bundle(repacked(bundle, add="tool/extra", last=True), "local", SILENT)
    with bundle.open("ab") as file:
        file.write(b"more")
    with pytest.raises(CheckFailed, match="4 bytes too many"):
        load_bundle(bundle, "local", SILENT)


# --- whole bundles made by somebody who writes manifests too


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (Member(path="../outside", kind="tool", sha256="0" * 64), "would leave its folder"),
        (Member(path="tool/../../outside", kind="tool", sha256="0" * 64), "would leave its folder"),
        (Member(path="/etc/passwd", kind="tool", sha256="0" * 64), "would leave its folder"),
        (Member(path="tool/a\nb", kind="tool", sha256="0" * 64), "would leave its folder"),
        (Member(path="sources/x/y", kind="source", sha256="0" * 64), "wrong place for a source"),
        (Member(path=f"sources/{'1' * 64}/y", kind="source", sha256="0" * 64), "the sha256 that its path says"),
        (Member(path="tool/a", kind="tool", link="/etc/passwd"), "a link that leads out"),
        (Member(path="tool/a", kind="tool", link="../outside"), "a link that leads out"),
        (Member(path=f"sources/{'0' * 64}/y", kind="source", link="z"), "a link that leads out"),
        (Member(path="tool/a", kind="tool", link="inv", bytes=3), "a link with content"),
        (Member(path="tool/a", kind="tool"), "no sha256"),
        (Member(path="kernels/a.tar", kind="kernels", sha256="0" * 64), "wrong place for a kernels"),
        (Member(path=f"layers/{'0' * 64}.tar.zst", kind="layer", sha256="0" * 64), "in no image"),
    ],
)
def test_a_manifest_that_leads_out_is_refused(made: Made, here: Path, tmp_path: Path, member: Member, why: str) -> None:
    path = tmp_path / "bad.tar"
    content = made.replaced(None, member, b"").manifest.encode()
    info = tarfile.TarInfo(NAME)
    info.size = len(content)
    with tarfile.open(path, "w") as tar:
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(CheckFailed, match=why):
        load_bundle(path, "local", SILENT)


def test_a_source_that_the_lock_does_not_name_is_refused(made: Made, here: Path, tmp_path: Path) -> None:
    more = Member(path=f"sources/{sha256(b'x')}/x.whl", kind="source", sha256=sha256(b"x"), bytes=1)
    with pytest.raises(CheckFailed, match=r"x\.whl is nothing that the lock names"):
        load_bundle(made.replaced(None, more, b"x").write(tmp_path / "b.tar"), "local", SILENT)


def test_a_source_that_the_lock_needs_and_the_manifest_lacks_is_named(made: Made, here: Path, tmp_path: Path) -> None:
    for old in made.manifest.members:
        if old.kind == "source":
            with pytest.raises(CheckFailed, match=f"{old.path} is missing, the lock needs it"):
                load_bundle(made.replaced(old, None).write(tmp_path / "b.tar"), "local", SILENT)


def test_weights_that_the_lock_does_not_publish_are_refused(made: Made, here: Path, tmp_path: Path) -> None:
    old = made.member("weights")
    new = msgspec.structs.replace(old, sha256=sha256(b"other"), bytes=5)
    with pytest.raises(CheckFailed, match=r"weights/.* is not what the lock publishes"):
        load_bundle(made.replaced(old, new, b"other").write(tmp_path / "b.tar"), "local", SILENT)


def test_a_lock_that_was_edited_is_refused(made: Made, here: Path, tmp_path: Path) -> None:
    old = made.member("lock")
    edited = made.files[old.path].read_bytes().replace(b'python = "3.10.13"', b'python = "3.10.14"')
    new = msgspec.structs.replace(old, sha256=hashlib.sha256(edited).hexdigest(), bytes=len(edited))
    with pytest.raises(CheckFailed, match="the lock of tiny: its content does not match its digest"):
        load_bundle(made.replaced(old, new, edited).write(tmp_path / "b.tar"), "local", SILENT)


def test_a_newer_format_says_where_the_tool_for_it_is(made: Made, here: Path, tmp_path: Path) -> None:
    newer = msgspec.structs.replace(made.manifest, format=99)
    path = Made(newer, made.files, made.lock).write(tmp_path / "newer.tar")
    with pytest.raises(WrongUse, match=r"format 99, this tool reads 1 to 2; use the tool inside it"):
        load_bundle(path, "local", SILENT)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\0" * 4096, b"\x1f\x8b" + b"x" * 2000])
def test_what_is_no_bundle_is_said_to_be_none(here: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "page.tar").write_bytes(content)
    with pytest.raises(WrongUse, match="not a bundle"):
        load_bundle(tmp_path / "page.tar", "local", SILENT)
    with pytest.raises(WrongUse, match="no such file"):
        load_bundle(tmp_path / "absent.tar", "local", SILENT)
