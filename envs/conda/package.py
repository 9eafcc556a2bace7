"""A conda package file (`.conda` or `.tar.bz2`): unpacked into a folder, each member checked against its own list.

Everything in it is taken for hostile: names, links, sizes and kinds of members are checked before a byte is written,
and afterwards every file must be the one that `info/paths.json` names.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import msgspec
import zstandard

from envs.errors import BuildError
from envs.files import sha256_file

EXPANSION = 200  # a package may unpack to so many times its own size, and ...
ALLOWED_BYTES = 256 << 20  # ... to this on top: more is a decompression bomb
REMEDY = "do not use this package; lock another build of it"


class PathEntry(msgspec.Struct, frozen=True):
    """One path of a package, as `info/paths.json` has it; unknown keys are passed over."""

    path: str = msgspec.field(name="_path")
    path_type: Literal["hardlink", "softlink", "directory"] = "hardlink"
    sha256: str = ""
    size_in_bytes: int = 0
    prefix_placeholder: str = ""
    file_mode: Literal["text", "binary", ""] = ""


class _Paths(msgspec.Struct, frozen=True):
    paths: tuple[PathEntry, ...]


class Index(msgspec.Struct, frozen=True):
    """`info/index.json`: what the package says it is."""

    name: str
    version: str
    build: str
    build_number: int = 0
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    license: str = ""
    noarch: str | bool | None = None
    python_site_packages_path: str = ""


class _Noarch(msgspec.Struct, frozen=True):
    type: str = ""
    entry_points: tuple[str, ...] = ()


class _Link(msgspec.Struct, frozen=True):
    noarch: _Noarch = _Noarch()


class Unpacked(msgspec.Struct, frozen=True):
    """A package in a folder: what it is, its paths, and its console scripts (`name = module:function`)."""

    folder: Path
    index: Index
    paths: tuple[PathEntry, ...]
    entry_points: tuple[str, ...]

    @property
    def noarch_python(self) -> bool:
        """Whether its files go where the environment's Python keeps its own."""
        return self.index.noarch == "python"


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def unpack(archive: Path, folder: Path) -> Unpacked:
    """Unpack into the new `folder` and check it. BuildError names the package and the member that is wrong."""
    folder.mkdir(parents=True)
    limit = archive.stat().st_size * EXPANSION + ALLOWED_BYTES
    try:
        for stream in _streams(archive):
            _extract(archive.name, _Limited(stream, limit, archive.name), folder)
    except (tarfile.TarError, zipfile.BadZipFile, zstandard.ZstdError, OSError, EOFError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno:  # a full disk is no fault of the package
            raise
        raise BuildError(f"{archive.name}: can't be unpacked: {error}", REMEDY) from error
    unpacked = Unpacked(
        folder,
        _read(archive.name, folder / "info/index.json", Index),
        _read(archive.name, folder / "info/paths.json", _Paths).paths,
        _read(archive.name, folder / "info/link.json", _Link).noarch.entry_points
        if (folder / "info/link.json").is_file()
        else (),
    )
    _check(archive.name, unpacked)
    return unpacked


def _read(package: str, path: Path, kind: type[Any]) -> Any:
    name = path.relative_to(path.parents[1]).as_posix()
    if not path.is_file() or path.is_symlink():
        raise BuildError(f"{package}: has no {name}", f"it is too old or damaged: {REMEDY}")
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise BuildError(f"{package}: {name} can't be read: {error}", REMEDY) from error


def _streams(archive: Path) -> Iterator[_Readable]:
    """The tar streams of a package, metadata first."""
    if archive.name.endswith(".tar.bz2"):
        with bz2.open(archive) as stream:
            yield stream
        return
    stem = archive.name.removesuffix(".conda")
    with zipfile.ZipFile(archive) as whole:
        names = [f"info-{stem}.tar.zst", f"pkg-{stem}.tar.zst"]
        if missing := [name for name in names if name not in whole.namelist()]:
            raise BuildError(f"{archive.name}: has no member {missing[0]}", REMEDY)
        for name in names:
            with (
                whole.open(name) as packed,
                zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(
                    packed, read_across_frames=True
                ) as stream,
            ):
                yield stream


class _Limited(io.RawIOBase):
    """A stream that refuses to give more than `limit` bytes."""

    def __init__(self, stream: _Readable, limit: int, package: str) -> None:
        self._stream, self._left, self._package = stream, limit, package

    def read(self, size: int = -1) -> bytes:
        """The next bytes. BuildError where they are more than the package may hold."""
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise BuildError(f"{self._package}: unpacks to far more than a package does", REMEDY)
        return data


def _extract(package: str, stream: _Limited, folder: Path) -> None:
    links: set[str] = set()
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            name = _inside(package, member.name)
            if any(parent.as_posix() in links for parent in PurePosixPath(name).parents):
                raise BuildError(f"{package}: member {name!r} lies behind a link", REMEDY)
            target = folder / name
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            if os.path.lexists(target):
                raise BuildError(f"{package}: member {name!r} is there twice", REMEDY)
            target.parent.mkdir(parents=True, exist_ok=True)
            if member.issym():
                check_link(package, name, member.linkname)
                links.add(name)
                target.symlink_to(member.linkname)
            elif member.islnk():
                _copy_of(package, name, folder / _inside(package, member.linkname), target)
            elif member.isfile() and (content := tar.extractfile(member)):
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                target.chmod(0o755 if member.mode & 0o111 else 0o644)
            else:
                raise BuildError(f"{package}: member {name!r} is neither file, folder nor link", REMEDY)


def _copy_of(package: str, name: str, source: Path, target: Path) -> None:
    """A hard link of the archive: to a file before it, and nothing else."""
    if source.is_symlink() or not source.is_file():
        raise BuildError(f"{package}: member {name!r} is a hard link to no file of it", REMEDY)
    shutil.copyfile(source, target)
    target.chmod(source.stat().st_mode & 0o777)


def _inside(package: str, name: str) -> str:
    """The member's path in the package, normalised. BuildError where it would leave it."""
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise BuildError(f"{package}: member {name!r} would leave its folder", REMEDY)
    return PurePosixPath(name).as_posix()


def check_link(package: str, path: str, points_to: str) -> None:
    """BuildError where the text of the link at `path` is absolute or climbs out of the package."""
    pointed = os.path.normpath(PurePosixPath(path).parent / points_to)
    if points_to.startswith("/") or pointed == ".." or pointed.startswith("../"):
        raise BuildError(f"{package}: link {path!r} to {points_to!r} would leave its folder", REMEDY)


def _check(package: str, unpacked: Unpacked) -> None:
    """Exactly the listed paths are there, and their bytes are the listed ones."""
    listed: set[str] = set()
    for entry in unpacked.paths:
        path = _inside(package, entry.path)
        if path in listed or path.split("/")[0] == "info":
            raise BuildError(f"{package}: info/paths.json lists {path!r} twice, or inside info/", REMEDY)
        listed.add(path)
        there = unpacked.folder / path
        with contextlib.suppress(OSError):
            if entry.path_type == "directory" and there.is_dir() and not there.is_symlink():
                continue
            if entry.path_type == "softlink" and there.is_symlink():
                continue
            plain = there.is_file() and not there.is_symlink() and entry.path_type == "hardlink"
            if plain and entry.sha256 and sha256_file(there) == entry.sha256:
                continue
        raise BuildError(f"{package}: {path} is not what info/paths.json says of it", REMEDY)
    for there in unpacked.folder.rglob("*"):
        path = there.relative_to(unpacked.folder).as_posix()
        if path.split("/")[0] != "info" and path not in listed and (there.is_symlink() or not there.is_dir()):
            raise BuildError(f"{package}: {path} is not listed in info/paths.json", REMEDY)
