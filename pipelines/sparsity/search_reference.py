"""The kernels of the search in NumPy: what the compiled ones are compared with, and what runs where there are none.

An order is int64 [stripes * m]: the column at each place. All sums are whole numbers.
"""

from __future__ import annotations

import functools
import itertools
import time
from dataclasses import dataclass

import numpy as np

from pipelines.arrays import Array
from pipelines.sparsity.search_problem import Problem

TILE = 4  # channels of each stripe that an annealing step looks at
WAITS = np.rint(-np.log((np.arange(4096) + 0.5) / 4096) * 65536).astype(np.int32)  # exponential draws, 16-bit fraction
_BATCH = 1 << 22  # numbers in flight at once


class Draws:
    """splitmix64 (Steele, Lea, Flood 2014): the same numbers here and in the compiled kernels."""

    def __init__(self, seed: int) -> None:
        self._state = seed % (1 << 64)

    def below(self, bound: int) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) % (1 << 64)
        z = self._state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % (1 << 64)
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % (1 << 64)
        return (((z ^ (z >> 31)) >> 32) * bound) >> 32


def stripe_scores(problem: Problem, order: Array) -> Array:
    """int64 [stripes]: what each keeps."""
    groups = problem.columns[order].reshape(problem.stripes, problem.m, -1)
    top = np.partition(groups, problem.m - problem.n, axis=1)[:, problem.m - problem.n :]
    kept: Array = top.sum(axis=(1, 2), dtype=np.int64)
    return kept


# --- one channel of each of two stripes ---


def _holders(values: Array, n: int) -> tuple[Array, Array]:
    """For stripes [..., m, rows]: rivals of that shape and held [..., m].

    A rival is the n-th largest of its stripe without that place: where the place gives way to x, the stripe changes by
    sum(max(x, rival)) - held.
    """
    ranked = np.sort(values, axis=-2)
    nth, after = ranked[..., [-n], :], ranked[..., [-n - 1], :]
    return np.where(values >= nth, after, nth), np.maximum(values, nth).sum(axis=-1)


def _tile_gains(one: Array, other: Array, rivals: tuple[Array, Array], held: tuple[Array, Array]) -> Array:
    """int64 [i, j] of swapping column i of `one` [i, rows] with column j of `other` [j, rows]."""
    taken = np.maximum(one[:, None], rivals[1][None]) + np.maximum(other[None], rivals[0][:, None])
    gains: Array = taken.sum(axis=-1) - held[0][:, None] - held[1][None]
    return gains


def swap_gains(problem: Problem, order: Array, stripes: Array) -> Array:
    """int64 [len(stripes) * m, places] of swapping each place of `stripes` with every place.

    0 within a stripe and with filling.
    """
    m = problem.m
    values = problem.columns[order].astype(np.int64).reshape(problem.stripes, m, -1)
    rivals, held = _holders(values, problem.n)
    gains = np.zeros((len(stripes), m, problem.stripes, m), np.int64)
    for row, s in enumerate(stripes):
        for t in range(problem.stripes):
            if s != t:
                both = (rivals[s], rivals[t]), (held[s], held[t])
                gains[row, :, t] = _tile_gains(values[s], values[t], *both)
    table = gains.reshape(len(stripes) * m, -1)
    table[:, problem.channels :] = 0
    table[(np.asarray(stripes)[:, None] * m + np.arange(m)).reshape(-1) >= problem.channels] = 0
    return table


# --- every split of a window of stripes ---


@dataclass(frozen=True)
class Splits:
    """The ways to share a window's columns among its stripes, the present one first.

    ways int64 [splits, stripes, m]; subsets int64 [subsets, m] are the stripes that occur and where [splits, stripes]
    says which.
    """

    ways: Array
    subsets: Array
    where: Array


@functools.cache
def splits(m: int, stripes: int) -> Splits:
    """For windows of `stripes` stripes: 35 splits of two and 5,775 of three for m = 4."""

    def share(left: tuple[int, ...]) -> list[tuple[tuple[int, ...], ...]]:
        if not left:
            return [()]
        first, rest = left[0], left[1:]
        return [
            ((first, *others), *tail)
            for others in itertools.combinations(rest, m - 1)
            for tail in share(tuple(place for place in rest if place not in others))
        ]

    ways = np.array(share(tuple(range(m * stripes))))
    subsets, where = np.unique(ways.reshape(-1, m), axis=0, return_inverse=True)
    return Splits(ways, subsets, where.reshape(ways.shape[:2]))


