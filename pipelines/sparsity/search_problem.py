"""A permutation search's matrix as whole numbers: sums are exact, so no result depends on lanes, threads or machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.arrays import Array
from pipelines.sparsity.pattern import NMPattern

LANES = 16  # rows that the kernels take at once
_FINEST = 1 << 23
_MOST_NUMBERS = 1 << 25  # of a problem: beyond, time and memory grow and orders hardly get better
_MOST_KEPT = 4  # of one row in one of the kernels' sums: two of each of two stripes
_LARGEST_SUM = (1 << 31) - 1  # the kernels add in int32


@dataclass(frozen=True)
class Problem:
    """Maximise the sum over rows and stripes of the n largest of m.

    columns: int32 [stripes * m, rows] at a multiple of 64 bytes: |w| in units of `unit`. Rows that no order can change
    are left out, equal rows are one row times their count, and zero rows fill up to whole lanes. Where n > m / 2, the
    order that is best for m - n of -|w| is best, and that is what columns and n hold. Columns from `channels` on are
    the zeros that fill a ragged last stripe; they stay where they are. Of more than 2**25 numbers, rows are a sample.
    """

    columns: Array
    n: int
    m: int
    channels: int
    rows: int  # without those that fill up
    total: int  # sum of |w| over `columns`, in units
    unit: float

    @property
    def stripes(self) -> int:
        return len(self.columns) // self.m


def search_problem(magnitude: Array, pattern: NMPattern) -> Problem:
    """`magnitude` float64 [rows, channels], finite and nonnegative."""
    rows = _fold(magnitude, pattern.n)
    channels = magnitude.shape[1]
    kept = min(pattern.n, pattern.m - pattern.n)
    blocks = max(1, -(-len(rows) // LANES))
    levels = max(1, min(_FINEST, _LARGEST_SUM // (blocks * LANES * _MOST_KEPT)))
    top = float(rows.max(initial=0.0))
    unit = top / levels if top / levels > 0 else 1.0
    columns = _aligned(-(-channels // pattern.m) * pattern.m, blocks * LANES)
    columns[:channels, : len(rows)] = np.rint(rows / unit).T
    total = int(columns.sum(dtype=np.int64))
    if kept < pattern.n:
        np.negative(columns, out=columns)
    return Problem(columns, kept, pattern.m, channels, len(rows), total, unit)


def _fold(magnitude: Array, n: int) -> Array:
    """Without rows that keep the same whatever the order (at most n nonzeros, or one value throughout)."""
    varies = magnitude.min(axis=1, initial=np.inf) < magnitude.max(axis=1, initial=-np.inf)
    rows: Array = magnitude[varies & (np.count_nonzero(magnitude, axis=1) > n)]
    # equal rows have equal sums of products: only where there are some is the comparison of whole rows worth its time
    factors = np.arange(1, rows.shape[1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    if len(np.unique(rows.view(np.uint64) @ factors)) < len(rows):
        rows, counts = np.unique(rows, axis=0, return_counts=True)
        rows = rows * counts[:, None]
    return rows[:: max(1, -(-rows.size // _MOST_NUMBERS))]


def _aligned(places: int, rows: int) -> Array:
    """int32 zeros where the kernels' widest loads may begin."""
    space = np.zeros(places * rows + LANES, np.int32)
    begin = -space.ctypes.data % (4 * LANES) // 4
    return space[begin : begin + places * rows].reshape(places, rows)
