"""Open a bundle and check it: its manifest, then every byte against it. A member that does not fit is named."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from envs.bundle.manifest import AGAIN, LARGEST_BYTES, NAME, Manifest, Place, decode, places, total_bytes
from envs.errors import CheckFailed, WrongUse
from envs.files import Section
from envs.image_tar import tar_end, tar_padding

BLOCK = 1 << 20


class Bundle(msgspec.Struct, frozen=True):
    """A bundle whose manifest holds; its members are not read yet."""

    path: Path
    manifest: Manifest
    places: tuple[Place, ...]  # the manifest's own first

    def place(self, path: str) -> Place:
        """Of the member of that path. CheckFailed where there is none."""
        for place in self.places:
            if place.member.path == path:
                return place
        raise CheckFailed(f"{self.path.name}: member {path} is missing", AGAIN)


def open_bundle(path: Path) -> Bundle:
    """Read the manifest of a bundle. WrongUse where the file is none, CheckFailed where it was changed."""
    if not path.is_file():
        raise WrongUse(f"{path}: no such file", "name a file that `invoke bundle` wrote")
    with path.open("rb") as file:
        content = _manifest_bytes(file, path)
    manifest = decode(content, path.name)
    return Bundle(path, manifest, tuple(places(manifest, content)))


def _manifest_bytes(file: BinaryIO, path: Path) -> bytes:
    try:
        info = tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "strict")
    except (tarfile.TarError, UnicodeDecodeError) as error:
        raise WrongUse(f"{path}: not a bundle, or its first bytes were changed ({error})", AGAIN) from error
    if info.name != NAME or not info.isreg() or info.size > LARGEST_BYTES:
        raise WrongUse(f"{path}: not a bundle: it does not begin with {NAME}", "name a file that `invoke bundle` wrote")
    content = file.read(info.size)
    if len(content) < info.size:
        raise CheckFailed(f"{path.name}: cut off inside {NAME}", AGAIN)
    return content


def check_structure(bundle: Bundle, file: BinaryIO) -> None:
    """All headers, and the file's end: finds members that were added, dropped, moved or turned into something else."""
    size, wanted = bundle.path.stat().st_size, total_bytes(list(bundle.places))
    for place in bundle.places:
        if place.end > size:
            raise CheckFailed(
                f"{bundle.path.name}: cut off inside member {place.member.path} ({size} of {wanted} bytes are there)",
                AGAIN,
            )
        check_header(bundle, file, place)
    if size != wanted:
        what = f"{size - wanted} bytes too many after the last member" if size > wanted else "cut off at its end"
        raise CheckFailed(f"{bundle.path.name}: {what}", AGAIN)
    file.seek(bundle.places[-1].end)
    if file.read() != tar_end():
        raise CheckFailed(f"{bundle.path.name}: there is more after the last member", AGAIN)


def check_header(bundle: Bundle, file: BinaryIO, place: Place) -> None:
    """The header block of a member, byte by byte."""
    file.seek(place.start)
    seen = file.read(len(place.header))
    if seen == place.header:
        return
    known = {other.member.path for other in bundle.places}
    found = _name_in(seen)
    if not found or found == place.member.path:
        why = f"the header of member {place.member.path} was changed"
    elif found in known:
        why = f"member {place.member.path} is missing, {found} comes in its place"
    else:
        why = f"member {found!r} is not in the manifest, it stands where {place.member.path} should be"
    raise CheckFailed(f"{bundle.path.name}: {why}", AGAIN)


def _name_in(header: bytes) -> str:
    try:
        return tarfile.TarInfo.frombuf(header[-tarfile.BLOCKSIZE :], "utf-8", "replace").name
    except tarfile.TarError:
        return ""


def read_member(
    bundle: Bundle,
    file: BinaryIO,
    place: Place,
    advance: Callable[[int], None],
    sink: Callable[[bytes], object] = lambda _: None,
) -> None:
    """Pass a member's content to `sink`, block by block. CheckFailed, at its end, where it is not what was promised."""
    member, digest, left = place.member, hashlib.sha256(), place.member.bytes
    file.seek(place.content)
    while left and (block := file.read(min(BLOCK, left))):
        digest.update(block)
        sink(block)
        advance(len(block))
        left -= len(block)
    if left:
        raise CheckFailed(f"{bundle.path.name}: cut off inside member {member.path}", AGAIN)
    if not member.link and digest.hexdigest() != member.sha256:
        raise CheckFailed(f"{bundle.path.name}: member {member.path} was changed: its sha256 differs", AGAIN)
    padding = tar_padding(member.bytes)
    if file.read(len(padding)) != padding:
        raise CheckFailed(f"{bundle.path.name}: member {member.path} is followed by bytes that don't belong", AGAIN)


def member_bytes(bundle: Bundle, path: str) -> bytes:
    """A small member, whole and checked."""
    blocks: list[bytes] = []
    with bundle.path.open("rb") as file:
        place = bundle.place(path)
        check_header(bundle, file, place)
        read_member(bundle, file, place, lambda _: None, blocks.append)
    return b"".join(blocks)


def open_member(bundle: Bundle, place: Place) -> BinaryIO:
    """A member's content as a file of its own, unchecked; closing it closes the bundle."""
    return Section.of(bundle.path, place.content, place.member.bytes)


def find(bundle: Path, sha256: str) -> BinaryIO | None:
    """The source of that hash in a bundle, or None. The caller checks the bytes, as it does with any source's.

    WrongUse or CheckFailed where the file is no bundle or its manifest was changed.
    """
    opened = open_bundle(bundle)
    for place in opened.places[1:]:
        if place.member.kind in ("source", "wheel") and place.member.sha256 == sha256:
            return open_member(opened, place)
    return None
