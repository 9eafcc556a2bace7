"""The default search: simulated annealing over swaps, each run ended by the greedy search over pairs of stripes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipelines.arrays import Array
from pipelines.sparsity.search_greedy import Outcome, late, stripe_groups
from pipelines.sparsity.search_kernels import Kernels
from pipelines.sparsity.search_problem import LANES, Problem

# Temperatures are shares of a random swap's mean effect; the two ends kept most, of those tried, on rand(128, 64) and
# on EfficientNet-Lite0's pointwise layers, at 0.02 to 1 s a matrix.
_HOTTEST, _COLDEST, _TEMPERATURES = 0.2, 0.08, 64
_VISITS = 25_000  # steps for each pair of stripes, beyond which another run finds more than a longer one
_RUNS = 5  # of so many steps, where no number is given
_AGREE = 2  # runs that end at the same best value: taken as the best there is
_WORK = 72_000  # NumPy's steps times blocks of rows in one run, where no number is given
_OVERHEAD = 4  # what a step costs besides its rows, in blocks of rows
_TRIAL = 20  # the first run under a deadline takes this part of a usual one's steps
_SAMPLE = 4  # stripes whose swaps set the temperatures
_SEED_STEP = 0xD1342543DE82EF95


@dataclass(frozen=True)
class _Run:
    outcome: Outcome
    steps_per_s: float
    ending_s: float

    def steps_until(self, deadline: float) -> int:
        """How many steps of another run, and its end, fit before `deadline`."""
        return int((deadline - time.monotonic() - self.ending_s) * self.steps_per_s)


def anneal(
    problem: Problem,
    order: Array,
    kernels: Kernels,
    *,
    seed: int,
    iterations: int | None,
    deadline: float | None,
    threads: int,
) -> Outcome:
    """The best of several runs, the first of equals: the same whatever `threads` where no deadline cuts it.

    Runs end when `iterations` steps are made in all, when the time is up or when two of them agree on the best.
    """
    temperatures = _temperatures(problem, order, kernels)

    def run(index: int, steps: int) -> _Run:
        began = time.monotonic()
        each, run_seed = -(-steps // _TEMPERATURES), seed + index * _SEED_STEP
        found, _, made = kernels.anneal(problem, order, temperatures, each, run_seed, deadline)
        annealed = time.monotonic()
        outcome = stripe_groups(problem, found, kernels, window=2 * problem.m, floor=0, deadline=deadline)
        ended = time.monotonic()
        return _Run(dataclasses.replace(outcome, steps=made), made / max(annealed - began, 1e-9), ended - annealed)

    full = _VISITS * problem.stripes * (problem.stripes - 1) // 2
    usual = min(full, _WORK * kernels.speed // (problem.columns.shape[1] // LANES + _OVERHEAD))
    with ThreadPoolExecutor(threads) as pool:

        def several(first: int, count: int, steps: int) -> list[_Run]:
            return list(pool.map(run, range(first, first + count), [steps] * count))

        if deadline is None or iterations:
            asked = iterations or (_RUNS * full if usual == full else usual)
            results = _by_steps(several, min(full, asked), -(-asked // full), threads, deadline)
        else:
            results = _by_clock(several, full, usual // _TRIAL, threads, deadline)
    best = max(results, key=lambda outcome: outcome.score)
    return dataclasses.replace(best, steps=sum(outcome.steps for outcome in results), runs=len(results))


def _by_steps(
    several: Callable[[int, int, int], list[_Run]], steps: int, count: int, threads: int, deadline: float | None
) -> list[Outcome]:
    results: list[Outcome] = []
    while len(results) < count and not _settled(results) and not (results and late(deadline)):
        runs = several(len(results), min(threads, count - len(results)), steps)
        results.extend(run.outcome for run in runs)
    while _settled(results[:-1]):  # what other threads ran meanwhile: no part of the answer
        results.pop()
    return results


def _by_clock(
    several: Callable[[int, int, int], list[_Run]], full: int, trial: int, threads: int, deadline: float
) -> list[Outcome]:
    runs = several(0, 1, trial)
    while not _settled([run.outcome for run in runs]):
        steps = min(full, runs[-1].steps_until(deadline))
        if steps < trial:
            break
        runs.extend(several(len(runs), threads, steps))
    return [run.outcome for run in runs]


def _settled(results: list[Outcome]) -> bool:
    """Whether enough runs agree on the best score."""
    scores = [outcome.score for outcome in results]
    return bool(scores) and scores.count(max(scores)) >= _AGREE


def _temperatures(problem: Problem, order: Array, kernels: Kernels) -> Array:
    """int64 [_TEMPERATURES], falling, in units of the problem."""
    sample = np.unique(np.linspace(0, problem.stripes - 1, _SAMPLE).astype(np.int64))
    gains = np.abs(kernels.swap_gains(problem, order, sample))
    typical = int(gains.sum()) / max(1, int(np.count_nonzero(gains)))
    shares = _HOTTEST * (_COLDEST / _HOTTEST) ** (np.arange(_TEMPERATURES) / (_TEMPERATURES - 1))
    temperatures: Array = np.rint(typical * shares).astype(np.int64)
    return temperatures
