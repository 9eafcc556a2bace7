"""The search's inner loops, compiled or in NumPy: the same whole numbers, so the same orders."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipelines import native
from pipelines.arrays import Array
from pipelines.sparsity import search_reference as reference
from pipelines.sparsity.search_problem import LANES, Problem


@dataclass(frozen=True)
class Kernels:
    """`name` is "numpy" or the level of the compiled ones; `speed` is annealing steps, against NumPy's, in one time."""

    name: str
    speed: int
    swap_gains: Callable[[Problem, Array, Array], Array]
    best_splits: Callable[[Problem, Array, Array], tuple[Array, Array]]
    anneal: Callable[[Problem, Array, Array, int, int, float | None], tuple[Array, int, int]]


NUMPY = Kernels("numpy", 1, reference.swap_gains, reference.best_splits, reference.anneal)
_COMPILED_SPEED = 500  # on 128 rows; a default of steps, no promise of time


def kernels() -> Kernels:
    """The compiled ones where there are any (`pipelines.native.why_missing` says why not), else NumPy's."""
    loaded = native.load()
    return NUMPY if loaded is None else compiled(loaded.library, loaded.level)


def compiled(library: ctypes.CDLL, name: str) -> Kernels:
    """The kernels of a library that has pipelines/native/search_*.c."""
    pointer, i32, i64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    matrix = (pointer, i64, i32, i32)  # columns, blocks, n, m

    swap = library.edgekiln_swap_gains
    swap.argtypes, swap.restype = (*matrix, i32, i32, pointer, pointer, i64, pointer), i32
    best = library.edgekiln_best_splits
    best.argtypes = (*matrix, pointer, pointer, i64, i32, pointer, i32, pointer, i32, pointer, pointer, pointer)
    best.restype = i32
    walk = library.edgekiln_anneal
    walk.argtypes = (*matrix, i32, i32, *[pointer] * 3, ctypes.c_uint64, pointer, i64, i64, pointer, ctypes.c_double)
    walk.restype = i64

    def swap_gains(problem: Problem, order: Array, stripes: Array) -> Array:
        order, stripes = _int32(order), _int32(stripes)
        gains = np.empty((len(stripes) * problem.m, len(order)), np.int64)
        _enough(swap(*_matrix(problem), len(order), problem.channels, *_at(order, stripes), len(stripes), *_at(gains)))
        return gains

    def best_splits(problem: Problem, order: Array, groups: Array) -> tuple[Array, Array]:
        order, groups = _int32(order), _int32(groups)
        table = _split_table(problem.n, problem.m, groups.shape[1])
        gains, chosen = np.empty(len(groups), np.int64), np.empty(len(groups), np.int32)
        _enough(
            best(
                *_matrix(problem), *_at(order, groups), *groups.shape, *_at(table.subsets), len(table.subsets),
                *_at(table.ways), len(table.ways), table.pair_ways.ctypes.data if len(table.pair_ways) else None,
                *_at(gains, chosen),
            )
        )  # fmt: skip
        return gains, chosen

    def anneal(
        problem: Problem, order: Array, temperatures: Array, each: int, seed: int, deadline: float | None
    ) -> tuple[Array, int, int]:
        order = np.array(order, np.int32)  # a copy: the kernel writes to it
        found, gain = np.empty_like(order), np.zeros(1, np.int64)
        temperatures = np.ascontiguousarray(temperatures, np.int64)
        made = walk(
            *_matrix(problem), len(order), problem.channels, *_at(order, found, gain), seed % (1 << 64),
            *_at(temperatures), len(temperatures), each, *_at(reference.WAITS), deadline or 0.0,
        )  # fmt: skip
        _enough(made < 0)
        return found.astype(np.int64), int(gain[0]), int(made)

    return Kernels(name, _COMPILED_SPEED, swap_gains, best_splits, anneal)


@dataclass(frozen=True)
class _SplitTable:
    """`Splits` as the library wants it. pair_ways: which way each of its splits of a pair is; empty but for 2 of 4."""

    subsets: Array
    ways: Array
    pair_ways: Array


@functools.cache
def _split_table(n: int, m: int, stripes: int) -> _SplitTable:
    table = reference.splits(m, stripes)
    pair_ways: list[int] = []
    if (n, m, stripes) == (2, 4, 2):
        number = {frozenset(map(frozenset, way.tolist())): at for at, way in enumerate(table.ways)}
        pair_ways = [number[frozenset((first, frozenset(range(8)) - first))] for first in _pair_splits()]
    return _SplitTable(np.ascontiguousarray(table.subsets, np.int8), _int32(table.where), np.array(pair_ways, np.int32))


def _pair_splits() -> list[frozenset[int]]:
    """The first stripe's columns after each split that `split_pair` in search_splits.c knows, in its order."""
    first = frozenset(range(4))
    swaps = [first - {i} | {4 + j} for i in range(4) for j in range(4)]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    return swaps + [frozenset((*mine, *(4 + j for j in theirs))) for mine in pairs[:3] for theirs in pairs]


def _matrix(problem: Problem) -> tuple[int, int, int, int]:
    return problem.columns.ctypes.data, problem.columns.shape[1] // LANES, problem.n, problem.m


def _at(*arrays: Array) -> tuple[int, ...]:
    return tuple(array.ctypes.data for array in arrays)


def _int32(values: Array) -> Array:
    return np.ascontiguousarray(values, np.int32)


def _enough(failed: int) -> None:
    if failed:
        raise MemoryError("the channel search has too little memory")
