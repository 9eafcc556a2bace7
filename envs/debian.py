"""Debian packages at lock time: a signed release, its package index, and the closure of what a base needs.

Only `main` of the suite itself: it moves at point releases, where -updates and -security move any day.
"""

from __future__ import annotations

import datetime as dt
import difflib
import email.utils
import hashlib
import lzma
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from envs.debian_version import satisfies, version_key
from envs.errors import BuildError, FetchError, LockError, SpecError
from envs.lock import LockedDeb
from envs.process import run

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Only maintainer scripts call these, and none run here; they would bring perl and a package manager along.
SCRIPTS_ONLY = frozenset({"debconf", "dpkg", "install-info"})

_RELATION = re.compile(r"([a-z0-9+.-]+)(?::\w+)?\s*(?:\((<<|<=|=|>=|>>|<|>)\s*(\S+?)\s*\))?")
_PRIORITIES = ("required", "important", "standard", "optional", "extra")


class Relation(msgspec.Struct, frozen=True):
    """One package that a dependency names, with its bound on the version where it has one."""

    name: str
    operator: str = ""
    version: str = ""


class Resolved(msgspec.Struct, frozen=True):
    """The packages, and when the archive published what they were chosen from (20260711T101637Z; "" if unsaid)."""

    packages: tuple[LockedDeb, ...]
    date: str


class Package(msgspec.Struct, frozen=True):
    """One stanza of the package index: the fields that a closure needs."""

    locked: LockedDeb
    priority: str
    depends: tuple[tuple[Relation, ...], ...]  # all of: any of
    excludes: tuple[Relation, ...]
    provides: tuple[Relation, ...]

    def meets(self, relation: Relation) -> bool:
        """Whether this package, by its own name or by what it provides, is what the relation asks for."""
        if self.locked.name == relation.name:
            return not relation.operator or satisfies(self.locked.version, relation.operator, relation.version)
        return any(
            offer.name == relation.name
            and (
                not relation.operator
                or (bool(offer.operator) and satisfies(offer.version, relation.operator, relation.version))
            )
            for offer in self.provides
        )


def resolve(
    mirror: str,
    suite: str,
    architecture: str,
    packages: Sequence[str],
    get: Callable[[str], bytes],
    keyring: Path | None = None,
) -> Resolved:
    """The packages and all they depend on, as the suite has them now, sorted by name.

    SpecError for a name that the suite does not have, LockError where no choice satisfies every dependency,
    FetchError where what the mirror sends is not what the archive signed.
    """
    root = f"{mirror.rstrip('/')}/dists/{suite}"
    release = verified_release(get(f"{root}/InRelease"), suite, keyring or KEYRING)
    path = f"main/binary-{architecture}/Packages.xz"
    wanted = re.search(rf"^ ([0-9a-f]{{64}}) +\d+ {re.escape(path)}$", release, re.MULTILINE)
    if wanted is None:
        raise SpecError(f"Debian {suite} has no {path}", "check platform and base.suite in the spec")
    index = get(f"{root}/{path}")
    if hashlib.sha256(index).hexdigest() != wanted[1]:
        raise FetchError(
            f"{path} of Debian {suite} is not the one its release file names",
            "the mirror may be in the middle of an update: try again in some minutes",
        )
    chosen = closure(Index(lzma.decompress(index).decode(), architecture), suite, packages)
    return Resolved(chosen, release_date(release))


def release_date(release: str) -> str:
    """The Date field of a release file as snapshot services write it."""
    found = re.search(r"^Date: (.+)$", release, re.MULTILINE)
    try:
        when = email.utils.parsedate_to_datetime(found[1].replace("UTC", "+0000")) if found else None
    except ValueError:
        when = None
    return "" if when is None else when.astimezone(dt.timezone.utc).strftime("%Y%m%dT%H%M%SZ")


def verified_release(signed: bytes, suite: str, keyring: Path = KEYRING) -> str:
    """The text of an InRelease file, its signature checked; nothing outside the signature is returned."""
    install = "install it (Debian, Ubuntu: apt install gpgv debian-archive-keyring)"
    if shutil.which("gpgv") is None:
        raise LockError("gpgv is not installed, so Debian's release file can't be checked", install)
    if not keyring.exists():
        raise LockError(f"{keyring}: Debian's signing keys are not installed", install)
    try:
        release = run(["gpgv", "--keyring", keyring, "--output", "-"], stdin=signed).decode()
    except BuildError as error:
        raise FetchError(
            f"the release file of Debian {suite} is not signed by the keys in {keyring}: {error.message}",
            "name another mirror, or bring the package debian-archive-keyring up to date",
        ) from error
    names = re.findall(r"^(?:Suite|Codename): (\S+)$", release, re.MULTILINE)
    if suite not in names:
        raise FetchError(f"the mirror sent the release file of {' or '.join(names)} for {suite}", "name another mirror")
    return release


