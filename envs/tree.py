"""The environment tree: interpreter and packages of a lock, made once in the user's cache.

`trees/KEY` is whole or not there; KEY hashes the interpreter's locked bytes, the packages and what is left out, so
that locks which differ only in data or base share a tree. The same tree is packed into an image or run in place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from envs import finish, process, sources
from envs.conda import prefix
from envs.errors import BuildError
from envs.fetch import fetch, stored, wheel
from envs.files import exclusive, write_atomic
from envs.interpreter import first_of
from envs.lock import EnvLock, LockedInterpreter, LockedWheel
from envs.paths import cache_root
from envs.platforms import host_platform, uv_platform
from envs.progress import Progress

RULES = 1  # raise it when finish.py or interpreter.py make other bytes from the same lock
RECORD = ".edgekiln/tree.json"


class TreeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a tree says of itself, in `.edgekiln/tree.json`; it stays out of images."""

    env: str
    lock_digest: str
    interpreter: LockedInterpreter
    tried: tuple[str, ...]  # sources before it that did not give the locked bytes, and why
    size_bytes: int
    elapsed_s: float


def trees_root() -> Path:
    """All trees of this user."""
    return cache_root() / "trees"


def unpacked_root() -> Path:
    """Where wheels lie unpacked, once for all trees: uv's cache, on the trees' own file system."""
    return cache_root() / "unpacked"


def tree_key(lock: EnvLock, interpreter: LockedInterpreter) -> str:
    """Hex key of the tree that this interpreter and the lock's packages make."""
    parts: tuple[object, ...] = (RULES, lock.platform, interpreter.sha256, lock.package, lock.omit, lock.trim)
    if lock.conda:
        parts = (*parts, lock.conda)
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def existing_tree(lock: EnvLock) -> Path | None:
    """The tree of this lock if one of its interpreter sources has made it before."""
    for interpreter in prefix.interpreters(lock):
        tree = trees_root() / tree_key(lock, interpreter)
        if (tree / RECORD).exists():
            return tree
    return None


def read_record(tree: Path) -> TreeRecord:
    """The record of a finished tree."""
    return msgspec.json.decode((tree / RECORD).read_bytes(), type=TreeRecord)


def site_packages(tree: Path, python: str) -> Path:
    """Where the packages of a tree lie; `python` is the full version."""
    return tree / "lib" / f"python{python.rpartition('.')[0]}" / "site-packages"


def ensure_tree(lock: EnvLock, progress: Progress) -> Path:
    """The tree of this lock, made if it is not there. One process makes it, others wait for it."""
    if tree := existing_tree(lock):
        return tree
    with building(f"tree-{lock.name}", progress):
        return existing_tree(lock) or _make(lock, progress)


def refuse_foreign(lock: EnvLock) -> None:
    """BuildError where nothing of that lock could run here: its image can be written, but not used."""
    if (here := host_platform()) != lock.platform:
        raise BuildError(
            f"the lock of {lock.name} is for {lock.platform}, this machine is {here}",
            f"`invoke build --env {lock.name} --platform {lock.platform} --output oci:DIR` writes its image",
        )


def uv_target(lock: EnvLock, tree: Path) -> list[str | Path]:
    """For which interpreter and platform uv installs: the tree's own, or one that can't run here."""
    if lock.platform == host_platform():
        return ["--python", tree / "bin" / "python3"]
    foreign = uv_platform(lock.platform, lock.suite)
    return ["--python", sys.executable, "--python-version", lock.python, "--python-platform", foreign]


def building(name: str, progress: Progress) -> contextlib.AbstractContextManager[None]:
    """Only one build of that name at a time on this machine."""
    lock = cache_root() / "locks" / name
    return exclusive(lock, lambda: progress.say(f"{name}: another build is at work, waiting for it"))


