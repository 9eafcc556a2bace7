"""Whole-network channel reordering: more magnitude under an N:M pattern, the same outputs, no run-time gather.

Permuting the input channels of every consumer and the output channels of every producer by one permutation leaves the
network's function as it is (specification, sections 9.4 and 9.6).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnx

from pipelines.arrays import Array
from pipelines.graph.groups import ChannelGroup, Place, channel_groups
from pipelines.graph.reorder import moves, reorder, why_fixed
from pipelines.graph.tensors import stored
from pipelines.sparsity.pattern import NMPattern
from pipelines.sparsity.permute_report import PermutedGroup, PermuteReport, UnpermutedGroup
from pipelines.sparsity.search import STRATEGIES, PermutationSearch, search_permutation
from pipelines.sparsity.stack import Scored, Stack, places_read, scores, stack

__all__ = ["PermuteReport", "PermutedGroup", "UnpermutedGroup", "apply_permutations", "permute_channels"]

_ROUNDING = 1e-12  # of a magnitude: sums in another order differ by less


@dataclass(frozen=True)
class _Found:
    group: ChannelGroup
    stack: Stack
    search: PermutationSearch


@dataclass(frozen=True)
class _Trial:
    """Columns of some rows of a weight's scores, a view, and what would stand there."""

    old: Array
    new: Array
    gain: float


