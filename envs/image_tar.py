"""Tar streams whose bytes and size follow from their entries alone.

Headers are written here: tarfile's moved between Python versions, and a layer's digest may not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Literal

import msgspec

from envs.errors import BuildError

_CHUNK = 1 << 20
_BLOCK = 512


class Entry(msgspec.Struct, frozen=True):
    """One tar entry: `path` has no leading slash, `link` is a symlink's text."""

    path: str
    kind: Literal["file", "dir", "symlink"]
    mode: int
    size: int = 0
    link: str = ""


def tar_size(entries: Iterable[Entry]) -> int:
    """Exact number of bytes that `tar_stream` will give."""
    sizes = (len(tar_header(entry, 0)) + entry.size + -entry.size % _BLOCK for entry in entries)
    return sum(sizes) + len(tar_end())


def tar_stream(entries: Iterable[Entry], epoch: int, content: Callable[[Entry], BinaryIO]) -> Iterator[bytes]:
    """The entries, in the order of their bytes, as one tar in chunks of about a MiB."""
    return _gathered(_tar_pieces(entries, epoch, content))


def tar_header(entry: Entry, epoch: int) -> bytes:
    """The header block, with a PAX block before it where a name or size needs one."""
    name = os.fsencode(entry.path) + (b"/" if entry.kind == "dir" else b"")
    link = os.fsencode(entry.link)
    prefix, short = _split_name(name)
    records = b""
    if not short:
        records += _pax_record(b"path", name)
        short = name[:100]
    if len(link) > 100:
        records += _pax_record(b"linkpath", link)
    if entry.size >= 8**11:
        records += _pax_record(b"size", str(entry.size).encode())
    flag = {"file": b"0", "dir": b"5", "symlink": b"2"}[entry.kind]
    block = _block(short, prefix, flag, entry.mode, entry.size % 8**11, link[:100], epoch)
    if not records:
        return block
    return _block(b"pax", b"", b"x", 0o644, len(records), b"", epoch) + records + tar_padding(len(records)) + block


def tar_padding(size: int) -> bytes:
    """What follows a content of that size up to the next block."""
    return bytes(-size % _BLOCK)


def tar_end() -> bytes:
    """What closes an archive."""
    return bytes(2 * _BLOCK)


def _tar_pieces(entries: Iterable[Entry], epoch: int, content: Callable[[Entry], BinaryIO]) -> Iterator[bytes]:
    for entry in sorted(entries, key=lambda entry: os.fsencode(entry.path)):
        yield tar_header(entry, epoch)
        if entry.kind != "file":
            continue
        left = entry.size
        try:
            with content(entry) as file:
                while left and (data := file.read(min(_CHUNK, left))):
                    left -= len(data)
                    yield data
        except OSError as error:  # a network client would take it for a fault of the connection
            raise BuildError(f"{entry.path}: can't be read: {error.strerror}") from error
        if left:
            raise BuildError(f"{entry.path}: became shorter while it was packed", "build again")
        yield tar_padding(entry.size)
    yield tar_end()


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        if len(buffer) >= _CHUNK:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


def _block(name: bytes, prefix: bytes, flag: bytes, mode: int, size: int, link: bytes, epoch: int) -> bytes:
    fields = (
        name.ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"0000000\0" * 2,  # owner and group
        b"%011o\0" % size,
        b"%011o\0" % epoch,
        b" " * 8,  # the checksum counts itself as spaces
        flag,
        link.ljust(100, b"\0"),
        b"ustar\x0000",
        bytes(32 + 32 + 8 + 8),  # owner's and group's name, device
        prefix.ljust(155, b"\0"),
        bytes(12),
    )
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _split_name(name: bytes) -> tuple[bytes, bytes]:
    """Prefix and name as ustar splits them; an empty name where it does not fit."""
    if len(name) <= 100:
        return b"", name
    cut = name.find(b"/", len(name) - 101)
    if 0 < cut <= 155 and cut < len(name) - 1:
        return name[:cut], name[cut + 1 :]
    return b"", b""


def _pax_record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(str(length)) + len(rest) != length:  # the number counts its own digits
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest
