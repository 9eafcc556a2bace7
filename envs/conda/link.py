"""Conda packages into a prefix, without any conda program: the same files whatever this machine is.

A package's placeholder becomes the prefix that the image has (`/opt/edgekiln`), so the bytes do not know where
they were made. No script of a package is ever run. `conda-meta/` says what is there, without a host or a clock.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import msgspec

from envs.conda.package import Index, PathEntry, Unpacked, check_link, unpack
from envs.errors import BuildError
from envs.files import sha256_file, write_atomic
from envs.finish import INSTALLER_LEFTOVERS
from envs.interpreter import PREFIX
from envs.lock import LockedConda
from envs.progress import Progress


class Linked(msgspec.Struct, frozen=True):
    """A file of the prefix: its path there, its package, and what was written."""

    path: str
    package: str
    content: str  # sha256 of a file's bytes, or `-> TEXT` of a link
    executable: bool = False


class Prefix:
    """A prefix that packages are linked into, one after the other."""

    def __init__(self, root: Path, python: str) -> None:
        self.root = root
        self.python = python  # 3.10
        self.linked: dict[str, Linked] = {}
        self.indexes: dict[str, Index] = {}  # by package file
        self._folders: set[str] = set()

    @property
    def site(self) -> str:
        """site-packages, relative to the prefix."""
        return f"lib/python{self.python}/site-packages"

    def add(self, unpacked: Unpacked, package: str) -> None:
        """Move the package's files to their places. BuildError where another package has put something else there."""
        self.indexes[package] = unpacked.index
        for entry in unpacked.paths:
            source = unpacked.folder / entry.path
            path = self.place(entry.path, unpacked.noarch_python)
            if "__pycache__" in path.split("/") or _leftover(path):
                continue
            if entry.path_type == "directory":
                self._claim_folders(f"{path}/.", package)
                (self.root / path).mkdir(parents=True, exist_ok=True)
                continue
            if source.is_symlink():
                text = str(source.readlink())
                check_link(package, path, text)
                self._take(Linked(path, package, f"-> {text}"), source)
                continue
            _replace_placeholder(source, entry, package)
            executable = bool(source.stat().st_mode & 0o100)
            source.chmod(0o755 if executable else 0o644)
            self._take(Linked(path, package, sha256_file(source), executable), source)
        for line in unpacked.entry_points if unpacked.noarch_python else ():
            self._add_entry_point(line, package, unpacked.folder)

    def place(self, path: str, noarch_python: bool) -> str:
        """Where a path of a package goes in the prefix."""
        first, _, rest = PurePosixPath(path).as_posix().partition("/")
        if noarch_python and rest and first == "site-packages":
            return f"{self.site}/{rest}"
        if noarch_python and rest and first == "python-scripts":
            return f"bin/{rest}"
        return f"{first}/{rest}" if rest else first

    def check_links(self) -> None:
        """No chain of links leaves the prefix. Called when all packages are in."""
        root = self.root.resolve()
        for one in self.linked.values():
            if one.content.startswith("-> ") and not (self.root / one.path).resolve().is_relative_to(root):
                raise BuildError(f"{one.package}: link {one.path!r} leaves the prefix by way of other links")

    def _take(self, new: Linked, source: Path) -> None:
        target = self.root / new.path
        if old := self.linked.get(new.path):
            if old.content == new.content:
                return  # the same bytes twice do no harm
            raise BuildError(
                f"{new.package}: {new.path} is also in {old.package}, with other content",
                "lock versions that do not clobber each other",
            )
        if new.path in self._folders or os.path.lexists(target):
            raise BuildError(f"{new.package}: {new.path} is a folder of another package")
        self._claim_folders(new.path, new.package)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        self.linked[new.path] = new

    def _claim_folders(self, path: str, package: str) -> None:
        for parent in PurePosixPath(path).parents:
            if blocking := self.linked.get(parent.as_posix()):
                raise BuildError(f"{package}: {path} lies behind {blocking.path}, a file or link of {blocking.package}")
            self._folders.add(parent.as_posix())

    def _add_entry_point(self, line: str, package: str, work: Path) -> None:
        found = re.fullmatch(r"([\w.-]+)\s*=\s*([\w.]+):([\w.]+)\s*(?:\[.*\])?", line.strip())
        if not found:
            raise BuildError(f"{package}: entry point {line!r} can't be read")
        name, module, function = found.groups()
        text = (
            f"#!{PREFIX}/bin/python{self.python}\nimport sys\n\nfrom {module} import {function.split('.')[0]}\n\n"
            f'if __name__ == "__main__":\n    sys.exit({function}())\n'
        )
        made = work / ".entry-point"
        made.write_text(text, "utf-8")
        made.chmod(0o755)
        self._take(Linked(f"bin/{name}", package, sha256_file(made), True), made)


