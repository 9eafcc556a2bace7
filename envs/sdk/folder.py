"""A vendor's SDK folder: is it one, is it safe to mount, and its hash."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from envs.errors import WrongUse
from envs.files import sha256_file

LAYOUT = {  # vendor -> files that its commands need; the first marks the folder
    "sigmastar": ("cfg_env.sh", "Scripts/ConvertTool/SGS_converter.py", "Scripts/calibrator/simulator.py"),
}


class Hashed(NamedTuple):
    """Of all files below a folder."""

    sha256: str
    files: int
    bytes: int


def tools_folder(vendor: str, path: Path) -> Path:
    """The folder that holds the tools: `path`, or the only one right below it (a vendor's release holds more).

    WrongUse where there is none, or one lacks a file.
    """
    mark = LAYOUT[vendor][0]
    found = [path] if (path / mark).is_file() else sorted(one.parent for one in path.glob(f"*/{mark}"))
    if len(found) != 1:
        what = f"{len(found)} folders with {mark}" if found else f"no {mark} in it, nor in a folder right below it"
        raise WrongUse(f"{path}: {what}", "name the folder of the SDK as the vendor's archive unpacks it")
    if missing := [name for name in LAYOUT[vendor] if not (found[0] / name).is_file()]:
        raise WrongUse(f"{found[0]}: not a {vendor} SDK: {missing[0]} is missing", "unpack the vendor's archive again")
    return found[0]


def folder_version(name: str) -> str:
    """The version that a folder's name ends with, as in SGS_IPU_Toolchain_25121210 and SGS_IPU_SDK_vS1.0.9."""
    found = re.search(r"_v?([A-Z]?\d[\w.]*)$", name)
    return found[1] if found else ""


def hash_folder(folder: Path) -> Hashed:
    """Of its tree. WrongUse names a link that leaves the folder, or what is neither file, folder nor link."""
    root = folder.resolve()
    digest, files, size = hashlib.sha256(), 0, 0
    for name, path, status in _entries(root):
        if stat.S_ISLNK(status.st_mode):
            content = f"link {_inner_target(path, root, name)}"
        elif stat.S_ISREG(status.st_mode):
            content = f"{'program' if status.st_mode & stat.S_IXUSR else 'file'} {sha256_file(path)}"
            files, size = files + 1, size + status.st_size
        else:
            raise WrongUse(f"{name} in {folder}: neither file, folder nor link", "leave it out")
        digest.update(f"{name}\0{content}\0".encode("utf-8", "surrogateescape"))
    return Hashed(digest.hexdigest(), files, size)


def _entries(root: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    """All below it but folders, by name: the same order everywhere."""
    found = []
    for place, folders, files in os.walk(root, onerror=_raise):
        for name in (*files, *(one for one in folders if Path(place, one).is_symlink())):
            path = Path(place, name)
            found.append((path.relative_to(root).as_posix(), path))
    for name, path in sorted(found):
        yield name, path, path.lstat()


def _raise(error: OSError) -> None:
    raise error


def _inner_target(link: Path, root: Path, name: str) -> str:
    target = os.readlink(link)  # noqa: PTH115 - as text, as it stands
    if os.path.isabs(target) or not (link.parent / target).resolve().is_relative_to(root):  # noqa: PTH117
        raise WrongUse(f"{name} links to {target}, outside the SDK", "replace the link by what it points to")
    return target
