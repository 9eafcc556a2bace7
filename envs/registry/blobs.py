"""A registry's layers as they lie in the store: the tar inside each, streamed."""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard

from envs.errors import RegistryError
from envs.image_base import file_chunks
from envs.layers import Known

GZIP = zlib.MAX_WBITS | 16
GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
PIECE = 1 << 20  # bytes that one step of a decompressor gives at most
BOMB_BYTES, BOMB_RATIO = 1 << 30, 200  # a layer above both is refused


def unpacked(path: Path) -> Iterator[bytes]:
    """The tar in a layer: gzip (of several members too) or zstd is undone, a plain tar passes through.

    RegistryError where it is damaged or swells beyond reason.
    """
    magic = _magic(path)
    if magic.startswith(GZIP_MAGIC):
        return _checked(path, _gunzipped)
    if magic == ZSTD_MAGIC:
        return _checked(path, _unzstd)
    return file_chunks(path)


def is_packed(path: Path) -> bool:
    """Whether the tar in the layer is compressed."""
    magic = _magic(path)
    return magic.startswith(GZIP_MAGIC) or magic == ZSTD_MAGIC


def measured(path: Path) -> Known:
    """Digest and size of the tar in a layer."""
    digest, size = hashlib.sha256(), 0
    for block in unpacked(path):
        digest.update(block)
        size += len(block)
    return Known(f"sha256:{digest.hexdigest()}", size)


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _checked(path: Path, undo: Callable[[Path], Iterator[bytes]]) -> Iterator[bytes]:
    most, size = max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size), 0
    try:
        for block in undo(path):
            size += len(block)
            if size > most:
                raise RegistryError(
                    f"layer {path.parent.name[:12]}: swells to more than {most >> 20} MiB", "do not use this image"
                )
            if block:  # an empty piece would end a chunked transfer
                yield block
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        raise RegistryError(f"layer {path.parent.name[:12]}: damaged: {error}", "do not use this image") from error


def _gunzipped(path: Path) -> Iterator[bytes]:
    inflate = zlib.decompressobj(GZIP)
    for block in file_chunks(path):
        while block:
            if inflate.eof:  # another member, or the zeros that may follow the last
                if not (block := block.lstrip(b"\0")):
                    break
                inflate = zlib.decompressobj(GZIP)
            yield inflate.decompress(block, PIECE)
            block = inflate.unconsumed_tail or inflate.unused_data
    while rest := inflate.decompress(inflate.unconsumed_tail, PIECE):
        yield rest
    if not inflate.eof:
        raise EOFError("it ends too early")


def _unzstd(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        yield from iter(functools.partial(reader.read, PIECE), b"")
