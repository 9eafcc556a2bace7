"""A lock's packages as advisories name them: ecosystem, name and version."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import msgspec

from envs.debian_deb import control_paragraph
from envs.fetch import stored
from envs.finish import normalised
from envs.lock import EnvLock, LockedDeb
from envs.supply import versions
from envs.supply.components import Component, components, source_name
from envs.supply.versions import Key

RELEASES = {"buster": "10", "bullseye": "11", "bookworm": "12", "trixie": "13", "forky": "14"}


class Source(msgspec.Struct, frozen=True):
    """The source package that a Debian package was built from: Debian's advisories name sources."""

    name: str
    version: str


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A name under which advisories may know a component of the lock."""

    component: Component
    ecosystem: str  # PyPI, Debian or conda
    name: str
    version: str
    release: str = ""  # Debian's, as in Debian:12

    @property
    def key(self) -> Key:
        """The order of its versions."""
        return _KEYS[self.component.kind]


_KEYS: Mapping[str, Key] = {"wheel": versions.pypi, "deb": versions.debian, "conda": versions.conda}


def stored_source(deb: LockedDeb) -> Source | None:
    """What the package itself says of its source; None where it is not in the store of this machine."""
    path = stored(deb.sha256, deb.file.rsplit("/", 1)[-1])
    if not path.exists():
        return None
    field = re.search(r"^Source: *(\S+)(?: *\(([^)]+)\))? *$", control_paragraph(path), re.MULTILINE)
    return Source(field[1], field[2] or deb.version) if field else Source(deb.name, deb.version)


def likely_source(deb: LockedDeb) -> Source | None:
    """The same from the lock: the pool's folder names the source, a rebuild's +bN is no part of its version."""
    name = source_name(deb)
    return Source(name, re.sub(r"\+b\d+$", "", deb.version)) if name else None


def targets(
    lock: EnvLock, source_of: Callable[[LockedDeb], Source | None] = likely_source
) -> tuple[tuple[Target, ...], tuple[str, ...]]:
    """What can be looked up, and in sentences what can't."""
    debs = {one.sha256: one for one in lock.base}
    found: list[Target] = []
    unknown: list[str] = []
    for one in components(lock):
        match one.kind:
            case "wheel":
                found.append(Target(component=one, ecosystem="PyPI", name=normalised(one.name), version=one.version))
            case "conda":  # a conda package of a Python project mostly has that project's name
                for ecosystem in ("conda", "PyPI"):
                    name = normalised(one.name) if ecosystem == "PyPI" else one.name
                    found.append(Target(component=one, ecosystem=ecosystem, name=name, version=one.version))
            case "deb":
                source = source_of(debs[one.sha256])
                if source is None:
                    unknown.append(one.name)
                found.append(_debian(one, source or Source(one.name, one.version), lock.suite))
    return tuple(found), tuple(_notes(lock, unknown))


def _debian(one: Component, source: Source, suite: str) -> Target:
    return Target(
        component=one,
        ecosystem="Debian",
        name=source.name,
        version=source.version,
        release=RELEASES.get(suite, suite),
    )


def _notes(lock: EnvLock, unknown: list[str]) -> Iterator[str]:
    if unknown:
        yield f"source package not known, looked up by their own name, which may miss some: {', '.join(unknown)}"
    if lock.base and not RELEASES.get(lock.suite, lock.suite).isdigit():
        yield f"Debian {lock.suite!r} is a suite without a number here: only advisories for all of Debian were matched"
    if lock.base_image or lock.base_archive:
        yield "the base is an image: the lock does not list the packages inside it, they were not looked up"
    if lock.conda:
        yield "conda packages were also looked up as Python packages of the same name"
    yield "not looked up: the interpreter, weights and pictures, which no ecosystem of OSV's lists"
