"""Files that are whole or not there, locks between processes, and hashes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

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
    if error.errno not in _REASONS:
        return None
    what, remedy = _REASONS[error.errno]
    return WorkspaceError(f"{error.filename}: {what}" if error.filename else what, remedy)
