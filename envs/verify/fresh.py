"""A fresh place: a cache of its own where nothing is remembered, over the same store of locked sources."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from envs.errors import FetchError
from envs.files import sha256_file
from envs.lock import EnvLock
from envs.paths import cache_root
from envs.progress import Progress

PREFIX = ".verify-"
NOT_IN_IMAGE = ("test", "data", "hub")  # sections of the lock that no image or tree holds


@contextlib.contextmanager
def fresh_place() -> Iterator[Path]:
    """Inside, everything that the tool caches lies in an empty folder; the store is the user's own. Gone afterwards."""
    real = cache_root()
    (real / "store").mkdir(parents=True, exist_ok=True)
    _remove_abandoned(real)
    place = Path(tempfile.mkdtemp(dir=real, prefix=f"{PREFIX}{os.getpid()}-"))
    before = os.environ.get("EDGEKILN_CACHE")
    try:
        (place / "store").symlink_to(real / "store")
        (place / "trees").mkdir()
        os.environ["EDGEKILN_CACHE"] = str(place)
        yield place
    finally:
        if before is None:
            os.environ.pop("EDGEKILN_CACHE", None)
        else:
            os.environ["EDGEKILN_CACHE"] = before
        shutil.rmtree(place, ignore_errors=True)


def _remove_abandoned(real: Path) -> None:
    """What a verify that was killed left behind."""
    for folder in real.glob(f"{PREFIX}*-*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(folder, ignore_errors=True)


def check_sources(lock: EnvLock, progress: Progress) -> int:
    """Hash the store's files of this lock again; how many there are. What is missing is fetched by the build.

    FetchError names the first file whose bytes are not the locked ones.
    """
    sections = {key: value for key, value in msgspec.to_builtins(lock).items() if key not in NOT_IN_IMAGE}
    store = cache_root() / "store"
    files = [
        file
        for sha256 in sorted(_hashes(sections))
        for file in sorted(store.glob(f"{sha256}/*"))
        if file.is_file() and not file.name.startswith(".")
    ]
    bar = progress.bar(f"checking {len(files)} sources of {lock.name}", sum(file.stat().st_size for file in files))
    try:
        for file in files:
            found = sha256_file(file)
            if found != file.parent.name:
                raise FetchError(
                    f"{file}: its sha256 is {found[:12]}, the lock says {file.parent.name[:12]}: the store was changed",
                    "remove that file and run the same command again, it is fetched anew",
                )
            bar.advance(file.stat().st_size)
    finally:
        bar.close()
    return len(files)


def _hashes(value: Any) -> set[str]:
    """Every `sha256` in the lock's tables."""
    if isinstance(value, dict):
        own = {value["sha256"]} if isinstance(value.get("sha256"), str) else set()
        return own.union(*(_hashes(one) for one in value.values()))
    if isinstance(value, list | tuple):
        return set().union(*(_hashes(one) for one in value))
    return set()
