"""Rules for archives inside: the same members in another order, with other times, or under another gzip header."""

from __future__ import annotations

import functools
import hashlib
import io
import tarfile
import zipfile
import zlib
from typing import Any

import msgspec

from envs.verify.evidence import Evidence, Rule

UNPACKED_BYTES = 64 << 20  # an archive that unpacks to more is not looked into
GZIP = b"\x1f\x8b"


class _Member(msgspec.Struct, frozen=True):
    name: str
    sha256: str
    time: Any
    rest: Any  # mode and owner


@functools.lru_cache(maxsize=4)
def _members(data: bytes) -> tuple[_Member, ...] | None:
    """The members of a zip or tar (gzip or not); None where it is neither, damaged, or too big."""
    try:
        if data.startswith(b"PK\x03\x04"):
            return _zip_members(data)
        plain = _gunzipped(data) if data.startswith(GZIP) else data
        return _tar_members(plain) if plain and plain[257:262] == b"ustar" else None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError):
        return None


def _zip_members(data: bytes) -> tuple[_Member, ...] | None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        listed = archive.infolist()
        if sum(one.file_size for one in listed) > UNPACKED_BYTES:
            return None
        return tuple(
            _Member(one.filename, hashlib.sha256(archive.read(one)).hexdigest(), one.date_time, one.external_attr)
            for one in listed
        )


def _tar_members(data: bytes) -> tuple[_Member, ...]:
    made = []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for info in archive:
            file = archive.extractfile(info) if info.isfile() else None
            content = file.read() if file else info.linkname.encode(errors="surrogateescape")
            rest = (info.type, info.mode, info.uid, info.gid, info.uname, info.gname)
            made.append(_Member(info.name, hashlib.sha256(content).hexdigest(), info.mtime, rest))
    return tuple(made)


def _gunzipped(data: bytes) -> bytes | None:
    inflate = zlib.decompressobj(31)
    plain = inflate.decompress(data, UNPACKED_BYTES)
    return plain if inflate.eof else None


def _both(e: Evidence) -> tuple[tuple[_Member, ...], tuple[_Member, ...]] | None:
    if e.what != "content" or e.left is None or e.right is None:
        return None
    left, right = _members(e.left), _members(e.right)
    return None if left is None or right is None else (left, right)


def _contents(members: tuple[_Member, ...]) -> list[tuple[str, str]]:
    return [(one.name, one.sha256) for one in members]


def _unsorted(e: Evidence) -> bool:
    pair = _both(e)
    if pair is None:
        return False
    left, right = map(_contents, pair)
    return left != right and sorted(left) == sorted(right)


def _times(e: Evidence) -> bool:
    pair = _both(e)
    return (
        pair is not None
        and _contents(pair[0]) == _contents(pair[1])
        and [one.time for one in pair[0]] != [one.time for one in pair[1]]
    )


def _owners(e: Evidence) -> bool:
    pair = _both(e)
    return (
        pair is not None
        and _contents(pair[0]) == _contents(pair[1])
        and [one.rest for one in pair[0]] != [one.rest for one in pair[1]]
    )


def _same_inside(e: Evidence) -> bool:
    if not (e.left and e.right and e.left.startswith(GZIP) and e.right.startswith(GZIP)):
        return False
    try:
        left, right = _gunzipped(e.left), _gunzipped(e.right)
    except zlib.error:
        return False
    return left is not None and left == right


def _header(data: bytes) -> bytes:
    """Flags, time, system and name of a gzip header; without the byte that only tells the compression level."""
    named = data[3] & 8 and not data[3] & 4
    return data[:8] + data[9:10] + (data[10:].partition(b"\0")[0] if named else b"")


def _gzip_header(e: Evidence) -> bool:
    return _same_inside(e) and _header(e.left or b"") != _header(e.right or b"")


ARCHIVE_RULES = (
    Rule("gzip header", "gzip wrote time or file name into its header; use `gzip -n` or mtime=0", _gzip_header),
    Rule(
        "compressor", "the same content by another compressor or level; compress with one pinned version", _same_inside
    ),
    Rule("unsorted archive", "its members came in the file system's order; sort them by name", _unsorted),
    Rule(
        "times of archive members", "its members carry the time of their making; set them to the lock's epoch", _times
    ),
    Rule("owners of archive members", "its members carry the builder's modes or owners; set them by rule", _owners),
)
