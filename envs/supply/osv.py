"""OSV entries: their records, and whether a version is among those that one names."""

from __future__ import annotations

from typing import Any

import msgspec

from envs.supply.versions import Key


class Event(msgspec.Struct, frozen=True):
    """One step along the versions; exactly one of the four is given."""

    introduced: str | None = None
    fixed: str | None = None
    last_affected: str | None = None
    limit: str | None = None


class Range(msgspec.Struct, frozen=True):
    """Events of one order; of type GIT they are commits, which no lock has."""

    type: str
    events: tuple[Event, ...] = ()


class Package(msgspec.Struct, frozen=True):
    """A package's name in an ecosystem (`PyPI`, `Debian:12`)."""

    ecosystem: str
    name: str


class Severity(msgspec.Struct, frozen=True):
    """A score by a named method (`CVSS_V3`)."""

    type: str
    score: str


class Affected(msgspec.Struct, frozen=True):
    """The versions of one package that an entry is about."""

    package: Package | None = None
    ranges: tuple[Range, ...] | None = None
    versions: tuple[str, ...] | None = None
    severity: tuple[Severity, ...] | None = None
    ecosystem_specific: dict[str, Any] | None = None


class Entry(msgspec.Struct, frozen=True):
    """What an advisory says, as far as it is read here; other fields are passed over."""

    id: str
    summary: str | None = None
    details: str | None = None
    aliases: tuple[str, ...] | None = None
    upstream: tuple[str, ...] | None = None
    withdrawn: str | None = None
    affected: tuple[Affected, ...] | None = None
    severity: tuple[Severity, ...] | None = None
    database_specific: dict[str, Any] | None = None

    def names(self) -> frozenset[str]:
        """The ids under which this one vulnerability is known; an only upstream is the same under another roof."""
        upstream = self.upstream or ()
        return frozenset({self.id, *(self.aliases or ()), *(upstream if len(upstream) == 1 else ())})


class Verdict(msgspec.Struct, frozen=True):
    """Whether a version is affected, and the first fixed ones after it."""

    affected: bool
    fixed: tuple[str, ...] = ()


class _Step(msgspec.Struct, frozen=True):
    """One event at its place in the order."""

    place: Any
    kind: str
    text: str


_AT_ONE_VERSION = ("fixed", "introduced", "last_affected")  # so that a fix never hides what comes back with it


def judge(version: str, affected: Affected, key: Key) -> Verdict:
    """OSV's evaluation: listed by name, or inside one of the ranges. ValueError where it can't be decided."""
    ranges = [one for one in affected.ranges or () if one.type != "GIT"]
    if not ranges and not affected.versions:
        raise ValueError("it names commits only" if affected.ranges else "it names no versions")
    have = key(version)
    verdicts = [_judge_range((1, have), one, key) for one in ranges]
    listed = any(text == version or _same(text, have, key) for text in affected.versions or ())
    fixed = {text for one in verdicts for text in one.fixed}
    return Verdict(listed or any(one.affected for one in verdicts), tuple(sorted(fixed, key=key)))


def _same(text: str, have: Any, key: Key) -> bool:
    try:
        return bool(key(text) == have)
    except ValueError:
        return False  # an old release under a name that is no version: it can only be met by its text


def _judge_range(have: Any, one: Range, key: Key) -> Verdict:
    steps = sorted(
        (step for event in one.events for step in _steps(event, key)),
        key=lambda step: (step.place, _AT_ONE_VERSION.index(step.kind)),
    )
    if not any(step.kind == "introduced" for step in steps):
        raise ValueError("a range says nowhere where it begins")
    affected = False
    for step in steps:
        if step.kind == "introduced" and have >= step.place:
            affected = True
        elif (step.kind == "fixed" and have >= step.place) or (step.kind == "last_affected" and have > step.place):
            affected = False
    limits = [event.limit for event in one.events if event.limit is not None]
    if limits and not any(limit == "*" or have < (1, key(limit)) for limit in limits):
        affected = False
    later = [step.text for step in steps if affected and step.kind == "fixed" and step.place > have]
    return Verdict(affected, tuple(later[:1]))


def _steps(event: Event, key: Key) -> list[_Step]:
    given = [(kind, text) for kind in _AT_ONE_VERSION if (text := getattr(event, kind)) is not None]
    if not given and event.limit is None:
        raise ValueError("an event names no version")
    lowest = ("introduced", "0")  # before everything, whatever the ecosystem's order says of "0"
    return [_Step((0, 0) if pair == lowest else (1, key(pair[1])), *pair) for pair in given]
