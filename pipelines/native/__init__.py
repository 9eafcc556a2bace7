"""Compiled kernels: found on the import path, checked, loaded with ctypes; every one has a NumPy form beside it.

The C files of this folder are compiled on the host (envs/native.py) into the package `edgekiln_native`: one library
per level of the instruction set and `kernels.json`, which says from which sources. A library is loaded only where
those are the sources that lie here and its own bytes are whole, so that a stale or damaged one is refused in one line.
The compiler never contracts or reorders arithmetic, so levels differ in speed alone, but where a source says that it
uses fused multiply-add where the CPU has it: then in the last bit.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "edgekiln_native"
ABI = 1
SOURCES = Path(__file__).parent

# Flags of /proc/cpuinfo that the x86-64 psABI asks for, level by level; the last level that holds is the best.
_V2 = frozenset({"cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
_V4 = _V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
LEVELS: Mapping[str, Mapping[str, frozenset[str]]] = {
    "x86_64": {"x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4},
    "aarch64": {"aarch64": frozenset()},
}


@dataclass(frozen=True)
class Native:
    """A loaded library of kernels and the level that it was compiled for."""

    library: ctypes.CDLL
    level: str


class Refused(Exception):
    """Why there are no kernels, in one line."""


def load(level: str | None = None) -> Native | None:
    """The kernels for the best level of this CPU, or for the one named; None where there are none (see `why_missing`).

    ValueError where `level` is none that this CPU has.
    """
    if level is not None and level not in levels():
        raise ValueError(f"level {level!r}: this CPU has {', '.join(levels()) or 'none'}")
    found = _loaded(level)
    return found if isinstance(found, Native) else None


def why_missing() -> str:
    """Why `load` gives None, in one line; "" where it gives kernels."""
    found = _loaded(None)
    return "" if isinstance(found, Native) else found


def describe() -> str:
    """What a report says of the kernels: their level, or "none: REASON"."""
    found = _loaded(None)
    return found.level if isinstance(found, Native) else f"none: {found}"


def form() -> str:
    """What of the kernels decides a result: a stage's answer from the cache was computed in the same form."""
    return "numpy" if why_missing() else "compiled"


@functools.cache
def levels() -> tuple[str, ...]:
    """The levels that this CPU has, the best last."""
    return levels_of(platform.machine(), _cpu_flags())


def levels_of(machine: str, flags: frozenset[str]) -> tuple[str, ...]:
    """The levels of a machine (as uname says it) whose CPU has those flags, the best last."""
    return tuple(name for name, needs in LEVELS.get(machine, {}).items() if needs <= flags)


def sources_sha256(folder: Path = SOURCES) -> str:
    """Hex sha256 over the C files there: each one's name and sha256, in the order of names."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.suffix in (".c", ".h")):
        digest.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


@functools.cache
def _loaded(level: str | None) -> Native | str:
    try:
        return open_kernels(_folder(), (level,) if level else levels())
    except Refused as refused:
        return str(refused)


def _folder() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise Refused(f"no package {PACKAGE} on the import path: the host has compiled none, its first lines say why")
    return Path(next(iter(found.submodule_search_locations)))


def open_kernels(folder: Path, allowed: Sequence[str]) -> Native:
    """Load the best of the allowed levels (the best last) from a package folder. Refused where nothing fits."""
    try:
        record = json.loads((folder / "kernels.json").read_text("utf-8"))
        compiled_from, files = str(record["sources"]), dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{folder / 'kernels.json'} can't be read ({error})") from error
    if compiled_from != sources_sha256():
        raise Refused("the kernels were compiled from other sources than these; `invoke` compiles what has changed")
    for level in reversed(allowed):
        if level in files:
            return _open(folder / f"{level}.so", str(files[level]), level)
    have = f"has {', '.join(allowed)}" if allowed else f"({platform.machine()}) has none that we compile for"
    raise Refused(f"the kernels are for {', '.join(files) or 'no level'}, this CPU {have}")


def _open(path: Path, sha256: str, level: str) -> Native:
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise Refused(f"{path.name} is damaged: remove {path.parent.parent} on the host and run again")
        library = ctypes.CDLL(str(path))
        abi = library.edgekiln_abi
    except (OSError, AttributeError) as error:
        raise Refused(f"{path.name} can't be loaded ({error})") from error
    abi.argtypes, abi.restype = (), ctypes.c_int32
    if (its := abi()) != ABI:
        raise Refused(f"{path.name} has ABI {its}, this code wants {ABI}")
    return Native(library, level)


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())
