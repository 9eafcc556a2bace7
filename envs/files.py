"""Files that are whole or not there, locks between processes, and hashes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from envs.errors import WorkspaceError


def write_atomic(path: Path, data: bytes) -> None:
    """Write to a temporary name beside `path` and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Section(io.RawIOBase):
    """A part of an open file, read as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, size: int, *, owned: bool = False) -> None:
        self._file = file
        self._left = size
        self._owned = owned  # closing this closes the file
        file.seek(start)

    @classmethod
    def of(cls, path: Path, start: int, size: int) -> BinaryIO:
        """That part of a file, buffered; closing it closes the file."""
        return io.BufferedReader(cls(path.open("rb"), start, size, owned=True), 1 << 20)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def close(self) -> None:
        if self._owned:
            self._file.close()
        super().close()


@contextlib.contextmanager
def exclusive(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path`; the kernel drops it however this process ends. `waiting` is told if another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


_REASONS = {
    errno.ENOSPC: ("no space left on the disk", "free some space and run the same command again"),
    errno.EDQUOT: ("the disk quota is used up", "free some space and run the same command again"),
    errno.EACCES: ("permission denied", "give yourself write access or name another folder"),
    errno.EPERM: ("permission denied", "give yourself write access or name another folder"),
    errno.ENOTDIR: ("a part of that path is a file, not a folder", "name another folder"),
    errno.EROFS: ("the file system is read-only", "name a folder that can be written"),
}


def explain_os_error(error: OSError) -> WorkspaceError | None:
    """The operating system's refusals that a user can mend, in one line; None for any other."""
    if isinstance(error, shutil.Error):
        error = _first(error)
    if error.errno not in _REASONS:
        return None
    what, remedy = _REASONS[error.errno]
    return WorkspaceError(f"{error.filename}: {what}" if error.filename else what, remedy)


def _first(error: shutil.Error) -> OSError:
    """shutil tells of a whole tree at once, each file's reason as text: the first, as the system gave it."""
    told = error.args[0]
    if isinstance(told, list) and (number := re.match(r"\[Errno (\d+)\]", str(told[0][2]))):
        return OSError(int(number[1]), os.strerror(int(number[1])), str(told[0][1]))
    return error