def _make(lock: EnvLock, progress: Progress) -> Path:
    began = time.monotonic()
    staging = trees_root() / f".{lock.name}-{os.getpid()}"
    _remove_abandoned()
    try:
        tried: list[str] = []
        if lock.installer == "conda":
            interpreter = prefix.make_prefix(lock, staging, progress)
        else:
            interpreter, tried = first_of(lock.interpreter, staging, progress)
        for line in tried:
            progress.say(f"interpreter not taken from {line}")
        progress.say(f"interpreter: CPython {interpreter.version} ({interpreter.source})")
        site = site_packages(staging, lock.python)
        target = uv_target(lock, staging)
        install(lock.package, site, lock.trim, progress, target=target, label=f"packages of {lock.name}")
        if lock.installer == "conda":
            prefix.settle_prefix(lock, staging)
        size = sum(file.lstat().st_size for file in staging.rglob("*") if not file.is_dir())
        record = TreeRecord(
            env=lock.name,
            lock_digest=lock.digest,
            interpreter=interpreter,
            tried=tuple(tried),
            size_bytes=size,
            elapsed_s=round(time.monotonic() - began, 3),
        )
        write_atomic(staging / RECORD, msgspec.json.format(msgspec.json.encode(record)))
        tree = trees_root() / tree_key(lock, interpreter)
        staging.rename(tree)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return tree


def _remove_abandoned() -> None:
    """Staging folders whose process is gone: a build that was killed leaves one."""
    for folder in trees_root().glob(".*-*"):
        owner = folder.name.split(".unpacked")[0].rpartition("-")[2]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(folder, ignore_errors=True)


def install(
    wheels: Sequence[LockedWheel],
    site: Path,
    trim: dict[str, tuple[str, ...]],
    progress: Progress,
    *,
    target: Sequence[str | Path],
    label: str,
) -> None:
    """Install exactly these wheels into `site` and bring it into its final form; `target` is from `uv_target`."""
    paths = fetch([wheel(locked) for locked in wheels], label, progress)
    wanted = site.parent / ".requirements.txt"
    lines = (f"{w.name} @ {p.as_uri()} --hash=sha256:{w.sha256}\n" for w, p in zip(wheels, paths, strict=True))
    wanted.write_text("".join(lines), "utf-8")
    progress.say(f"{label}: unpacking {len(wheels)} wheels, {sum(w.bytes for w in wheels) / 2**20:,.0f} MiB")
    command: list[str | Path] = [sources.uv(), "pip", "install", "--quiet", "--no-config", "--no-index"]
    command += ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--target", site, "-r", wanted, *target]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_", "PYTHON"))}
    # what it unpacks is kept and linked from: trees of locks that differ in one package share the others
    own = {"UV_CACHE_DIR": str(unpacked_root()), "UV_PYTHON_DOWNLOADS": "never", "UV_LINK_MODE": "hardlink"}
    process.run(command, env={**clean, **own})
    wanted.unlink()
    _protect(site)
    try:
        finish.finish(site, {name: list(patterns) for name, patterns in trim.items()})
    except ValueError as error:
        raise BuildError(str(error), "mend the spec and run `invoke lock`") from error


def _protect(site: Path) -> None:
    """Nobody writes into a file by accident that other trees share; layers normalise modes anyway."""
    for folder, _, names in os.walk(site):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o555 if path.stat().st_mode & 0o111 else 0o444)


def requirements(wheels: Sequence[LockedWheel]) -> str:
    """The same packages as hashed requirements, one a line."""
    return "".join(f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in wheels)


def test_tree(lock: EnvLock) -> Path:
    """Where the test tools of this lock lie, there or not."""
    key = hashlib.sha256(msgspec.json.encode((RULES, lock.platform, lock.test))).hexdigest()
    return trees_root() / f"test-{key}"


def ensure_test_tree(lock: EnvLock, tree: Path, progress: Progress) -> Path:
    """pytest and its friends for that environment, in a folder of their own that is only ever mounted."""
    folder = test_tree(lock)
    if folder.exists():
        return folder
    with building(f"test-{lock.name}", progress):
        if not folder.exists():
            staging = trees_root() / f".test-{lock.name}-{os.getpid()}"
            try:
                site = staging / "site"
                site.mkdir(parents=True)
                install(lock.test, site, {}, progress, target=uv_target(lock, tree), label="test tools")
                site.rename(folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    return folder


def stored_wheel(locked: LockedWheel) -> Path:
    """Where the store keeps a locked wheel."""
    return stored(locked.sha256, locked.file)
