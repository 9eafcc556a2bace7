"""Files by their hash and the places that may have them; what is said where none has."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence

import msgspec
import requests

from envs import sources
from envs.errors import FetchError
from envs.index import list_index
from envs.lock import EnvLock, LockedArchive, LockedDeb, LockedWheel
from envs.spec import load_spec, spec_path

NAMED = 10  # so many missing files are named in one error
Part = str  # of a lock, as `invoke lock --only` names it: base, python, packages or data
SOURCE_OF = {"base": "debian", "python": "interpreter", "packages": "index", "data": "index"}


class Wanted(msgspec.Struct, frozen=True):
    """A file by its hash; `locate` gives its URL and is asked only when store and bundles lack it.

    `elsewhere` are further addresses, asked without credentials when that one has it no more.
    """

    name: str
    sha256: str
    bytes: int
    locate: Callable[[], str]
    auth: requests.auth.AuthBase | None = None
    part: Part = ""
    source: str = ""  # its kind, as sources.VARIABLES has it, where that does not follow from the part
    elsewhere: Callable[[], list[str]] = list


class Miss(msgspec.Struct, frozen=True):
    """A file that no place gave, and what each place did."""

    name: str
    part: Part
    tried: tuple[str, ...]
    wrong_bytes: bool = False  # a place has it, but as another file
    source: str = ""


class Gone(FetchError):
    """Locked files that are nowhere: all of them in one error."""

    def __init__(self, missing: Sequence[Miss], env: str = "", *, drift: bool = False) -> None:
        self.missing = tuple(sorted(missing, key=lambda one: one.name))
        self.parts = tuple(sorted({one.part for one in missing if one.part}))
        go_on = ", or go on without them: --allow-drift" if drift and self.parts else ""
        super().__init__(listed(self.missing), self._remedy(env) + go_on)

    def of(self, env: str) -> Gone:
        """The same, with the command that refreshes the lock of that environment."""
        return Gone(self.missing, env)

    def _remedy(self, env: str) -> str:
        kinds = dict.fromkeys(one.source or SOURCE_OF[one.part] for one in self.missing if one.part)
        kinds = kinds or dict.fromkeys(sources.VARIABLES)
        variables = dict.fromkeys(sources.VARIABLES[kind] for kind in (*kinds, "snapshot", "bundle"))
        remedy = f"check the network, name another place ({', '.join(variables)})"
        if not self.parts:
            return remedy
        who = f" --env {env}" if env else ""
        commands = " and ".join(f"`invoke lock{who} --only {part}`" for part in self.parts)
        return f"{remedy}, or refresh the lock: {commands}"


def listed(missing: Sequence[Miss]) -> str:
    if len(missing) == 1:
        return f"{missing[0].name}: {', '.join(missing[0].tried)}"
    shown = "; ".join(f"{one.name} ({', '.join(one.tried)})" for one in missing[:NAMED])
    more = f"; and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return f"{len(missing)} locked files can't be had: {shown}{more}"


@contextlib.contextmanager
def refreshing(env: str) -> Iterator[None]:
    """Files that turn out to be nowhere are reported with the command that refreshes the lock of `env`."""
    try:
        yield
    except Gone as error:
        raise error.of(env) from error


def wheel(locked: LockedWheel, part: Part = "packages") -> Wanted:
    """A wheel, to be looked up by its file name in the configured index when the store lacks it."""

    def locate() -> str:
        listed = list_index(locked.name)
        if locked.file not in listed:
            raise FetchError(f"{locked.file}: the package index does not list it")
        return listed[locked.file].url

    def elsewhere() -> list[str]:
        return sources.snapshot_urls(file=locked.file, sha256=locked.sha256, name=locked.name)

    return Wanted(locked.file, locked.sha256, locked.bytes, locate, part=part, elsewhere=elsewhere)


def base_archive(locked: LockedArchive, env: str) -> Wanted:
    """The image archive of a base: where the store lacks it, the file that the spec of `env` names."""

    def locate() -> str:
        path = spec_path(env).parent / load_spec(env).base.archive
        if not path.is_file():
            raise FetchError(f"not in the store of this machine, and not at {path}")
        return path.resolve().as_uri()

    return Wanted(locked.file, locked.sha256, locked.bytes, locate, part="base")


def base_packages(lock: EnvLock) -> list[Wanted]:
    """All Debian packages of a lock's base."""
    date = lock.base_date or re.sub(r"[-:]", "", lock.exclude_newer)
    return [deb(one, lock.suite, date) for one in lock.base]


def deb(locked: LockedDeb, suite: str, date: str = "") -> Wanted:
    """A Debian package by its pool path on the configured mirror; `date` (of the lock's base) is for snapshots."""
    return Wanted(
        locked.file.rsplit("/", 1)[-1],
        locked.sha256,
        locked.bytes,
        lambda: f"{sources.debian_mirror(suite)}/{locked.file}",
        part="base",
        elsewhere=lambda: sources.snapshot_urls(
            file=locked.file, suite=suite, date=date, sha256=locked.sha256, name=locked.name
        ),
    )
