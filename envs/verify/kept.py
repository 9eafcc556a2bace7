"""Which contents are kept in memory for the rules: those that differ, a limited number of limited size."""

from __future__ import annotations

from collections.abc import Iterable

from envs.verify.compare import same_content
from envs.verify.flat import Files
from envs.verify.records import FileFact
from envs.verify.tars import KEPT_BYTES, ReadLayer

ALL_BYTES = 64 << 20
FILES = 500


class Kept:
    """Decides file by file while an archive goes by."""

    def __init__(self, others: Files) -> None:
        self._others = others
        self._left = ALL_BYTES
        self.paths: set[str] = set()

    def take(self, fact: FileFact) -> bool:
        """Whether that file's content is wanted: the other side has another one, and there is room."""
        other = self._others.get(fact.path)
        differs = other is not None and other.kind in ("file", "hardlink") and not same_content(other, fact)
        if not differs or fact.size > min(KEPT_BYTES, self._left) or len(self.paths) >= FILES:
            return False
        self._left -= fact.size
        self.paths.add(fact.path)
        return True


def contents(layers: Iterable[ReadLayer]) -> dict[str, bytes]:
    """What was kept of all layers, the upper ones' over the lower ones'."""
    return {path: data for layer in layers for path, data in layer.contents.items()}