def best_splits(problem: Problem, order: Array, groups: Array) -> tuple[Array, Array]:
    """For each group of stripes [groups, stripes] the gain of its first best split, and which it is. m <= 4."""
    table = splits(problem.m, groups.shape[1])
    windows = order.reshape(problem.stripes, problem.m)[groups].reshape(len(groups), -1)
    gains, best = np.empty(len(groups), np.int64), np.empty(len(groups), np.int64)
    step = max(1, _BATCH // (len(table.subsets) * problem.columns.shape[1] + table.where.size))
    for begin in range(0, len(groups), step):
        at = slice(begin, begin + step)
        kept = _subset_scores(problem, windows[at], table.subsets)[:, table.where].sum(axis=2)
        best[at] = kept.argmax(axis=1)
        gains[at] = kept.max(axis=1) - kept[:, 0]
    return gains, best


def _subset_scores(problem: Problem, windows: Array, subsets: Array) -> Array:
    """int64 [windows, subsets]: what each subset of a window's columns keeps as a stripe."""
    values = problem.columns[windows]
    parts = [values[:, subsets[:, k]] for k in range(problem.m)]
    if problem.n == 1:
        kept = np.maximum.reduce(parts)
    else:  # of four the two largest: the larger of each pair, or both of one
        a, b, c, d = parts
        kept = np.maximum(np.maximum(a, b) + np.maximum(c, d), np.maximum(a + b, c + d))
    scores: Array = kept.sum(axis=2, dtype=np.int64)
    return scores


# --- annealing ---


def anneal(
    problem: Problem, order: Array, temperatures: Array, each: int, seed: int, deadline: float | None
) -> tuple[Array, int, int]:
    """Simulated annealing (Kirkpatrick, Gelatt, Vecchi 1983): the best order, its gain over `order`, the steps made.

    A step draws two stripes, of each up to four channels, and takes the first of their swaps, from a random one on,
    with gain >= -temperature * an exponential draw: what Metropolis' rule asks of one swap.
    `temperatures` int64, each held for `each` steps.
    """
    m, order, draws = problem.m, order.copy(), Draws(seed)
    columns = problem.columns.astype(np.int64)
    rivals, held = _holders(columns[order].reshape(problem.stripes, m, -1), problem.n)
    rivals, held = rivals.reshape(len(order), -1), held.reshape(-1)
    best, score, top = order.copy(), 0, 0
    for step in range(len(temperatures) * each):
        if deadline is not None and time.monotonic() >= deadline:
            return best, top, step
        s, t = draws.below(problem.stripes), draws.below(problem.stripes - 1)
        t += t >= s
        own, other = _draw_tile(problem, s, draws), _draw_tile(problem, t, draws)
        drawn = draws.below(1 << 16)
        least = -(int(temperatures[step // each]) * int(WAITS[drawn >> 4]) >> 16)
        gains = _tile_gains(
            columns[order[own]], columns[order[other]], (rivals[own], rivals[other]), (held[own], held[other])
        ).reshape(-1)
        accepted = np.flatnonzero(np.roll(gains, -(drawn % gains.size)) >= least)
        if not accepted.size:
            continue
        at = (drawn + int(accepted[0])) % gains.size
        i, j = own[at // TILE], other[at % TILE]
        order[[i, j]] = order[[j, i]]
        score += int(gains[at])
        for begin in (s * m, t * m):
            stripe = slice(begin, begin + m)
            rivals[stripe], held[stripe] = _holders(columns[order[stripe]], problem.n)
        if score > top:
            best, top = order.copy(), score
    return best, top, len(temperatures) * each


def _draw_tile(problem: Problem, stripe: int, draws: Draws) -> Array:
    """int64 [TILE] places: all the channels of a stripe, or TILE neighbours drawn among more; the last one repeats."""
    begin = stripe * problem.m
    real = min(problem.m, problem.channels - begin)
    if real > TILE:
        begin, real = begin + draws.below(real - TILE + 1), TILE
    return begin + np.minimum(np.arange(TILE), real - 1)