class Index:
    """A package index; a stanza is read when somebody asks for it (there are sixty thousand)."""

    def __init__(self, text: str, architecture: str) -> None:
        self._stanzas: dict[str, list[str]] = {}
        self._providers: dict[str, list[str]] = {}
        self._read: dict[str, Package] = {}
        for stanza in text.split("\n\n"):
            name = re.match(r"Package: (\S+)", stanza)
            if name and re.search(rf"^Architecture: (?:{re.escape(architecture)}|all)$", stanza, re.MULTILINE):
                self._stanzas.setdefault(name[1], []).append(stanza)
                for relation in _relations(_field(stanza, "Provides")):
                    self._providers.setdefault(relation[0].name, []).append(name[1])

    def names(self) -> Iterator[str]:
        return iter(self._stanzas)

    def get(self, name: str) -> Package | None:
        """The newest package of that name."""
        if name not in self._read and name in self._stanzas:
            versions = [_package(stanza) for stanza in self._stanzas[name]]
            self._read[name] = max(versions, key=lambda package: version_key(package.locked.version))
        return self._read.get(name)

    def candidates(self, relation: Relation) -> list[Package]:
        """Who meets it: the package of that name first, then providers by priority and name."""
        real = self.get(relation.name)
        providers = [self.get(name) for name in sorted(set(self._providers.get(relation.name, [])))]
        ranked = sorted((p for p in providers if p), key=lambda package: _PRIORITIES.index(package.priority))
        return [package for package in ([real] if real else []) + ranked if package.meets(relation)]


def closure(index: Index, suite: str, packages: Sequence[str]) -> tuple[LockedDeb, ...]:
    """Everything that the packages need; the same answer whatever order they are named in.

    Dependencies that leave no choice are followed first; then one open choice at a time is made (the first
    alternative there is), and only where nothing chosen so far satisfies it.
    """
    chosen: dict[str, Package] = {}
    waiting: list[tuple[str, tuple[Relation, ...]]] = []

    def choose(package: Package) -> None:
        if package.locked.name not in chosen:
            chosen[package.locked.name] = package
            waiting.extend((package.locked.name, group) for group in package.depends)

    for name in sorted(set(packages)):
        package = index.get(name)
        if package is None:
            near = difflib.get_close_matches(name, list(index.names()), n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else "check base.packages in the spec"
            raise SpecError(f"Debian {suite} has no package {name!r}", hint)
        choose(package)
    while waiting:
        waiting = [(by, group) for by, group in waiting if not _is_met(group, chosen)]
        if not waiting:
            break
        by, group = min(waiting, key=lambda item: (len(item[1]) > 1, item[0], str(item[1])))
        found = next((found for relation in group for found in index.candidates(relation)), None)
        if found is None:
            text = " | ".join(relation.name for relation in group)
            raise LockError(f"Debian {suite} has no {text}, which {by} depends on", "change base.packages")
        choose(found)
    _refuse_conflicts(chosen)
    return tuple(chosen[name].locked for name in sorted(chosen))


def _is_met(group: tuple[Relation, ...], chosen: dict[str, Package]) -> bool:
    if any(relation.name in SCRIPTS_ONLY for relation in group):
        return True
    return any(package.meets(relation) for relation in group for package in chosen.values())


def _refuse_conflicts(chosen: dict[str, Package]) -> None:
    for name, package in sorted(chosen.items()):
        for relation in package.excludes:
            for other in sorted(set(chosen) - {name}):
                if chosen[other].meets(relation):
                    raise LockError(
                        f"the Debian packages {name} and {other} exclude each other", "change base.packages"
                    )


def _field(stanza: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*)$", stanza, re.MULTILINE)
    return found[1] if found else ""


def _relations(text: str) -> tuple[tuple[Relation, ...], ...]:
    """`a (>= 1), b | c:any` as all-of any-of."""
    groups = []
    for group in filter(None, (part.strip() for part in text.split(","))):
        relations = []
        for word in group.split("|"):
            parsed = _RELATION.fullmatch(word.strip())
            if parsed is None:
                raise LockError(f"the package index has a dependency that can't be read: {word.strip()!r}")
            relations.append(Relation(parsed[1], parsed[2] or "", parsed[3] or ""))
        groups.append(tuple(relations))
    return tuple(groups)


def _package(stanza: str) -> Package:
    locked = LockedDeb(
        name=_field(stanza, "Package"),
        version=_field(stanza, "Version"),
        architecture=_field(stanza, "Architecture"),
        file=_field(stanza, "Filename"),
        sha256=_field(stanza, "SHA256"),
        bytes=int(_field(stanza, "Size")),
    )
    depends = _relations(_field(stanza, "Pre-Depends")) + _relations(_field(stanza, "Depends"))
    excludes = _relations(_field(stanza, "Conflicts")) + _relations(_field(stanza, "Breaks"))
    priority = _field(stanza, "Priority")
    return Package(
        locked,
        priority if priority in _PRIORITIES else "extra",
        depends,
        tuple(relation for group in excludes for relation in group),
        tuple(relation for group in _relations(_field(stanza, "Provides")) for relation in group),
    )
