"""A tree on disk -> facts as an image would have them: mode and owner by the same rule, whatever the umask was."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from envs.files import sha256_file
from envs.progress import Bar
from envs.verify.flat import Files
from envs.verify.records import FileFact

OWN_RECORD = ".edgekiln"  # at the top of a tree: what the tree says of itself, with the time its making took


def read_tree(tree: Path, bar: Bar) -> Files:
    """Every path below the tree but its own record; contents are read, no RECORD is trusted."""
    files: Files = {}
    for folder, folders, names in os.walk(tree):
        inside = Path(folder).relative_to(tree)
        if inside == Path():
            folders[:] = [name for name in folders if name != OWN_RECORD]
        for name in (*folders, *names):
            fact = _fact(tree, (inside / name).as_posix())
            bar.advance(fact.size)
            files[fact.path] = fact
    return files


def _fact(tree: Path, path: str) -> FileFact:
    place = tree / path
    status = place.lstat()
    xattrs = tuple((name, os.getxattr(place, name, follow_symlinks=False).hex()) for name in _xattr_names(place))
    if stat.S_ISLNK(status.st_mode):
        return FileFact(path, "symlink", 0o777, link=str(place.readlink()), xattrs=xattrs)
    if stat.S_ISDIR(status.st_mode):
        return FileFact(path, "dir", 0o755, xattrs=xattrs)
    special = status.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
    if not stat.S_ISREG(status.st_mode):
        return FileFact(path, "fifo" if stat.S_ISFIFO(status.st_mode) else "device", 0o644)
    mode = special | (0o755 if status.st_mode & 0o111 else 0o644)
    return FileFact(path, "file", mode, size=status.st_size, sha256=sha256_file(place), xattrs=xattrs)


def _xattr_names(place: Path) -> list[str]:
    """A user's own attributes; the system's labels belong to the machine."""
    try:
        return sorted(name for name in os.listxattr(place, follow_symlinks=False) if name.startswith("user."))
    except OSError:  # a file system without any
        return []