def _leftover(path: str) -> bool:
    """What finish.py takes out of every `.dist-info`: never put in, so that conda-meta/ stays true."""
    parts = path.split("/")
    return len(parts) > 1 and parts[-2].endswith(".dist-info") and parts[-1] in INSTALLER_LEFTOVERS


def _replace_placeholder(file: Path, entry: PathEntry, package: str) -> None:
    if not entry.prefix_placeholder:
        return
    old, new = entry.prefix_placeholder.encode(), PREFIX.encode()
    content = file.read_bytes()
    replaced = in_binary(content, old, new) if entry.file_mode == "binary" else content.replace(old, new)
    if replaced is None:
        raise BuildError(f"{package}: {entry.path}: the prefix {PREFIX} is longer than the package has room for")
    file.write_bytes(replaced)


def in_binary(content: bytes, old: bytes, new: bytes) -> bytes | None:
    """`old` replaced in NUL-terminated strings, each padded with NULs to its old length; None where `new` is longer."""
    if len(new) > len(old):
        return None

    def one(found: re.Match[bytes]) -> bytes:
        return found[0].replace(old, new).ljust(len(found[0]), b"\0")

    return re.sub(re.escape(old) + rb"[^\0]*\0", one, content)


def link_all(packages: Iterable[tuple[LockedConda, Path]], root: Path, python: str, progress: Progress) -> Prefix:
    """Link the packages into `root` in the order of their names.

    BuildError names the package that is not what it says, or that clobbers another.
    """
    prefix = Prefix(root, python)
    work = root.with_name(root.name + ".unpacked")
    shutil.rmtree(work, ignore_errors=True)
    try:
        for locked, archive in sorted(packages, key=lambda one: one[0].name):
            folder = work / locked.name
            unpacked = unpack(archive, folder)
            said = (unpacked.index.name, unpacked.index.version, unpacked.index.build)
            if said != (locked.name, locked.version, locked.build):
                raise BuildError(f"{locked.file}: says it is {' '.join(said)}, the lock says otherwise")
            prefix.add(unpacked, locked.file)
            if any(re.search(r"(^|/)\.[^/]*-(post|pre)-link\.sh$", entry.path) for entry in unpacked.paths):
                progress.say(f"{locked.name} has a link script, which is not run: no script of a package ever is")
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    prefix.check_links()
    true_records(prefix)
    return prefix


def true_records(prefix: Prefix) -> None:
    """Write each `.dist-info/RECORD` from what is there, one where a package brought none.

    What conda installed may differ from its RECORD (the prefix, a patch of the recipe), and layers are keyed by it.
    """
    inside = f"{prefix.site}/"
    infos: dict[str, str] = {}
    for path, one in prefix.linked.items():
        if path.startswith(inside) and (info := path[len(inside) :].split("/")[0]).endswith(".dist-info"):
            infos.setdefault(info, one.package)
    for info, package in sorted(infos.items()):
        record = f"{inside}{info}/RECORD"
        if record in prefix.linked:
            rows = csv.reader(io.StringIO((prefix.root / record).read_text("utf-8")))
            listed = {os.path.normpath(inside + row[0]) for row in rows if row}
        else:
            listed = {path for path, one in prefix.linked.items() if one.package == package}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for path in sorted(listed - {record}):
            there = prefix.linked.get(path)
            if there is None or not path.startswith(inside) or there.content.startswith("-> "):
                continue
            digest = base64.urlsafe_b64encode(bytes.fromhex(there.content)).rstrip(b"=").decode()
            size = (prefix.root / path).stat().st_size
            writer.writerow((path.removeprefix(inside), f"sha256={digest}", size))
        writer.writerow((f"{info}/RECORD", "", ""))
        content = text.getvalue().encode()
        write_atomic(prefix.root / record, content)
        prefix.linked[record] = Linked(record, package, hashlib.sha256(content).hexdigest())
