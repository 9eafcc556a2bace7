"""What moved between two locks, from what to what, and which images and layers that touches."""

from __future__ import annotations

import fnmatch
import hashlib
import zipfile
from collections.abc import Callable, Iterator

import msgspec

from envs.fetch import stored
from envs.image import short_digest
from envs.layers import BIG_BYTES
from envs.lock import EnvLock, LockedData, LockedWheel

SETTINGS = ("python", "suite", "installer", "exclude_newer", "source_date_epoch", "base_date", "omit", "trim")
ABSENT = "absent"


class Move(msgspec.Struct, frozen=True, kw_only=True, rename={"before": "from", "after": "to"}):
    """One thing that moved; `what` is its version, its bytes under the same version, or a setting."""

    part: str  # base, python, conda, packages, test, data, weights, settings
    name: str
    what: str  # version, sha256, setting
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.part}: {self.name} {self.before} -> {self.after}"


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """What a changed lock means for its image: the tags before and after, and the layers that are other bytes."""

    env: str
    platform: str
    tag_before: str
    tag_after: str
    layers: tuple[str, ...]
    mounted: tuple[str, ...]  # what is no part of the image but seen by its containers: data, test


Entry = tuple[str, str]  # version, sha256


def moves(old: EnvLock | None, new: EnvLock) -> tuple[Move, ...]:
    """Everything that moved, part by part; empty where both say the same of everything but the spec's text."""
    found = []
    before, after = _parts(old) if old else {}, _parts(new)
    for part, entries in after.items():
        earlier = before.get(part, {})
        for name in sorted(earlier.keys() | entries.keys()):
            was, now = earlier.get(name), entries.get(name)
            if was != now:
                found.append(_move(part, name, was, now))
    return tuple(found)


def _move(part: str, name: str, was: Entry | None, now: Entry | None) -> Move:
    if part == "settings":
        what, shown = "setting", [one[0] if one else ABSENT for one in (was, now)]
    elif was and now and was[0] == now[0]:
        what, shown = "sha256", [f"{one[0]} ({one[1][:12]})" for one in (was, now)]
    else:
        what, shown = "version", [one[0] if one else ABSENT for one in (was, now)]
    return Move(part=part, name=name, what=what, before=shown[0], after=shown[1])


def _parts(lock: EnvLock) -> dict[str, dict[str, Entry]]:
    base = {one.name: (one.version, one.sha256) for one in lock.base}
    if lock.base_archive:
        base[lock.base_archive.file] = (lock.base_archive.image_id or "an archive", lock.base_archive.sha256)
    if lock.base_image:
        base[lock.base_image.repository] = (lock.base_image.digest, lock.base_image.digest)
    return {
        "base": base,
        "python": {one.source: (one.version, one.sha256) for one in lock.interpreter},
        "conda": {one.name: (f"{one.version} {one.build}", one.sha256) for one in lock.conda},
        "packages": {one.name: (one.version, one.sha256) for one in lock.package},
        "test": {one.name: (one.version, one.sha256) for one in lock.test},
        "data": {one.collection: (f"{one.wheel.name} {one.wheel.version}", _data_sha256(one)) for one in lock.data},
        "weights": {one.model: (one.file, one.sha256) for one in lock.hub},
        "settings": {name: (_shown(getattr(lock, name)), "") for name in SETTINGS},
    }


def _data_sha256(one: LockedData) -> str:
    return hashlib.sha256(msgspec.json.encode(one)).hexdigest()


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {', '.join(patterns)}" for name, patterns in value.items()) or "none"
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value or "none")


def touched(old: EnvLock, new: EnvLock, unpacked: Callable[[EnvLock, LockedWheel], int]) -> Touched:
    """The image of `new` beside that of `old`; `unpacked` gives the size of a wheel's files in the environment."""
    moved = moves(old, new)
    homes = _homes(old, unpacked), _homes(new, unpacked)
    layers = dict.fromkeys(name for one in moved for name in _layers_of(one, old, new, homes))
    order = ["base", "interpreter", *sorted(set(layers) - {"base", "interpreter", "packages"}), "packages"]
    return Touched(
        env=new.name,
        platform=new.platform,
        tag_before=_tag(old),
        tag_after=_tag(new),
        layers=tuple(name for name in order if name in layers),
        mounted=tuple(part for part in ("data", "test") if any(one.part == part for one in moved)),
    )


def _layers_of(move: Move, old: EnvLock, new: EnvLock, homes: tuple[dict[str, str], dict[str, str]]) -> Iterator[str]:
    every = {"base", "interpreter", "packages", *homes[0].values(), *homes[1].values()}
    match move.part, move.name:
        case ("base", _):
            yield "base"
        case ("python", _):
            yield "interpreter"
        case ("conda", _) | ("settings", "source_date_epoch" | "installer"):
            yield from every  # the epoch is in every file's time; conda packages lie anywhere
        case ("settings", "python") if old.python.rpartition(".")[0] != new.python.rpartition(".")[0]:
            yield from every - {"base"}  # the folder is named for the minor version
        case ("packages", name):
            yield from {home[name] for home in homes if name in home}
        case ("settings", "trim"):
            names = {name for lock in (old, new) for name in lock.trim if old.trim.get(name) != new.trim.get(name)}
            yield from {home[name] for home in homes for name in names if name in home}


def _homes(lock: EnvLock, unpacked: Callable[[EnvLock, LockedWheel], int]) -> dict[str, str]:
    """Package -> layer, as envs/layers.py splits them."""
    owner = {one.name: "nvidia" if one.name.startswith("nvidia-") else one.name for one in lock.package}
    size: dict[str, int] = {}
    for one in lock.package:
        size[owner[one.name]] = size.get(owner[one.name], 0) + unpacked(lock, one)
    return {name: group if size[group] >= BIG_BYTES else "packages" for name, group in owner.items()}


def _tag(lock: EnvLock) -> str:
    return f"edgekiln/{lock.name}:{short_digest(lock.digest)}"


def unpacked_bytes(lock: EnvLock, wheel: LockedWheel) -> int:
    """What a wheel unpacks to, trimmed files apart; its own size where this machine never had it."""
    path = stored(wheel.sha256, wheel.file)
    if not path.exists():
        return wheel.bytes
    patterns = lock.trim.get(wheel.name, ())
    with zipfile.ZipFile(path) as archive:
        return sum(
            one.file_size
            for one in archive.infolist()
            if not any(fnmatch.fnmatchcase(one.filename, pattern) for pattern in patterns)
        )
