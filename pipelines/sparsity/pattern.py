"""N:M patterns: N kept of every M consecutive elements along the input-channel axis (specification, section 9)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.arrays import Array

_PAIRWISE_UP_TO = 16  # beyond it m*(m-1)/2 comparisons cost more than a sort


@dataclass(frozen=True)
class Violation:
    """A group that keeps too many: `index` is its place in all axes but the pattern's, in their order."""

    index: tuple[int, ...]
    group: int
    nonzeros: int


@dataclass(frozen=True)
class NMPattern:
    """n kept of every m consecutive elements. ValueError unless 1 <= n < m, both whole numbers."""

    n: int
    m: int

    def __post_init__(self) -> None:
        for name in ("n", "m"):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        if self.n < 1:
            raise ValueError(f"n: {self.n} keeps nothing")
        if self.n >= self.m:
            raise ValueError(f"n: {self.n} of m: {self.m} prunes nothing")

    @classmethod
    def parse(cls, text: str) -> NMPattern:
        """`"2:4"`. ValueError for anything else."""
        n, colon, m = text.partition(":") if isinstance(text, str) else ("", "", "")
        if not (colon and n.isascii() and n.isdigit() and m.isascii() and m.isdigit()):
            raise ValueError(f"text: {text!r} is not N:M, as in 2:4")
        return cls(int(n), int(m))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def index_bits(self) -> int:
        """Position bits per group as hardware stores them: n indices of ceil(log2 m) bits."""
        return self.n * (self.m - 1).bit_length()  # ceil(log2 m), exact for any size

    @property
    def entropy_bits(self) -> int:
        """Position bits per group that any code needs: ceil(log2 C(m, n))."""
        return (math.comb(self.m, self.n) - 1).bit_length()

    def group_count(self, shape: Sequence[int], axis: int = 1) -> int:
        """Groups of a weight of that shape; a ragged last one counts."""
        length = shape[axis]
        return math.prod(shape) // length * -(-length // self.m) if length else 0

    def mask(self, weight: Array, axis: int = 1) -> Array:
        """bool, the shape of `weight`: True for the n largest |w| of each group of m along `axis`.

        Ties go to the lowest index; a ragged last group counts as zero-padded. ValueError for NaN or a wrong axis.
        """
        groups = self._groups(_magnitude(weight), axis)
        kept = _largest(groups, self.n)
        flat = kept.reshape(*kept.shape[:-2], kept.shape[-2] * self.m)[..., : np.shape(weight)[axis]]
        return np.ascontiguousarray(np.moveaxis(flat, -1, axis))

    def retained_magnitude(self, weight: Array, axis: int = 1) -> float:
        """Sum of |w| over what `mask` keeps, in float64."""
        kept = _magnitude(weight)[self.mask(weight, axis)]
        return float(kept.sum(dtype=np.float64))

    def holds(self, weight: Array, axis: int = 1) -> bool:
        """True where no group has more than n nonzeros."""
        return bool((self._nonzeros(weight, axis) <= self.n).all())

    def broken_groups(self, weight: Array, axis: int = 1) -> int:
        """How many groups have more than n nonzeros."""
        return int(np.count_nonzero(self._nonzeros(weight, axis) > self.n))

    def violations(self, weight: Array, axis: int = 1, limit: int | None = None) -> list[Violation]:
        """Every group with more than n nonzeros, in the order of rows; at most the first `limit`."""
        nonzeros = self._nonzeros(weight, axis)
        broken = np.flatnonzero(nonzeros > self.n)[:limit]
        places = np.stack(np.unravel_index(broken, nonzeros.shape), axis=-1).tolist()
        counts = nonzeros.ravel()[broken].tolist()
        return [Violation(tuple(index), group, count) for (*index, group), count in zip(places, counts, strict=True)]

    def _nonzeros(self, weight: Array, axis: int) -> Array:
        nonzeros: Array = np.count_nonzero(self._groups(_numbers(weight) != 0, axis), axis=-1)
        return nonzeros

    def _groups(self, values: Array, axis: int) -> Array:
        """[..., groups, m], the pattern's axis last, padded with zeros."""
        if not -values.ndim <= _whole("axis", axis) < values.ndim:
            raise ValueError(f"axis: {axis} is none of a weight of shape {values.shape}")
        last = np.moveaxis(values, axis, -1)
        if ragged := -last.shape[-1] % self.m:
            last = np.concatenate([last, np.zeros((*last.shape[:-1], ragged), last.dtype)], axis=-1)
        return last.reshape(*last.shape[:-1], last.shape[-1] // self.m, self.m)


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{name}: {value!r} is not a whole number")
    return int(value)


def _numbers(weight: Array) -> Array:
    values = np.asarray(weight)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"weight: dtype {values.dtype} has no magnitude")
    return values


def _magnitude(weight: Array) -> Array:
    values = _numbers(weight)
    if values.dtype.kind == "i":
        return np.abs(values.astype(np.int64)).view(np.uint64)  # |-128| fits no int8, |-2**63| no int64
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise ValueError("weight: holds NaN")
    magnitude: Array = np.abs(values)
    return magnitude


def _largest(groups: Array, n: int) -> Array:
    """True for the n largest of the last axis, ties to the lowest index."""
    m = groups.shape[-1]
    if m > _PAIRWISE_UP_TO:
        backwards = np.argsort(
            groups[..., ::-1], axis=-1, kind="stable"
        )  # ascending: the last n win, lowest index last
        kept = np.zeros(groups.shape, bool)
        np.put_along_axis(kept, m - 1 - backwards[..., m - n :], True, axis=-1)
        return kept
    columns = [np.ascontiguousarray(groups[..., i]) for i in range(m)]
    ahead = [np.zeros(columns[0].shape, np.uint8) for _ in range(m)]
    for i in range(m):
        for j in range(i + 1, m):
            first = columns[i] >= columns[j]  # on a tie the lower index is ahead
            ahead[j] += first
            ahead[i] += ~first
    return np.stack([count < n for count in ahead], axis=-1)