def permute_channels(
    model: onnx.ModelProto,
    pattern: NMPattern,
    *,
    strategy: str = "auto",
    seed: int = 0,
    time_limit_s: float | None = None,
    iterations: int | None = None,
    threads: int | None = None,
    keep: Collection[str] = (),
    weighting: Mapping[str, Array] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[onnx.ModelProto, PermuteReport]:
    """A copy of the model whose weights keep more magnitude under the pattern, and what was done to each group.

    One search a channel group, on the stacked rows of the weights that will follow the pattern; those of the layers
    named in `keep` stay dense and don't count. `weighting`: see `stack.scores`. A group keeps its order unless the
    whole network gains. `time_limit_s` and `iterations` are those of each group's search; without a time limit the same
    input gives the same bytes, whatever `threads` is (None: OMP_NUM_THREADS, else all cores). `progress(done, of)`.
    ValueError for an impossible argument; PipelineError names a layer whose weights are not finite.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy: {strategy!r} is none of {', '.join(STRATEGIES)}")
    scored = scores(model, pattern, keep, weighting)
    held = stored(model.graph)
    todo: list[tuple[ChannelGroup, Stack]] = []
    left: dict[str, UnpermutedGroup] = {}
    groups = channel_groups(model)
    for group in groups:
        made = why_fixed(group, held) or stack(group, scored, pattern)
        if isinstance(made, Stack):
            todo.append((group, made))
        else:
            left[group.name] = UnpermutedGroup(name=group.name, size=group.size, reason=made)

    def search(stacked: Stack) -> PermutationSearch:
        matrix = stacked.matrix(scored)  # made here, not before: all groups' at once would be the model once more
        return search_permutation(
            matrix, pattern, strategy=strategy, seed=seed, time_limit_s=time_limit_s, iterations=iterations
        )

    found = _all(search, todo, threads or _threads(), progress)
    before = _retained(scored, pattern)
    taken: list[PermutedGroup] = []
    for one in found:
        permutation = one.stack.laid_out(one.search.permutation, pattern)
        trials = _trials(one.group, scored, permutation, pattern)
        if sum(trial.gain for trial in trials) > _ROUNDING * one.search.baseline_magnitude:
            for trial in trials:
                trial.old[...] = trial.new
            taken.append(_reported(one, permutation))
        else:
            left[one.group.name] = UnpermutedGroup(
                name=one.group.name, size=one.group.size, reason="no order was found that keeps more"
            )
    report = PermuteReport(
        pattern=str(pattern),
        strategy=strategy,
        seed=seed,
        weighted=weighting is not None,
        groups=tuple(taken),
        unpermuted=tuple(left[group.name] for group in groups if group.name in left),
        magnitude=sum(float(one.worth.sum(dtype=np.float64)) for one in scored.values()),
        retained_before=before,
        retained_after=_retained(scored, pattern),
        bound=sum(_row_bound(one.worth, pattern) for one in scored.values()),
        kernels=", ".join(sorted({one.search.kernels for one in found})),
        elapsed_s=sum(one.search.elapsed_s for one in found),
    )
    return reorder(model, groups, report.permutations), report


def apply_permutations(model: onnx.ModelProto, permutations: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy whose channel groups (by name) follow given permutations; outputs stay equal.

    `permutation[i]` is the old channel that moves to new position i. ValueError for a name that no permutable group
    has, and for what is no permutation of its channels.
    """
    return reorder(model, channel_groups(model), permutations)


def _threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(given) if given.isdigit() and int(given) else len(os.sched_getaffinity(0))


def _all(
    search: Callable[[Stack], PermutationSearch],
    todo: list[tuple[ChannelGroup, Stack]],
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> list[_Found]:
    """In the order given; the largest is begun first, or it would be the last to end. Kernels run without the GIL."""
    largest_first = sorted(range(len(todo)), key=lambda nth: -todo[nth][1].rows * todo[nth][1].size)
    found: dict[int, _Found] = {}
    with ThreadPoolExecutor(threads) as pool:
        running = {nth: pool.submit(search, todo[nth][1]) for nth in largest_first}
        for nth, future in running.items():
            found[nth] = _Found(*todo[nth], future.result())
            if progress is not None:
                progress(len(found), len(todo))
    return [found[nth] for nth in range(len(todo))]


def _trials(group: ChannelGroup, scored: Mapping[str, Scored], permutation: Array, pattern: NMPattern) -> list[_Trial]:
    """What the order does to every weight that reads the group: whole groups of M around the columns that move."""
    placed: dict[str, list[tuple[str, Place]]] = {}
    for place in places_read(group, scored):
        placed.setdefault(place.tensor, []).append((group.name, place))
    trials = []
    for name, places in placed.items():
        worth = scored[name].worth
        for move in moves({scored[name].axis: worth.shape[-1]}, places, {group.name: permutation}):
            changed = np.flatnonzero(move.index != np.arange(len(move.index)))
            if not changed.size:
                continue
            first, last = changed[0] // pattern.m * pattern.m, -(-(changed[-1] + 1) // pattern.m) * pattern.m
            rows = worth if move.rows is None else worth[slice(*move.rows)]
            old, new = rows[..., first:last], np.take(rows, move.index[first:last], axis=-1)
            gain = pattern.retained_magnitude(new, -1) - pattern.retained_magnitude(old, -1)
            trials.append(_Trial(old, new, gain))
    return trials


def _retained(scored: Mapping[str, Scored], pattern: NMPattern) -> float:
    return sum(pattern.retained_magnitude(one.worth, -1) for one in scored.values())


def _reported(found: _Found, permutation: Array) -> PermutedGroup:
    group, search = found.group, found.search
    producers = dict.fromkeys(place.tensor for place in group.places if place.role == "producer")
    return PermutedGroup(
        name=group.name,
        size=group.size,
        producers=tuple(producers),
        consumers=found.stack.counted,
        left_out=found.stack.left_out,
        strategy=search.strategy,
        before=search.baseline_magnitude,
        after=search.retained_magnitude,
        bound=search.upper_bound,
        efficacy=search.efficacy,
        permutation=tuple(int(one) for one in permutation),
        elapsed_s=search.elapsed_s,
    )


def _row_bound(worth: Array, pattern: NMPattern) -> float:
    """What the rows could keep if each had an order of its own."""
    channels = worth.shape[-1]
    kept = channels // pattern.m * pattern.n + min(channels % pattern.m, pattern.n)
    largest = np.partition(worth, channels - kept, axis=-1)[..., channels - kept :]
    return float(largest.sum(dtype=np.float64))
