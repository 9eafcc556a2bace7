"""Going on where locked bytes are nowhere: the missing part is resolved again, in memory, and what moved is listed.

The lock in the checkout stays as it is. A lock with drift has another digest than it, and so have its image, its
report and its cached stages.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec

from envs import interpreter
from envs.build import Built, build
from envs.data import collections, ensure_data
from envs.engines.choose import Chosen
from envs.errors import LockError
from envs.fetch import Gone, refreshing
from envs.lock import EnvLock, read_lock
from envs.lock_diff import moves
from envs.progress import Progress
from envs.resolve import locked_install, refresh_lock
from envs.spec import EnvSpec, load_spec


def environment(
    name: str, chosen: Chosen, progress: Progress, *, allow_drift: bool, calibrates: bool = False
) -> tuple[Built, Path]:
    """The built environment of that name and its data folder, with its calibration pictures where they are needed.

    Gone where locked files are nowhere, unless drift is allowed: then `Built.lock.drift` says what was replaced.
    """
    lock = read_lock(name)
    while True:
        try:
            with refreshing(name):
                built = build(name, chosen, progress, lock)
                return built, ensure_data(built.lock, progress, collections(built.lock, calibrates=calibrates))
        except Gone as error:
            if not allow_drift:
                raise Gone(error.missing, name, drift=True) from error
            progress.say(f"drift: {error.message}")
            lock = drifted(lock, load_spec(name), error, progress)


def drifted(lock: EnvLock, spec: EnvSpec, error: Gone, progress: Progress) -> EnvLock:
    """The lock with the parts of `error` resolved again; that error once more where it changes nothing."""
    made = lock
    for part in error.parts:
        made = _again(made, spec, part, progress)
    moved = moves(lock, msgspec.structs.replace(made, drift=()))
    lines = [str(one) for one in moved if one.part != "settings" or one.name == "python"]
    if not lines:
        raise error
    return msgspec.structs.replace(made, drift=(*lock.drift, *lines))


def _again(lock: EnvLock, spec: EnvSpec, part: str, progress: Progress) -> EnvLock:
    if part == "python":
        return _other_python(lock)
    locked_day = dt.date.fromisoformat(lock.exclude_newer[:10])
    try:
        return refresh_lock(spec, lock, part, locked_day, progress)
    except LockError:  # what was there on that day is there no more
        if part != "packages":
            raise
        return refresh_lock(spec, lock, part, dt.datetime.now(dt.timezone.utc).date(), progress)


def _other_python(lock: EnvLock) -> EnvLock:
    """With the newest CPython of the same minor version that is installed here."""
    here = interpreter.installed(lock.python.rpartition(".")[0])
    if not here:
        return lock
    return msgspec.structs.replace(lock, python=here[0].version, interpreter=(locked_install(here[0]),))
