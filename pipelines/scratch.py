"""Scratch folders of stages, gone when the stage ends; those of a killed run go with the next one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

FULL_BYTES = 1 << 20


def is_full(folder: Path) -> bool:
    """Whether its disk has no room left: libraries and tools say that in words of their own, if at all."""
    return shutil.disk_usage(folder).free < FULL_BYTES


@contextlib.contextmanager
def scratch(root: Path, name: str) -> Iterator[Path]:
    """An empty folder under `root`. It is locked while in use: an unlocked one is what a killed run left."""
    root.mkdir(parents=True, exist_ok=True)
    with _held(root, wait=True):  # so that nobody takes a folder for a left one before its lock is there
        for left in root.iterdir():
            with _held(left) as free:
                if free:
                    shutil.rmtree(left, ignore_errors=True)
        place = Path(tempfile.mkdtemp(dir=root, prefix=f"{name}-"))
        lock = contextlib.ExitStack()
        lock.enter_context(_held(place))
    with lock:
        try:
            (place / "out").mkdir()
            yield place / "out"
        finally:
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _held(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Whether its lock could be had; never on a file system without locks, where nothing is swept then."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except (FileNotFoundError, PermissionError):  # its own run removed it just now; or another user's run has it
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        got = True
    except OSError:
        got = False
    try:
        yield got
    finally:
        os.close(handle)
