"""Channel orders that keep more under an N:M pattern (specification, 9.4 and 9.5)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.arrays import Array
from pipelines.sparsity.pattern import NMPattern
from pipelines.sparsity.search_anneal import anneal
from pipelines.sparsity.search_greedy import Outcome, channel_swap, stripe_groups
from pipelines.sparsity.search_kernels import kernels
from pipelines.sparsity.search_problem import search_problem

STRATEGIES = ("auto", "channel_swap", "stripe_groups", "identity")
_WIDEST_FOR_TRIPLES = 512
_IN_FLIGHT = 1 << 22


@dataclass(frozen=True)
class PermutationSearch:
    """An order of the channels and what it keeps. Magnitudes are float64 sums of |w|.

    permutation: int64 [channels]; permutation[i] is the old channel that moves to new position i.
    upper_bound: as many of each row's largest as the pattern keeps of it, wherever they are.
    efficacy: the share of what the pattern loses beyond that bound that the order wins back; 1 where it loses nothing.
    kernels: "numpy", or the level of the compiled ones.
    passes, moves: of a greedy search, or of the end of the best run. steps, runs: of annealing.
    rows: what the search looked at: those that an order can change, equal ones once, a sample beyond 2**25 numbers.
    """

    permutation: Array
    retained_magnitude: float
    baseline_magnitude: float
    upper_bound: float
    efficacy: float
    elapsed_s: float
    strategy: str
    kernels: str
    passes: int
    moves: int
    steps: int
    runs: int
    rows: int


def search_permutation(
    matrix: Array,
    pattern: NMPattern,
    *,
    strategy: str = "auto",
    seed: int = 0,
    time_limit_s: float | None = None,
    iterations: int | None = None,
    threads: int = 1,
    window: int | None = None,
    escapes: int = 0,
) -> PermutationSearch:
    """The order of the columns of `matrix` [rows, channels] that keeps the most |w|; never less than the present one.

    auto: simulated annealing over swaps, ended by the greedy search over pairs of stripes; `iterations` steps in all
    (without: by size, about 0.3 s a run with compiled kernels), or what `time_limit_s` allows, on `threads` threads.
    channel_swap: greedy swaps of two channels; where none helps, `escapes` random ones.
    stripe_groups: greedy over every split of 2 stripes, or of 3 with `window` = 3 m (m <= 4, up to 512 channels).
    identity: the present order, measured.

    Channels that are no multiple of m leave a short last stripe, which any channels may fill, and which stays last.
    The same arguments give the same order on every machine and any number of threads, unless `time_limit_s` cuts it.

    ValueError for an argument that is none of these, NaN or infinity.
    """
    began = time.monotonic()
    magnitude = _magnitude(matrix)
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy: {strategy!r} is none of {', '.join(STRATEGIES)}")
    for name, value, least in (("seed", seed, 0), ("threads", threads, 1), ("escapes", escapes, 0)):
        _whole(name, value, least)
    if iterations is not None:
        _whole("iterations", iterations, 1)
    if time_limit_s is not None and not 0 < time_limit_s < float("inf"):
        raise ValueError(f"time_limit_s: {time_limit_s!r} is no time")
    channels = magnitude.shape[1]
    window = _window(window, pattern, channels)
    deadline = None if time_limit_s is None else began + time_limit_s
    engine, problem = kernels(), search_problem(magnitude, pattern)
    order = np.arange(len(problem.columns))
    if strategy == "identity" or channels <= pattern.m or not problem.total:
        outcome = Outcome(order, 0)
    elif strategy == "channel_swap":
        outcome = channel_swap(problem, order, engine, escapes=escapes, seed=seed, deadline=deadline)
    elif strategy == "stripe_groups":
        floor = problem.total >> 24  # half of float32's last digit of the whole: on rand(128, 64) what Apex stops at
        outcome = stripe_groups(problem, order, engine, window=window, floor=floor, deadline=deadline)
    else:
        outcome = anneal(problem, order, engine, seed=seed, iterations=iterations, deadline=deadline, threads=threads)
    permutation = outcome.order[:channels].astype(np.int64)
    baseline, retained = (_retained(magnitude, order, pattern) for order in (np.arange(channels), permutation))
    if retained < baseline:  # rounding to whole numbers can hide a loss smaller than itself
        permutation, retained = np.arange(channels), baseline
    bound = max(_upper_bound(magnitude, pattern), retained)
    return PermutationSearch(
        permutation=permutation,
        retained_magnitude=retained,
        baseline_magnitude=baseline,
        upper_bound=bound,
        efficacy=(retained - baseline) / (bound - baseline) if bound > baseline else 1.0,
        elapsed_s=time.monotonic() - began,
        strategy=strategy,
        kernels=engine.name,
        passes=outcome.passes,
        moves=outcome.moves,
        steps=outcome.steps,
        runs=outcome.runs,
        rows=problem.rows,
    )


def _magnitude(matrix: Array) -> Array:
    values = np.asarray(matrix)
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise ValueError(f"matrix: {values.dtype} of shape {values.shape} is no table of numbers [rows, channels]")
    magnitude: Array = np.abs(values.astype(np.float64))
    if not np.isfinite(magnitude.sum()):
        raise ValueError("matrix: holds NaN or infinity, or has no finite sum")
    return magnitude


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}: {value!r} is no whole number from {least} on")


def _window(window: int | None, pattern: NMPattern, channels: int) -> int:
    two, three = 2 * pattern.m, 3 * pattern.m
    if window in (None, two):
        return two
    if window != three or pattern.m > 4:
        raise ValueError(f"window: {window!r} is not {two}" + (f" or {three}" if pattern.m <= 4 else ""))
    if channels > _WIDEST_FOR_TRIPLES:
        raise ValueError(f"window: {three} takes up to {_WIDEST_FOR_TRIPLES} channels, the matrix has {channels}")
    return three


def _retained(magnitude: Array, order: Array, pattern: NMPattern) -> float:
    return sum(pattern.retained_magnitude(rows[:, order]) for rows in _some_at_a_time(magnitude))


def _upper_bound(magnitude: Array, pattern: NMPattern) -> float:
    whole, ragged = divmod(magnitude.shape[1], pattern.m)
    lost = magnitude.shape[1] - whole * pattern.n - min(ragged, pattern.n)
    return sum(float(np.sort(rows, axis=1)[:, lost:].sum()) for rows in _some_at_a_time(magnitude))


def _some_at_a_time(magnitude: Array) -> Iterator[Array]:
    """Rows, so few that copies of them take little memory beside the matrix."""
    step = max(1, _IN_FLIGHT // max(1, magnitude.shape[1]))
    return (magnitude[begin : begin + step] for begin in range(0, len(magnitude), step))
