"""The C compiler of the kernels: one locked wheel that compiles for any target and needs no header of the system.

The machine's own compiler is never asked: a kernel's bytes follow from its sources and from envs/locks/native.toml.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import zipfile
from pathlib import Path

import msgspec

from envs import toml
from envs.errors import BuildError, FetchError
from envs.fetch import Gone, fetch, wheel
from envs.lock import LockedWheel
from envs.paths import LOCKS, cache_root
from envs.platforms import host_platform
from envs.progress import Progress

LOCK = LOCKS / "native.toml"
# What a C library for Linux with glibc needs of the wheel: half of its size and a tenth of its files.
NEEDED = re.compile(
    r"ziglang/(zig|LICENSE|lib/[^/]+|lib/(std|include|compiler|compiler_rt|libunwind)/.+"
    r"|lib/libc/(glibc|include/(generic-glibc|any-linux-any|(x86|aarch64)-linux-(any|gnu)))/.+)"
)


class _Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    amd64: LockedWheel = msgspec.field(name="linux/amd64")
    arm64: LockedWheel = msgspec.field(name="linux/arm64")


def locked_compilers() -> dict[str, LockedWheel]:
    """The compiler's wheel by the platform of the host that runs it. SpecError where the file is not as it must be."""
    lock = toml.convert(toml.parse_toml(LOCK), _Lock, LOCK)
    return {"linux/amd64": lock.amd64, "linux/arm64": lock.arm64}


def compilers_root() -> Path:
    """Compilers, unpacked, by the sha256 of their wheel."""
    return cache_root() / "compilers"


def ensure_compiler(progress: Progress) -> Path:
    """The program `zig`, downloaded and unpacked if it is not here. The caller holds the build lock of the kernels.

    FetchError where the wheel can't be had, BuildError where none is locked for this host.
    """
    locked = locked_compilers().get(host_platform())
    if locked is None:
        raise BuildError(f"no compiler of kernels is locked for {host_platform()}")
    folder = compilers_root() / locked.sha256
    if not folder.exists():
        try:
            (path,) = fetch([wheel(locked)], "compiler of the kernels", progress)
        except Gone as error:
            raise FetchError(error.message, "a bundle (EDGEKILN_BUNDLE) brings them compiled") from error
        staging = compilers_root() / f".{locked.name}-{os.getpid()}"
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, staging, ignore_errors=True)
            _unpack(path, staging)
            staging.rename(folder)
    return folder / "ziglang" / "zig"


def _unpack(wheel_path: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel_path) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if NEEDED.fullmatch(name)])
    (folder / "ziglang" / "zig").chmod(0o755)
