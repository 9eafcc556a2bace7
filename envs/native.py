"""The kernels of pipelines/native, compiled on the host and seen by every engine beside the pipelines.

`native/KEY/edgekiln_native` in the cache is whole or not there: a library per level of the instruction set, and
kernels.json. KEY hashes sources, flags, compiler and platform, so that what is there never has to be compared.
They are no part of an image: a kernel that changes moves no lock and no image digest, and no image holds a compiler.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from envs import process
from envs.errors import BuildError, CheckFailed, EdgekilnError
from envs.native_compiler import ensure_compiler, locked_compilers
from envs.native_package import Record, archives, native_root, read_archive, sources_sha256, write_package
from envs.paths import PIPELINES
from envs.platforms import MACHINES
from envs.progress import Progress
from envs.tree import building

RULES = 1  # raise it when this file makes other bytes from the same sources and flags
SOURCES = PIPELINES / "native"
GLIBC = "2.17"  # older than that of any base we ship and of any host that the locked wheels run on
LEVELS: Mapping[str, Mapping[str, tuple[str, ...]]] = {  # by platform: level -> what is told to the compiler for it
    "linux/amd64": {
        "x86-64-v2": ("-mcpu=x86_64_v2",),
        "x86-64-v3": ("-mcpu=x86_64_v3",),
        "x86-64-v4": ("-mcpu=x86_64_v4", "-mprefer-vector-width=512"),  # else vectors of 64 bytes are halved
    },
    "linux/arm64": {"aarch64": ("-mcpu=generic",)},
}
FLAGS = (
    *("-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-fno-sanitize=all"),
    *("-shared", "-fPIC", "-s", "-Wall", "-Wextra", "-Wdate-time", "-Werror"),
    # the compiler's own run-time library would be built for each level, which takes ten times what the kernels take
    *("-rtlib=none", "-Wl,--no-undefined"),
)


class CompileError(BuildError):
    """The compiler refuses a source file: a fault of the sources, not of this machine."""


def read_sources(folder: Path = SOURCES) -> dict[str, bytes]:
    """The C files by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".c", ".h")}


def kernels_key(platform: str, files: Mapping[str, bytes]) -> str:
    """Hex key of what these sources make for that platform; the same on every kind of host."""
    parts = (RULES, platform, GLIBC, LEVELS[platform], FLAGS, locked_compilers(), sources_sha256(files))
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def ensure_native(platform: str, progress: Progress) -> Path:
    """The folder of the kernels for that platform, compiled if it is not there; it belongs on the import path.

    One process compiles, others wait. CompileError names file and line of a fault in the sources; FetchError or
    BuildError where no compiler can be had or started.
    """
    if platform not in LEVELS:
        raise BuildError(f"kernels are compiled for {', '.join(LEVELS)}, not for {platform}")
    files = read_sources()
    folder = native_root() / kernels_key(platform, files)
    if folder.exists():
        return folder
    with building("kernels", progress):
        if not folder.exists():
            staging = native_root() / f".{folder.name[:12]}-{os.getpid()}"
            try:
                write_package(staging, *_made(platform, files, folder.name, progress))
                staging.rename(folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    return folder


def kernels(platform: str, progress: Progress) -> Path | None:
    """The same, or None where there is no compiler: one line says so, and the pipeline's NumPy forms do the work.

    CompileError is not passed over.
    """
    try:
        return ensure_native(platform, progress)
    except CompileError:
        raise
    except EdgekilnError as error:
        progress.say(f"no compiled kernels, NumPy does their work and takes longer: {error}")
        return None


def _made(platform: str, files: Mapping[str, bytes], key: str, progress: Progress) -> tuple[Record, dict[str, bytes]]:
    sources = sources_sha256(files)
    for place, content in archives(key):
        try:
            return read_archive(content, platform, sources)
        except CheckFailed as error:
            progress.say(f"{place}: {error.message}; compiling them")
    zig = ensure_compiler(progress)
    progress.say(f"compiling kernels for {platform} (once for these sources)")
    libraries = compile_levels(zig, platform, files)
    sums = {level: hashlib.sha256(content).hexdigest() for level, content in libraries.items()}
    compilers = sorted({f"{one.name} {one.version}" for one in locked_compilers().values()})
    return Record(platform=platform, compiler=", ".join(compilers), sources=sources, files=sums), libraries


def compile_levels(zig: Path, platform: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """A library for every level of that platform, whichever the host is. The same files give the same bytes."""
    with (
        tempfile.TemporaryDirectory(prefix="edgekiln-kernels-") as work,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for name, content in files.items():
            (Path(work) / name).write_bytes(content)
        names = [name for name in files if name.endswith(".c")]
        jobs = {level: pool.submit(_compile, zig, platform, level, names, Path(work)) for level in LEVELS[platform]}
        return {level: job.result() for level, job in jobs.items()}


def _compile(zig: Path, platform: str, level: str, names: list[str], work: Path) -> bytes:
    """No path or variable of this machine gets into the bytes: names are relative, the environment is made here."""
    target, cache = f"{level}.so", str(work / f".cache-{level}")
    command: list[str | Path] = [zig, "cc", "-target", f"{MACHINES[platform][0]}-linux-gnu.{GLIBC}"]
    command += [*LEVELS[platform][level], *FLAGS, "-o", target, *names]
    clean = {"PATH": os.defpath, "HOME": str(work), "LC_ALL": "C"}
    clean |= {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
    try:
        process.run(command, env=clean, cwd=work, shown=": error: ")
    except BuildError as error:
        if ": error: " not in error.message:
            raise
        raise CompileError(f"pipelines/native: {error.message}", "mend the file") from error
    return (work / target).read_bytes()
