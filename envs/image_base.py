"""The base layer: locked Debian packages unpacked into one deterministic tar, as distroless images are made.

No root, no dpkg, no maintainer scripts. What those scripts would have made and an environment needs is made
by the rules below. There is no ld.so.cache: it only speeds up what the loader finds anyway, since /usr/lib
and its multiarch folder are built into Debian's loader, and it would be one more thing to keep the same.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO

import msgspec

from envs.debian_deb import Kind, control_paragraph, data_members
from envs.engines.base import ROOT_UID
from envs.errors import BuildError, LockError
from envs.files import sha256_file
from envs.image_tar import Entry, tar_stream
from envs.layers import Known, Layer, known_path, recall, remember
from envs.lock import LockedDeb

BASE_VERSION = 2  # part of the key: raise it when the rules change

KEPT = ("usr/share/doc/*/copyright",)
LEFT_OUT = (
    "usr/share/doc/*",
    "usr/share/man/*",
    "usr/share/locale/*",
    "usr/share/info/*",
    "usr/share/lintian/*",
    "usr/share/zoneinfo/*",
    "usr/share/bug/*",
    "usr/share/doc-base/*",
    "usr/share/menu/*",
    "usr/share/bash-completion/*",
)
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # they are links into usr/

# Made where no package ships them and their source is there: target -> what the maintainer script copies.
COPIED = {
    "etc/passwd": "usr/share/base-passwd/passwd.master",
    "etc/group": "usr/share/base-passwd/group.master",
    "etc/nsswitch.conf": "usr/share/libc-bin/nsswitch.conf",
}
LINKED = {"usr/bin/sh": "dash", "usr/bin/awk": "mawk"}
ADDED = {
    "etc/passwd": f"kiln:x:{ROOT_UID}:{ROOT_UID}:kiln:/tmp:/bin/bash\n",
    "etc/group": f"kiln:x:{ROOT_UID}:\n",
}
FOLDERS = {"tmp": 0o1777, "var/tmp": 0o1777, "run": 0o755, "proc": 0o755, "sys": 0o755, "dev": 0o755}


class BaseImage(msgspec.Struct, frozen=True):
    """A base as an image takes it: its layers, and one line that says what it is."""

    layers: tuple[Layer, ...]
    description: str


def debian_base(debs: Sequence[LockedDeb], suite: str, epoch: int, path_of: Callable[[LockedDeb], Path]) -> BaseImage:
    """The base of these packages. `path_of` gives a package's file; not called where the layer is there."""
    if not debs:
        raise LockError("the lock names no Debian packages for the base", "make it again with `invoke lock`")
    path, known = base_tar(debs, epoch, path_of)
    comment = f"{len(debs)} packages of Debian {suite}"
    layer = Layer("base", comment, known, path, functools.partial(file_chunks, path))
    return BaseImage((layer,), comment)


def base_tar(debs: Sequence[LockedDeb], epoch: int, path_of: Callable[[LockedDeb], Path]) -> tuple[Path, Known]:
    """The layer's tar in the cache and its digest, made there unless it is there."""
    key = base_key(debs, epoch)
    path = known_path(key).with_suffix(".tar")
    known = recall(key)
    if known and path.exists() and path.stat().st_size == known.bytes:
        return path, known
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".base.") as work:
        made = Path(work) / "base.tar"
        with (Path(work) / "contents").open("w+b") as spool, made.open("wb") as out:
            digest = hashlib.sha256()
            for chunk in _pack(debs, epoch, path_of, spool):
                digest.update(chunk)
                out.write(chunk)
        known = Known(f"sha256:{digest.hexdigest()}", made.stat().st_size)
        remember(key, known)
        made.chmod(0o644)
        made.replace(path)
    return path, known


def base_key(debs: Sequence[LockedDeb], epoch: int) -> str:
    """What the base's bytes follow from."""
    hashes = "\n".join(sorted(deb.sha256 for deb in debs))
    return hashlib.sha256(f"base {BASE_VERSION} {epoch}\n{hashes}".encode()).hexdigest()


def file_chunks(path: Path) -> Iterator[bytes]:
    """A file's bytes in pieces of a MiB."""
    with path.open("rb") as file:
        yield from iter(functools.partial(file.read, 1 << 20), b"")


