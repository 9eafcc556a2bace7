"""Read .deb archives in plain Python, as streams: no dpkg, no scripts run, no files written."""

from __future__ import annotations

import gzip
import importlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, Literal, cast

import msgspec

from envs.errors import BuildError
from envs.files import Section

_AGAIN = "remove it from the store and build again"

Kind = Literal["file", "dir", "symlink", "hardlink"]


class Member(msgspec.Struct, frozen=True):
    """One entry of a package: `path` is relative to the root, without a leading `./`."""

    path: str
    kind: Kind
    mode: int
    size: int = 0
    link: str = ""  # symlink: the text as packed; hardlink: the path of its first name


def control_paragraph(deb: Path) -> str:
    """The package's control file. BuildError names a package that can't be read."""
    for info, content in _tar_members(deb, "control.tar"):
        if info.name.removeprefix("./") == "control" and content is not None:
            return content.read().decode()
    raise BuildError(f"{deb.name}: no control file in this Debian package", "remove it from the store and build again")


def data_members(deb: Path) -> Iterator[tuple[Member, IO[bytes] | None]]:
    """The package's files in packed order; a file's content must be read before the next is asked for.

    BuildError names a package that can't be read, holds a device, or a path that leads out of the root.
    """
    for info, content in _tar_members(deb, "data.tar"):
        path = _inside(deb, info.name)
        mode = info.mode & 0o7777
        if info.isdir():
            yield Member(path, "dir", mode), None
        elif info.issym():
            yield Member(path, "symlink", 0o777, link=info.linkname), None
        elif info.islnk():
            yield Member(path, "hardlink", mode, link=_inside(deb, info.linkname)), None
        elif info.isreg():
            yield Member(path, "file", mode, info.size), content
        else:
            raise BuildError(f"{deb.name}: {path} is a device or pipe, which no base layer may hold")


def _inside(deb: Path, name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise BuildError(f"{deb.name}: the path {name!r} leads out of the package", "do not use this package")
    return "/".join(parts)


def _tar_members(deb: Path, stem: str) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    try:
        with deb.open("rb") as file:
            name, section = _ar_member(file, stem)
            with _decompressed(section, name, deb) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
                for info in tar:
                    yield info, tar.extractfile(info) if info.isreg() else None
                while plain.read(1 << 16):  # to the end, where xz and gzip keep their checksums
                    pass
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile, ValueError) as error:
        raise BuildError(f"{deb.name}: not a whole Debian package ({error})", _AGAIN) from error


def _ar_member(file: BinaryIO, stem: str) -> tuple[str, BinaryIO]:
    """Find a member by the start of its name. ValueError where the archive is not one."""
    if file.read(8) != b"!<arch>\n":
        raise ValueError("no ar archive")
    end = file.seek(0, io.SEEK_END)
    start = 8
    while start < end:
        file.seek(start)
        head = file.read(60)
        if len(head) < 60 or head[58:] != b"`\n":
            raise ValueError("truncated ar archive")
        name, size = head[:16].decode("ascii").strip().removesuffix("/"), int(head[48:58])
        if start + 60 + size > end:
            raise ValueError("truncated ar archive")
        if name.startswith(stem):
            return name, io.BufferedReader(Section(file, start + 60, size), 1 << 16)
        start += 60 + size + size % 2
    raise ValueError(f"no {stem}")


def _decompressed(section: BinaryIO, name: str, deb: Path) -> IO[bytes]:
    match name.rpartition(".")[2]:
        case "tar":
            return section
        case "xz":
            return lzma.open(section)
        case "gz":
            return cast(IO[bytes], gzip.open(section))
        case "zst":
            for module in ("compression.zstd", "zstandard", "backports.zstd"):
                try:
                    opened: IO[bytes] = importlib.import_module(module).open(section)
                except ImportError:
                    continue
                return opened
            raise BuildError(
                f"{deb.name}: packed with zstd, which this Python can't read",
                "install the Python package zstandard beside the tool, or use Python 3.14",
            )
    raise BuildError(f"{deb.name}: {name} is packed in a way this tool does not know")
