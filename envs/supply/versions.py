"""The order of versions in each ecosystem that a lock draws from."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

from packaging.version import Version

from envs.debian_version import version_key
from envs.errors import SpecError

Key = Callable[[str], Any]  # text -> something that sorts; ValueError for what is no version there

_Element = int | float | str
_Component = tuple[_Element, ...]
_Parsed = tuple[tuple[_Component, ...], tuple[_Component, ...], tuple[_Component, ...]]


def debian(text: str) -> Any:
    """Debian's order."""
    try:
        return version_key(text)
    except SpecError as error:
        raise ValueError(error.message) from error


def pypi(text: str) -> Any:
    """PEP 440's order."""
    return Version(text)


def conda(text: str) -> Any:
    """Conda's order, as its VersionOrder documents it."""
    return _conda_key(_conda_parsed(text))


def _conda_parsed(text: str) -> _Parsed:
    """Epoch, version and local part, each as components of numbers and words."""
    plain = text.strip().lower()
    if not re.fullmatch(r"(?:[0-9]+!)?[*a-z0-9][*._a-z0-9-]*(?:\+[*._a-z0-9-]+)?", plain):
        raise ValueError(f"{text!r} is not a conda version")
    epoch, _, rest = plain.rpartition("!")
    version, _, local = rest.partition("+")
    return _conda_components(epoch or "0"), _conda_components(version), _conda_components(local)


def _conda_components(text: str) -> tuple[_Component, ...]:
    if not text:
        return ()
    *front, last = text.rstrip("_-").replace("_", ".").replace("-", ".").split(".")
    trailing = "_" if text[-1] in "_-" else ""  # 1.0.1_ was made to sort before 1.0.1a
    return tuple(_conda_component(part) for part in (*front, last + trailing))


def _conda_component(text: str) -> _Component:
    words: dict[str, _Element] = {"post": float("inf"), "dev": "DEV"}  # capitals sort before all other words
    found = re.findall(r"[0-9]+|[*]+|[^0-9*]+", text)
    elements = tuple(int(word) if word.isdigit() else words.get(word, word) for word in found)
    return elements if not elements or not isinstance(elements[0], str | float) else (0, *elements)


def _conda_compare(one: _Parsed, other: _Parsed) -> int:
    for part, other_part in zip(one, other, strict=True):
        for component, other_component in zip_longest(part, other_part, fillvalue=()):
            for a, b in zip_longest(component, other_component, fillvalue=0):
                a_rank, b_rank = not isinstance(a, str), not isinstance(b, str)  # words sort before numbers
                if (a_rank, a) != (b_rank, b):
                    return -1 if a_rank < b_rank or (a_rank == b_rank and a < b) else 1  # type: ignore[operator]
    return 0


_conda_key = functools.cmp_to_key(_conda_compare)
