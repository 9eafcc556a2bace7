"""What a rule looks at, and what a rule is."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from envs.verify.records import FileFact


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule may look at. Contents are there only of small files that are on both sides and differ."""

    path: str
    what: str
    ours: FileFact | None = None
    theirs: FileFact | None = None
    left: bytes | None = None  # our content
    right: bytes | None = None  # their content
    recorded: bool = False  # their RECORD is as ours, and names our content's hash for this path
    names: tuple[str, ...] = ()  # what this machine and its user are called


class Rule(msgspec.Struct, frozen=True):
    """A cause that can be told from the evidence, and what to do about it in one line."""

    name: str
    advice: str
    holds: Callable[[Evidence], bool]
