"""The wheels of the tool's own environment, so that `./inv` needs no network: for each Python the tool runs on."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from envs.errors import BuildError
from envs.fetch import PARALLEL, keep, list_index
from envs.files import sha256_file, write_atomic
from envs.lock import LockedWheel
from envs.paths import ROOT, cache_root
from envs.platforms import MACHINES
from envs.progress import Progress

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
GLIBC_MINORS = (28, 36)  # the first that has a wheel: the machine it goes to may be older than this one


class Chosen(msgspec.Struct, frozen=True):
    """Wheels, and the Pythons for which they are everything that the requirements name."""

    pythons: tuple[str, ...]
    wheels: tuple[LockedWheel, ...]


class Pinned(msgspec.Struct, frozen=True):
    """One hashed requirement."""

    name: str
    version: str
    marker: str
    hashes: frozenset[str]


def wheelhouse() -> Path | None:
    """The folder of wheels that `./inv` installs from: EDGEKILN_WHEELS, else `wheels/` of a bundle's tool."""
    folder = Path(os.environ.get("EDGEKILN_WHEELS") or ROOT / "wheels")
    return folder if folder.is_dir() else None


def offline_options() -> list[str | Path]:
    """What to tell uv: take the wheels of the folder, where there is one, and ask no index."""
    folder = wheelhouse()
    return ["--no-index", "--find-links", folder] if folder else []


def pinned(text: str) -> tuple[Pinned, ...]:
    """The requirements of a hashed file."""
    found = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip() or line.lstrip().startswith(("#", "-")):
            continue
        words, *hashes = line.split("--hash=sha256:")
        one = Requirement(words.strip())
        (version,) = (str(specifier.version) for specifier in one.specifier)
        digests = frozenset(digest.strip() for digest in hashes)
        found.append(Pinned(canonicalize_name(one.name), version, str(one.marker or ""), digests))
    return tuple(found)


def tool_wheels(requirements: Sequence[Path], platform: str, progress: Progress) -> Chosen:
    """One wheel a requirement and Python. BuildError where no Python can have all of them.

    From the wheelhouse where there is one, else from the index; the answer is remembered by the files' content.
    """
    text = "".join(path.read_text("utf-8") for path in requirements)
    folder = wheelhouse()
    key = hashlib.sha256(msgspec.json.encode((PYTHONS, GLIBC_MINORS, platform, text))).hexdigest()
    remembered = cache_root() / "bundle" / f"wheels-{key}.json"
    if folder is None and remembered.exists():
        return msgspec.json.decode(remembered.read_bytes(), type=Chosen)
    pins = tuple({(one.name, one.version, one.marker): one for one in pinned(text)}.values())
    listed = _in_folder(folder) if folder else _in_index({one.name for one in pins}, progress)
    chosen = choose(pins, listed, platform, progress)
    if folder is None:
        write_atomic(remembered, msgspec.json.encode(chosen))
    else:
        for wheel in chosen.wheels:
            keep(folder / wheel.file, wheel.sha256)
    return chosen


def choose(
    pins: Sequence[Pinned], listed: Mapping[str, Sequence[LockedWheel]], platform: str, progress: Progress
) -> Chosen:
    """The wheels of `listed` (by package) for every Python that can have all of `pins`."""
    pythons: list[str] = []
    wheels: dict[str, LockedWheel] = {}
    reason = "nothing is pinned"
    for python in PYTHONS:
        try:
            found = [_best(one, python, platform, listed) for one in pins if _applies(one, python, platform)]
        except BuildError as error:
            reason = error.message
            progress.say(f"the tool's own wheels: not for Python {python} ({reason})")
            continue
        pythons.append(python)
        wheels.update((wheel.file, wheel) for wheel in found)
    if pins and not pythons:
        raise BuildError(f"the tool's own wheels can't be had: {reason}", "check the package index")
    return Chosen(tuple(pythons), tuple(wheels[name] for name in sorted(wheels)))


def _applies(one: Pinned, python: str, platform: str) -> bool:
    machine = MACHINES[platform][0]
    where = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": machine,
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
    }
    return not one.marker or Marker(one.marker).evaluate(where)


def _best(one: Pinned, python: str, platform: str, listed: Mapping[str, Sequence[LockedWheel]]) -> LockedWheel:
    from envs.resolve_python import best_wheel, wheel_tags

    fitting = {wheel.file: wheel for wheel in listed.get(one.name, ()) if wheel.sha256 in one.hashes}
    for glibc_minor in GLIBC_MINORS:
        if name := best_wheel(fitting, wheel_tags(python, MACHINES[platform][0], glibc_minor)):
            return fitting[name]
    raise BuildError(f"{one.name} {one.version} has no wheel for it")


def _in_folder(folder: Path) -> dict[str, list[LockedWheel]]:
    found: dict[str, list[LockedWheel]] = {}
    for path in sorted(folder.glob("*.whl")):
        name, version, _, _ = parse_wheel_filename(path.name)
        wheel = LockedWheel(
            name=name, version=str(version), file=path.name, sha256=sha256_file(path), bytes=path.stat().st_size
        )
        found.setdefault(name, []).append(wheel)
    return found


def _in_index(names: set[str], progress: Progress) -> dict[str, list[LockedWheel]]:
    progress.say(f"looking up the wheels of the tool's own {len(names)} packages")
    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        return dict(zip(sorted(names), pool.map(_wheels_of, sorted(names)), strict=True))


def _wheels_of(name: str) -> list[LockedWheel]:
    return [
        LockedWheel(name=name, version="", file=file, sha256=entry.sha256, bytes=entry.bytes)
        for file, entry in list_index(name).items()
        if file.endswith(".whl")
    ]
