"""Order of Debian version strings, as deb-version(7) defines it."""

from __future__ import annotations

import re

from envs.errors import SpecError

# One pair per "letters, then digits" of the text; a tuple of such pairs sorts as Debian does.
_Part = tuple[tuple[int, ...], int]
VersionKey = tuple[int, tuple[_Part, ...], tuple[_Part, ...]]

_END: _Part = ((0,), 0)


def version_key(version: str) -> VersionKey:
    """A key for sorting. SpecError where the text is no Debian version."""
    epoch, colon, rest = version.partition(":") if ":" in version else ("", "", version)
    if not re.fullmatch(r"[A-Za-z0-9.+~:-]+", rest) or (colon and not re.fullmatch(r"[0-9]+", epoch)):
        raise SpecError(f"{version!r} is not a Debian version")
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return int(epoch or "0"), _parts(upstream), _parts(revision)


def satisfies(version: str, relation: str, wanted: str) -> bool:
    """Whether `version` stands in that relation (<<, <=, =, >=, >>) to `wanted`."""
    have, want = version_key(version), version_key(wanted)
    match relation:
        case "<<":
            return have < want
        case "<=" | "<":  # the one-character forms are old spellings of "or equal"
            return have <= want
        case "=":
            return have == want
        case ">=" | ">":
            return have >= want
        case ">>":
            return have > want
    raise SpecError(f"{relation!r} is not a Debian version relation")


def _parts(text: str) -> tuple[_Part, ...]:
    pairs = re.findall(r"([^0-9]*)([0-9]*)", text or "0")[:-1]  # the last match is always the empty one
    parts = (((*map(_rank, letters), 0), int(digits or "0")) for letters, digits in pairs)
    return (*parts, _END)  # so that "1~" sorts before "1" and "1" before "1.0"


def _rank(letter: str) -> int:
    if letter == "~":
        return -1  # before the end of the text itself
    return ord(letter) if letter.isalpha() else ord(letter) + 256
