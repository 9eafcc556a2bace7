"""A small real lock: the installed CPython 3.10 and wheels made in the test."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest
from serving import make_wheel

from envs import interpreter
from envs.lock import LOCK_VERSION, EnvLock, LockedInterpreter, LockedWheel


@functools.cache
def installed_python() -> tuple[str, str]:
    """Version and tree hash of the CPython 3.10 of this machine; skips where there is none."""
    found = interpreter.installed("3.10")
    if not found:
        pytest.skip("no CPython 3.10 is installed here")
    with tempfile.TemporaryDirectory() as folder:
        interpreter.carry_installed(found[0], Path(folder, "tree"))
        return found[0].version, interpreter.tree_sha256(Path(folder, "tree"))


def small_lock(wheels: Path, **changes: object) -> EnvLock:
    """A lock of one package, with its wheel in `wheels`."""
    version, tree = installed_python()
    package = make_wheel(wheels, "small", "1.0", {"small/__init__.py": b"x = 1\n", "small/gpu_only.so": b"gpu"})
    fields: dict[str, object] = {
        "version": LOCK_VERSION,
        "name": "small",
        "spec_sha256": "0" * 64,
        "platform": "linux/amd64",
        "exclude_newer": "2026-01-01T00:00:00Z",
        "source_date_epoch": 1767225600,
        "python": version,
        "suite": "bookworm",
        "omit": (),
        "trim": {"small": ("small/gpu_*",)},
        "interpreter": (LockedInterpreter(source="installed", version=version, sha256=tree),),
        "base": (),
        "package": (package,),
        "test": (),
        "data": (),
        "hub": (),
    }
    return EnvLock(**{**fields, **changes})  # type: ignore[arg-type]


def tampered(wheel: LockedWheel) -> LockedWheel:
    """The same wheel under a hash that its bytes don't have."""
    return LockedWheel(name=wheel.name, version=wheel.version, file=wheel.file, sha256="f" * 64, bytes=wheel.bytes)
