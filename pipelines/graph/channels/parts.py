"""The algebra of axes: which channels lie along an axis, and what must be reordered together.

A variable is a run of channels that may be reordered among themselves. An axis is a sequence of parts
(variable, inner): channel c of the variable takes the `inner` positions from start + c * inner on, start being the
sum of the lengths before. Joining two axes makes their variables one; where their cuts differ, variables are
replaced by sequences of smaller or coarser ones, as in a union-find whose links lead to lists.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import lcm

Part = tuple[int, int]  # variable, inner
Parts = tuple[Part, ...]


class Algebra:
    """All variables of one graph; a variable is a number. A pinned one has a reason why it keeps its order."""

    def __init__(self) -> None:
        self.size: list[int] = []
        self.reason: list[str] = []
        self._to: list[Parts | None] = []  # what a variable was replaced by; None while it stands for itself
        self._of_reason: dict[str, int] = {}

    def fresh(self, size: int) -> int:
        """A new variable of that many channels."""
        self.size.append(size)
        self.reason.append("")
        self._to.append(None)
        return len(self.size) - 1

    def fixed(self, length: int, reason: str) -> Parts:
        """An axis whose order is fixed for that reason: one channel as long as the axis."""
        if length == 0:
            return ()
        if reason not in self._of_reason:
            self._of_reason[reason] = self.fresh(1)
            self.reason[-1] = reason
        return ((self._of_reason[reason], length),)

    def resolved(self, parts: Iterable[Part]) -> Parts:
        """The same axis in variables that stand for themselves."""
        made: list[Part] = []
        for variable, inner in parts:
            to = self._flat(variable)
            if to is None:
                made.append((variable, inner))
            else:
                made.extend((one, its * inner) for one, its in to)
        return tuple(made)

    def length(self, parts: Iterable[Part]) -> int:
        """Positions along the axis."""
        return sum(self.size[variable] * inner for variable, inner in parts)

    def pin(self, parts: Iterable[Part], reason: str) -> None:
        """Every variable of the axis keeps its order; the first reason given stays."""
        for variable, _ in self.resolved(parts):
            self.reason[variable] = self.reason[variable] or reason

    def is_free(self, parts: Iterable[Part]) -> bool:
        """Whether anything along the axis can still be reordered."""
        return any(self.size[one] > 1 and not self.reason[one] for one, _ in self.resolved(parts))

    def why(self, parts: Iterable[Part]) -> str:
        """Why the axis keeps its order, as far as any of its variables says."""
        return next((self.reason[one] for one, _ in self.resolved(parts) if self.reason[one]), "")

    def segment(self, parts: Parts, start: int, stop: int) -> Parts:
        """Positions start .. stop of an axis; variables are cut there."""
        made: list[Part] = []
        left = _Reader(self, parts)
        at = 0
        while at < stop and (part := left.next()) is not None:
            variable, inner = part
            size = self.size[variable]
            end = at + size * inner
            if end <= start or (start <= at and end <= stop):
                if end > start:
                    made.append(part)
                at = end
            elif size == 1:
                made.append((variable, min(end, stop) - max(at, start)))
                at = end
            else:  # cut, and read the pieces again; a border inside a channel sets that channel apart
                border = start if start > at else stop
                left.put_back(self._cut(variable, max(1, (border - at) // inner), inner))
        return tuple(made)

    def join(self, one: Parts, other: Parts, reason: str) -> None:
        """The two axes are reordered alike from now on; `reason` pins what can't be."""
        first, second = self.resolved(one), self.resolved(other)
        if first == second or self._becomes(second, first) or self._becomes(first, second):
            return
        left, right = _Reader(self, first), _Reader(self, second)
        while (a := left.next()) is not None and (b := right.next()) is not None:
            if a == b:
                continue
            if self.size[a[0]] == 1 or self.size[b[0]] == 1:
                self._join_single(a, b, left, right, reason)
            elif a[0] == b[0]:  # the same channels at two scales
                self.pin((a,), reason)
                left.put_back(self.fixed(self.length((a,)), self.reason[a[0]]))
                right.put_back(self.fixed(self.length((b,)), self.reason[a[0]]))
            else:
                self._join_runs(a, b, left, right)

    def _becomes(self, whole: Parts, parts: Parts) -> bool:
        """The common case, a variable as long as the axis: it becomes all the parts at once, where they fit in it."""
        if len(whole) != 1 or self.size[whole[0][0]] == 1:
            return False
        ((variable, inner),) = whole
        if any(its % inner or self.size[one] == 1 or one == variable for one, its in parts):
            return False
        self._replace(variable, tuple((one, its // inner) for one, its in parts))
        return True

    def _join_single(self, a: Part, b: Part, left: _Reader, right: _Reader, reason: str) -> None:
        """One channel (or a fixed axis) beside a run: what it covers of the run keeps its order."""
        if self.size[a[0]] > 1:
            a, b, left, right = b, a, right, left
        (_, covered), (run, inner) = a, b
        size = self.size[run]
        if size > 1:
            whole = min(size, -(-covered // inner))
            if whole < size:
                right.put_back(self._cut(run, whole, inner))
                left.put_back((a,))
                return
            self.reason[run] = self.reason[run] or self.reason[a[0]] or reason
        both = min(covered, size * inner)
        if covered > both:
            left.put_back(((a[0], covered - both),))
        if size * inner > both:
            rest = size * inner - both
            right.put_back(((run, rest),) if size == 1 else self.fixed(rest, self.reason[run]))

    def _join_runs(self, a: Part, b: Part, left: _Reader, right: _Reader) -> None:
        """Two runs: blocks of their common multiple are reordered together."""
        block = lcm(a[1], b[1])
        count = min(self.length((a,)), self.length((b,))) // block
        wanted = [max(1, count * block // inner) for _, inner in (a, b)]
        if [self.size[a[0]], self.size[b[0]]] != wanted:
            for (variable, inner), size, reader in zip((a, b), wanted, (left, right), strict=True):
                cut = self.size[variable] > size
                reader.put_back(self._cut(variable, size, inner) if cut else ((variable, inner),))
            return
        coarse, fine = (a, b) if a[1] >= b[1] else (b, a)
        if coarse[1] != block:  # neither inner divides the other
            shared = self.fresh(count)
            self._replace(coarse[0], ((shared, block // coarse[1]),))
            coarse = (shared, block)
        self._replace(fine[0], ((coarse[0], block // fine[1]),))

    def _cut(self, variable: int, at: int, inner: int) -> Parts:
        pieces = (self.fresh(at), self.fresh(self.size[variable] - at))
        self._replace(variable, tuple((piece, 1) for piece in pieces))
        return tuple((piece, inner) for piece in pieces)

    def _replace(self, variable: int, by: Parts) -> None:
        self._to[variable] = by
        for one, _ in by:
            self.reason[one] = self.reason[one] or self.reason[variable]

    def _flat(self, variable: int) -> Parts | None:
        """What the variable stands for, in variables that stand for themselves; None where that is itself."""
        if self._to[variable] is None:
            return None
        made: list[Part] = []
        waiting = [(variable, 1)]
        while waiting:
            one, inner = waiting.pop()
            to = self._to[one]
            if to is None:
                made.append((one, inner))
            else:
                waiting.extend((its, deep * inner) for its, deep in reversed(to))
        self._to[variable] = tuple(made)
        return self._to[variable]


class _Reader:
    """Reads an axis part by part while variables are being replaced."""

    def __init__(self, algebra: Algebra, parts: Parts) -> None:
        self._algebra = algebra
        self._waiting = list(reversed(parts))

    def next(self) -> Part | None:
        """The next part, in a variable that stands for itself; None at the end."""
        if not self._waiting:
            return None
        variable, inner = self._waiting.pop()
        self._waiting.extend(reversed(self._algebra.resolved(((variable, inner),))))
        return self._waiting.pop()

    def put_back(self, parts: Parts) -> None:
        """These are read next."""
        self._waiting.extend(reversed(parts))


def scaled(parts: Parts, inner: int) -> Parts:
    """Each position becomes `inner` neighbouring ones."""
    return tuple((variable, its * inner) for variable, its in parts)
