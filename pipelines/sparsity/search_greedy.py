"""Greedy searches of channel orders (specification, 9.5): the best change of a pass first, no stripe twice in it."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import numpy as np

from pipelines.arrays import Array
from pipelines.sparsity.search_kernels import Kernels
from pipelines.sparsity.search_problem import Problem
from pipelines.sparsity.search_reference import Draws, splits, stripe_scores

_AT_ONCE = 4096  # groups of stripes between two looks at the clock


@dataclass(frozen=True)
class Outcome:
    """Where a search ended: an order int64 [places] and what it keeps, in units; how it came there."""

    order: Array
    score: int
    passes: int = 0
    moves: int = 0
    steps: int = 0
    runs: int = 0


def late(deadline: float | None) -> bool:
    """Whether the monotonic clock is past `deadline`."""
    return deadline is not None and time.monotonic() >= deadline


class _SwapTable:
    """Gains of all swaps of two places, kept up to date."""

    def __init__(self, problem: Problem, kernels: Kernels) -> None:
        self._problem, self._kernels = problem, kernels
        places = len(problem.columns)
        self.gains = np.zeros((places, places), np.int64)

    def update(self, order: Array, stripes: Array) -> None:
        rows = self._kernels.swap_gains(self._problem, order, stripes)
        places = (stripes[:, None] * self._problem.m + np.arange(self._problem.m)).reshape(-1)
        self.gains[places] = rows
        self.gains[:, places] = rows.T

    def by_stripes(self) -> Array:
        """[stripe, m, stripe, m]"""
        s, m = self._problem.stripes, self._problem.m
        return self.gains.reshape(s, m, s, m)


def channel_swap(
    problem: Problem, order: Array, kernels: Kernels, *, escapes: int, seed: int, deadline: float | None
) -> Outcome:
    """Swaps of two channels. Where none helps, up to `escapes` random ones; the best order seen."""
    order, draws, m = order.copy(), Draws(seed), problem.m
    first, second = np.triu_indices(problem.channels, 1)
    apart = first // m != second // m
    first, second = first[apart], second[apart]
    best, score = order.copy(), int(stripe_scores(problem, order).sum())
    top, passes, moves, floor = score, 0, 0, problem.total >> 25
    table, changed = _SwapTable(problem, kernels), np.arange(problem.stripes)
    while changed.size and not late(deadline):
        passes += 1
        table.update(order, changed)
        gains = table.gains[first, second]
        least = max(int(gains.max()) // 100_000, floor)
        chosen = _apart(gains, np.stack([first, second], axis=1) // m, least)
        if not chosen and escapes > 0:
            chosen, escapes = [draws.below(len(gains))], escapes - 1
        for at in chosen:
            pair = [first[at], second[at]]
            order[pair] = order[pair[::-1]]
            score, moves = score + int(gains[at]), moves + 1
        if score > top:
            best, top = order.copy(), score
        changed = np.unique([places[at] // m for at in chosen for places in (first, second)])
    return Outcome(best, top, passes, moves)


def stripe_groups(
    problem: Problem, order: Array, kernels: Kernels, *, window: int, floor: int, deadline: float | None
) -> Outcome:
    """Every split of each group of `window` / m stripes; changes that gain more than `floor`.

    Where m > 4 has too many splits, and with a ragged last stripe, the best swap of one channel each instead.
    """
    m, order = problem.m, order.copy()
    whole = problem.channels // m if m <= 4 else 0
    size = max(2, min(window // m, whole))
    groups = np.array(list(itertools.combinations(range(whole), size)), np.int64).reshape(-1, size)
    pairs = np.stack(np.triu_indices(problem.stripes, 1), axis=1)
    pairs = pairs[pairs[:, 1] >= whole]  # those by swaps alone
    members = [*groups.tolist(), *pairs.tolist()]
    table = _SwapTable(problem, kernels) if len(pairs) else None
    ways = splits(m, size).ways if len(groups) else np.zeros((0, size, m), np.int64)
    gains, best = np.zeros(len(members), np.int64), np.zeros(len(groups), np.int64)
    score, passes, moves = int(stripe_scores(problem, order).sum()), 0, 0
    changed = np.ones(problem.stripes, bool)
    while changed.any() and not late(deadline):
        passes += 1
        stale = np.flatnonzero(changed[groups].any(axis=1))
        gains[stale] = 0
        for begin in range(0, len(stale), _AT_ONCE):
            some = stale[begin : begin + _AT_ONCE]
            gains[some], best[some] = kernels.best_splits(problem, order, groups[some])
            if late(deadline):
                break
        if table:
            fresh = np.flatnonzero(changed) if whole == 0 else np.arange(whole, problem.stripes)
            table.update(order, fresh)
            gains[len(groups) :] = table.by_stripes().max(axis=(1, 3))[pairs[:, 0], pairs[:, 1]]
        changed[:] = False
        for at in _apart(gains, members, floor):
            changed[members[at]] = True
            if at < len(groups):
                places = (groups[at][:, None] * m + np.arange(m)).reshape(-1)
                order[places] = order[places][ways[best[at]].reshape(-1)]
            elif table:
                s, t = members[at]
                i, j = divmod(int(table.by_stripes()[s, :, t].argmax()), m)
                pair = [s * m + i, t * m + j]
                order[pair] = order[pair[::-1]]
            score, moves = score + int(gains[at]), moves + 1
    return Outcome(order, score, passes, moves)


def _apart(gains: Array, stripes: Array | list[list[int]], floor: int) -> list[int]:
    """The changes that gain more than `floor`, the best first, without those that touch an earlier one's stripes."""
    candidates = np.flatnonzero(gains > floor)
    used: set[int] = set()
    chosen = []
    for at in candidates[np.argsort(-gains[candidates], kind="stable")].tolist():
        if used.isdisjoint(touched := [int(stripe) for stripe in stripes[at]]):
            used.update(touched)
            chosen.append(at)
    return chosen
