"""Versions of what is installed, read without importing it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence


def installed(distributions: Sequence[str]) -> dict[str, str]:
    """Name -> version, of those of the names that are there."""
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
