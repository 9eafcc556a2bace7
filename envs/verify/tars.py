"""Tar streams -> facts about their files, in one pass and bounded memory; contents are hashed, few are kept."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import msgspec
import zstandard

from envs.errors import CheckFailed
from envs.progress import Bar
from envs.verify.records import FileFact, FileKind

KEPT_BYTES = 4 << 20  # a content above this is hashed only
BLOCK = 1 << 20
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
GZIP_WINDOW = 31  # zlib's word for "with a gzip header"
XATTR_PREFIXES = ("SCHILY.xattr.", "LIBARCHIVE.xattr.", "RHT.security.")
KINDS: dict[bytes, FileKind] = {
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hardlink",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "fifo",
}
Keep = Callable[[FileFact], bool]


class ReadLayer(msgspec.Struct, frozen=True):
    """One layer: the sha256 of its uncompressed tar, its members in their order, and the contents that were kept."""

    diff_id: str
    members: tuple[FileFact, ...] = ()
    contents: dict[str, bytes] = {}


def keep_nothing(_: FileFact) -> bool:
    """The usual `keep`: hashes are enough."""
    return False


def readable(chunks: Iterable[bytes]) -> IO[bytes]:
    """A stream of chunks as a file that is read once, forwards."""
    return io.BufferedReader(_Chunks(iter(chunks)), BLOCK)


def watched(chunks: Iterable[bytes], bar: Bar) -> Iterator[bytes]:
    """The same chunks, counted on a bar."""
    for chunk in chunks:
        yield chunk
        bar.advance(len(chunk))


def read_layer(file: IO[bytes], name: str, *, facts: bool, keep: Keep = keep_nothing) -> ReadLayer:
    """Read a layer to its end, plain or compressed. Without `facts` only its digest is found.

    CheckFailed where the bytes are no tar, or end too early.
    """
    try:
        plain = _Hashed(_unpacked(file))
        members: tuple[FileFact, ...] = ()
        contents: dict[str, bytes] = {}
        if facts:
            members = tuple(_members(plain, contents, keep))
        while plain.read(BLOCK):
            pass
    except (tarfile.TarError, zlib.error, zstandard.ZstdError, EOFError) as error:
        raise CheckFailed(
            f"{name} can't be read: {error}", "its bytes are damaged: build, pull or write it again"
        ) from error
    return ReadLayer(f"sha256:{plain.digest.hexdigest()}", members, contents)


def _members(plain: _Hashed, contents: dict[str, bytes], keep: Keep) -> Iterator[FileFact]:
    with tarfile.open(fileobj=plain, mode="r|", bufsize=BLOCK) as tar:  # type: ignore[call-overload]
        for info in tar:
            tar.members.clear()  # tarfile remembers every member otherwise
            path = clean(info.name)
            if not path:
                continue
            fact = _fact(path, info)
            if fact.kind == "file":
                content = tar.extractfile(info)
                assert content is not None
                sha256, kept = _hash(content, info.size <= KEPT_BYTES)
                fact = msgspec.structs.replace(fact, sha256=sha256)
                if kept is not None and keep(fact):
                    contents[path] = kept
            yield fact


def clean(path: str) -> str:
    """A member's name as a path below the root; "" for the root itself."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _fact(path: str, info: tarfile.TarInfo) -> FileFact:
    kind = KINDS.get(info.type, "file")
    xattrs = sorted(
        (key.removeprefix("SCHILY.xattr.").removeprefix("LIBARCHIVE.xattr."), str(value))
        for key, value in info.pax_headers.items()
        if key.startswith(XATTR_PREFIXES)
    )
    return FileFact(
        path=path,
        kind=kind,
        mode=info.mode & 0o7777,
        uid=info.uid,
        gid=info.gid,
        size=info.size if kind == "file" else 0,
        mtime=info.mtime,
        link=clean(info.linkname)
        if kind == "hardlink"
        else info.linkname
        if kind == "symlink"
        else _device(info, kind),
        xattrs=tuple(xattrs),
        owner=f"{info.uname}:{info.gname}" if info.uname or info.gname else "",
    )


def _device(info: tarfile.TarInfo, kind: FileKind) -> str:
    return f"{info.devmajor}:{info.devminor}" if kind == "device" else ""


def _hash(content: IO[bytes], small: bool) -> tuple[str, bytes | None]:
    if small:
        data = content.read()
        return hashlib.sha256(data).hexdigest(), data
    digest = hashlib.sha256()
    while block := content.read(BLOCK):
        digest.update(block)
    return digest.hexdigest(), None


class _Hashed:
    """A reader that hashes what passes through it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.digest = hashlib.sha256()
        self._file = readable(chunks)

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


class _Chunks(io.RawIOBase):
    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            try:
                self._left = memoryview(next(self._chunks))
            except StopIteration:
                return 0
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _unpacked(file: IO[bytes]) -> Iterator[bytes]:
    """The plain tar: gzip and zstd are undone, told by their first bytes."""
    first = file.read(BLOCK)
    if first.startswith(GZIP):
        yield from _gunzipped(first, file)
    elif first.startswith(ZSTD):
        inflate = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)
        while first:
            yield inflate.decompress(first)
            first = file.read(BLOCK)
    else:
        while first:
            yield first
            first = file.read(BLOCK)


def _gunzipped(data: bytes, file: IO[bytes]) -> Iterator[bytes]:
    """All gzip members, at most a MiB at a time: a bomb passes through and fills nothing."""
    inflate = zlib.decompressobj(GZIP_WINDOW)
    while data:
        yield inflate.decompress(data, BLOCK)
        if inflate.eof:
            data = inflate.unused_data or file.read(BLOCK)
            inflate = zlib.decompressobj(GZIP_WINDOW)
        else:
            data = inflate.unconsumed_tail or file.read(BLOCK)
            if not data:
                raise EOFError("it ends inside a gzip stream")