class _Tree:
    """The root as it grows: entries by path, and where in the spool file their contents lie."""

    def __init__(self, spool: BinaryIO) -> None:
        self.entries: dict[str, Entry] = {}
        self._from: dict[str, str] = {}
        self._spool = spool
        self._start: dict[str, int] = {}

    def add(self, entry: Entry, package: str, content: IO[bytes] | None = None) -> None:
        """BuildError where another package has that path already, unless both say it is a folder."""
        old = self.entries.get(entry.path)
        if old is not None:
            if old.kind == entry.kind == "dir":
                return
            raise BuildError(
                f"the Debian packages {self._from[entry.path]} and {package} both hold /{entry.path}",
                "leave one of them out of base.packages in the spec",
            )
        self.entries[entry.path] = entry
        self._from[entry.path] = package
        if content is not None:
            self._start[entry.path] = self._spool.tell()
            shutil.copyfileobj(content, self._spool, 1 << 20)

    def write(self, path: str, text: bytes) -> None:
        """A file made by rule."""
        self.add(Entry(path, "file", 0o644, len(text)), "(rule)", io.BytesIO(text))

    def alias(self, path: str, first: str, package: str) -> None:
        """A hard link as a file of its own."""
        target = self.entries.get(first)
        if target is None or target.kind != "file":
            raise BuildError(f"{package}: /{path} is a hard link to {first}, which it does not hold")
        self.add(msgspec.structs.replace(target, path=path), package)
        self._start[path] = self._start[first]

    def content(self, entry: Entry) -> BinaryIO:
        self._spool.seek(self._start[entry.path])
        return io.BytesIO(self._spool.read(entry.size))

    def text(self, path: str) -> bytes:
        place = self._spool.tell()
        try:
            return self.content(self.entries[path]).read()
        finally:
            self._spool.seek(place)

    def close(self) -> None:
        """Add the folders that no package names, and refuse a file below something that is no folder."""
        for path in sorted(self.entries):
            for above in (str(folder) for folder in Path(path).parents if folder != Path()):
                entry = self.entries.setdefault(above, Entry(above, "dir", 0o755))
                if entry.kind != "dir":
                    raise BuildError(
                        f"{self._from[path]}: /{path} lies below /{above}, which is no folder",
                        "leave the package out of base.packages in the spec",
                    )


def _pack(
    debs: Sequence[LockedDeb], epoch: int, path_of: Callable[[LockedDeb], Path], spool: BinaryIO
) -> Iterator[bytes]:
    tree = _Tree(spool)
    for deb in sorted(debs, key=lambda deb: deb.name):
        path = path_of(deb)
        if sha256_file(path) != deb.sha256:
            raise BuildError(f"{path.name}: not the file that the lock names", "remove it and build again")
        _unpack(tree, deb.name, path)
        tree.write(f"var/lib/dpkg/status.d/{deb.name}", control_paragraph(path).encode())
    _apply_rules(tree)
    tree.close()
    return tar_stream(tree.entries.values(), epoch, tree.content)


def _unpack(tree: _Tree, package: str, path: Path) -> None:
    for member, content in data_members(path):
        place = _merged(member.path)
        if place == "" or member.path in MERGED or _is_left_out(place, member.kind):
            continue  # the root and the merged folders (links since Debian 13) are made by rule
        if member.kind == "hardlink":
            tree.alias(place, _merged(member.link), package)
        else:
            tree.add(Entry(place, member.kind, member.mode, member.size, member.link), package, content)


def _merged(path: str) -> str:
    return f"usr/{path}" if path.split("/", 1)[0] in MERGED else path


def _is_left_out(path: str, kind: Kind) -> bool:
    if any(fnmatch.fnmatchcase(path, pattern) for pattern in KEPT):
        return False
    if kind == "symlink" and str(Path(path).parent) == "usr/share/doc":
        return False  # it leads to another package's copyright
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in LEFT_OUT)


def _apply_rules(tree: _Tree) -> None:
    for target, source in COPIED.items():
        if source in tree.entries and target not in tree.entries:
            tree.write(target, tree.text(source) + ADDED.get(target, "").encode())
    for link, target in LINKED.items():
        if link not in tree.entries and str(Path(link).with_name(target)) in tree.entries:
            tree.add(Entry(link, "symlink", 0o777, link=target), "(rule)")
    for folder, mode in FOLDERS.items():
        tree.entries.setdefault(folder, Entry(folder, "dir", mode))
    for name in MERGED:
        if any(path.startswith(f"usr/{name}/") for path in tree.entries):
            tree.add(Entry(name, "symlink", 0o777, link=f"usr/{name}"), "(rule)")
