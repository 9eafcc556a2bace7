"""Searches of channel orders: against brute force, against the specification's figures, compiled against NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import native
from pipelines.sparsity import search, search_greedy, search_kernels, search_reference
from pipelines.sparsity.pattern import NMPattern
from pipelines.sparsity.search import STRATEGIES, search_permutation
from pipelines.sparsity.search_anneal import anneal
from pipelines.sparsity.search_kernels import NUMPY, Kernels
from pipelines.sparsity.search_problem import Problem, search_problem

TWO_FOUR = NMPattern(2, 4)
PATTERNS = st.sampled_from([(1, 2), (1, 3), (2, 3), (1, 4), (2, 4), (3, 4), (2, 5), (4, 8), (7, 8), (2, 16)])


def uniform() -> Any:
    """The specification's matrix: [128, 64]."""
    return np.random.RandomState(1).rand(128, 64)


@st.composite
def problems(draw: Any) -> tuple[Any, NMPattern]:
    """A small matrix, often with a ragged last stripe, ties, zero rows and equal rows, and a pattern."""
    pattern = NMPattern(*draw(PATTERNS))
    channels = draw(st.integers(pattern.m + 1, 3 * pattern.m + 2))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(1, 40)), channels)
    matrix = random.integers(-4, 5, shape) if draw(st.booleans()) else random.standard_normal(shape)
    if draw(st.booleans()):
        matrix[random.integers(0, shape[0], shape[0] // 2)] = matrix[0]
    return matrix, pattern


def problem_of(matrix: Any, pattern: NMPattern) -> Problem:
    return search_problem(np.abs(np.asarray(matrix, float)), pattern)


def any_order(problem: Problem, seed: int) -> Any:
    """An order that leaves the filling where it is."""
    order = np.arange(len(problem.columns))
    order[: problem.channels] = np.random.default_rng(seed).permutation(problem.channels)
    return order


def score(problem: Problem, order: Any) -> int:
    return int(search_reference.stripe_scores(problem, order).sum())


def compiled_levels() -> list[Kernels]:
    loaded = [native.load(level) for level in native.levels()] if native.load() else []
    return [search_kernels.compiled(one.library, one.level) for one in loaded if one]


def compiled() -> Kernels:
    levels = compiled_levels()
    if not levels:
        pytest.skip(native.why_missing())
    return levels[-1]


# --- the specification's figures ---


@pytest.mark.parametrize(
    ("strategy", "retained", "passes", "moves"),
    [("identity", 2852.377246, 0, 0), ("channel_swap", 2913.351171, 9, 34), ("stripe_groups", 2919.759140, 13, 37)],
)
def test_the_greedy_searches_keep_what_the_specification_says(
    strategy: str, retained: float, passes: int, moves: int
) -> None:
    found = search_permutation(uniform(), TWO_FOUR, strategy=strategy)
    assert round(found.retained_magnitude, 6) == retained
    assert (found.passes, found.moves) == (passes, moves)
    assert round(found.baseline_magnitude, 6) == 2852.377246
    assert round(found.upper_bound, 6) == 3042.332263


def test_windows_of_three_stripes_keep_what_apex_gets_on_a_gpu() -> None:
    found = search_permutation(uniform(), TWO_FOUR, strategy="stripe_groups", window=12)
    assert round(found.retained_magnitude, 3) == 2921.947


def test_escapes_keep_the_best_order_seen() -> None:
    found = search_permutation(uniform(), TWO_FOUR, strategy="channel_swap", escapes=100)
    assert found.retained_magnitude >= 2913.351171
    assert found.passes > 100


@pytest.mark.parametrize("seed", [0, 1])
def test_the_default_reaches_the_best_value_known(seed: int) -> None:
    compiled()
    found = search_permutation(uniform(), TWO_FOUR, seed=seed)
    assert round(found.retained_magnitude, 3) == 2926.952
    assert round(found.efficacy, 4) == 0.3926


def test_the_numpy_default_beats_stripe_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "kernels", lambda: NUMPY)
    found = search_permutation(uniform(), TWO_FOUR)
    assert found.kernels == "numpy"
    assert found.retained_magnitude > 2919.759140


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"identity"}))
def test_the_small_example_reaches_its_bound(strategy: str) -> None:
    found = search_permutation(
        np.array([[9, 8, 7, 6, 1, 2, 3, 4], [1, 2, 3, 4, 9, 8, 7, 6]]), TWO_FOUR, strategy=strategy
    )
    assert (found.baseline_magnitude, found.retained_magnitude, found.upper_bound) == (48, 60, 60)
    assert found.efficacy == 1


# --- laws of any search ---


@settings(deadline=None, max_examples=60)
@given(problems(), st.sampled_from(STRATEGIES), st.integers(0, 3))
def test_a_search_gives_an_order_that_keeps_what_it_says_and_no_less_than_before(
    given: tuple[Any, NMPattern], strategy: str, seed: int
) -> None:
    matrix, pattern = given
    found = search_permutation(matrix, pattern, strategy=strategy, seed=seed, iterations=150, escapes=3)
    assert found.permutation.dtype == np.int64
    assert sorted(found.permutation) == list(range(matrix.shape[1]))
    assert found.retained_magnitude == pattern.retained_magnitude(np.abs(matrix[:, found.permutation].astype(float)))
    assert found.baseline_magnitude <= found.retained_magnitude <= found.upper_bound
    assert 0 <= found.efficacy <= 1


@settings(deadline=None, max_examples=15)
@given(problems(), st.integers(0, 3))
def test_threads_and_repetition_change_nothing(given: tuple[Any, NMPattern], seed: int) -> None:
    matrix, pattern = given
    problem = problem_of(matrix, pattern)
    start = np.arange(len(problem.columns))
    found = []
    for threads in (1, 1, 3):
        found.append(anneal(problem, start, compiled(), seed=seed, iterations=200_000, deadline=None, threads=threads))
    assert all(np.array_equal(one.order, found[0].order) for one in found)
    assert len({(one.score, one.steps, one.runs) for one in found}) == 1


@pytest.mark.parametrize(
    "pattern", [NMPattern(2, 4), NMPattern(1, 4), NMPattern(3, 4), NMPattern(1, 2), NMPattern(2, 3)]
)
def test_annealing_finds_the_best_of_all_orders(pattern: NMPattern) -> None:
    matrix = np.random.default_rng(5).standard_normal((12, 7))
    best = max(
        pattern.retained_magnitude(matrix[:, list(order)]) for order in itertools.permutations(range(7))
    )  # with a ragged last stripe but for 1 of 7
    found = search_permutation(matrix, pattern)
    assert found.retained_magnitude == pytest.approx(best, rel=1e-12)


def test_a_hundred_times_the_steps_keep_more() -> None:
    matrix = np.random.default_rng(0).standard_normal((64, 96))
    few, many = (search_permutation(matrix, TWO_FOUR, iterations=steps) for steps in (300, 30_000))
    assert few.retained_magnitude < many.retained_magnitude


def test_a_time_limit_that_is_over_at_once_still_gives_an_order() -> None:
    found = search_permutation(uniform(), TWO_FOUR, time_limit_s=1e-9)
    assert sorted(found.permutation) == list(range(64))
    assert found.retained_magnitude >= found.baseline_magnitude


def test_a_time_limit_with_time_left_keeps_more_than_stripe_groups() -> None:
    compiled()
    found = search_permutation(uniform(), TWO_FOUR, time_limit_s=0.5, threads=2)
    assert found.retained_magnitude > 2919.759140


@pytest.mark.parametrize("matrix", [np.zeros((0, 8)), np.zeros((3, 0)), np.zeros((3, 8)), np.ones((3, 8)), np.eye(8)])
def test_a_matrix_that_no_order_changes_keeps_its_own(matrix: Any) -> None:
    found = search_permutation(matrix, TWO_FOUR, iterations=100)
    assert found.retained_magnitude == found.baseline_magnitude


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e-310])
def test_scale_changes_no_order(scale: float) -> None:
    matrix = np.round(uniform()[:16, :24] * 4096)
    one, other = (search_permutation(some, TWO_FOUR, iterations=500) for some in (matrix, matrix * scale))
    assert np.array_equal(one.permutation, other.permutation)


def test_an_outlier_that_hides_all_else_costs_nothing() -> None:
    matrix = uniform()
    matrix[0, 0] = 1e30
    found = search_permutation(matrix, TWO_FOUR, iterations=500)
    assert found.retained_magnitude >= found.baseline_magnitude


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"strategy": "exhaustive"}, "strategy"),
        ({"matrix": np.zeros(8)}, "matrix"),
        ({"matrix": np.array([["a"] * 8])}, "matrix"),
        ({"matrix": np.full((2, 8), np.nan)}, "matrix"),
        ({"matrix": np.full((2, 8), -np.inf)}, "matrix"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"iterations": 0}, "iterations"),
        ({"threads": 0}, "threads"),
        ({"escapes": -1}, "escapes"),
        ({"time_limit_s": 0}, "time_limit_s"),
        ({"time_limit_s": float("nan")}, "time_limit_s"),
        ({"window": 9}, "window"),
        ({"window": 24, "pattern": NMPattern(4, 8)}, "window"),
        ({"window": 12, "matrix": np.zeros((1, 516))}, "window"),
    ],
)
def test_a_wrong_argument_is_named(wrong: dict[str, Any], name: str) -> None:
    arguments = {"matrix": uniform(), "pattern": TWO_FOUR, **wrong}
    with pytest.raises(ValueError, match=f"^{name}: "):
        search_permutation(arguments.pop("matrix"), arguments.pop("pattern"), **arguments)


# --- the whole numbers that it works on ---


@settings(deadline=None, max_examples=60)
@given(problems(), st.integers(0, 99))
def test_the_problem_ranks_orders_as_the_pattern_does(given: tuple[Any, NMPattern], seed: int) -> None:
    matrix, pattern = given
    problem = problem_of(matrix, pattern)
    order = any_order(problem, seed)
    gain = (score(problem, order) - score(problem, np.arange(len(order)))) * problem.unit
    magnitude = np.abs(matrix.astype(float))
    kept = pattern.retained_magnitude(magnitude[:, order[: problem.channels]])
    assert gain == pytest.approx(kept - pattern.retained_magnitude(magnitude), abs=1e-5 * magnitude.sum() + 1e-12)


def test_rows_that_no_order_changes_are_left_out_and_equal_ones_counted() -> None:
    row = np.arange(1.0, 9)
    problem = search_problem(np.stack([row, np.zeros(8), row, np.ones(8), np.eye(8)[0], row]), TWO_FOUR)
    assert np.count_nonzero(problem.columns.any(axis=0)) == 1
    assert np.allclose(problem.columns[:, 0] * problem.unit, 3 * row)


# --- the kernels ---


@settings(deadline=None, max_examples=40)
@given(problems(), st.integers(0, 99))
def test_swap_gains_are_what_the_swap_gains(given: tuple[Any, NMPattern], seed: int) -> None:
    problem = problem_of(*given)
    order = any_order(problem, seed)
    gains = NUMPY.swap_gains(problem, order, np.arange(problem.stripes))
    now = score(problem, order)
    for i, j in itertools.combinations(range(len(order)), 2):
        swapped = order.copy()
        swapped[[i, j]] = order[[j, i]]
        movable = i // problem.m != j // problem.m and j < problem.channels
        assert gains[i, j] == gains[j, i] == (score(problem, swapped) - now if movable else 0)


@pytest.mark.parametrize(("m", "stripes", "count"), [(2, 2, 3), (3, 2, 10), (4, 2, 35), (2, 3, 15), (4, 3, 5775)])
def test_splits_are_all_ways_to_share_a_window(m: int, stripes: int, count: int) -> None:
    ways = search_reference.splits(m, stripes).ways
    assert len({frozenset(map(frozenset, way.tolist())) for way in ways}) == len(ways) == count
    assert np.array_equal(ways[0].reshape(-1), np.arange(m * stripes))


@pytest.mark.parametrize(
    "pattern", [NMPattern(1, 2), NMPattern(2, 3), NMPattern(1, 4), NMPattern(2, 4), NMPattern(3, 4)]
)
def test_the_best_split_is_the_best_of_all(pattern: NMPattern) -> None:
    problem = problem_of(np.random.default_rng(3).standard_normal((9, 3 * pattern.m)), pattern)
    order = any_order(problem, 4)
    for groups in ([[0, 2]], [[0, 1, 2]]):
        gains, best = NUMPY.best_splits(problem, order, np.array(groups))
        places = (np.array(groups[0])[:, None] * pattern.m + np.arange(pattern.m)).reshape(-1)
        kept = []
        for way in search_reference.splits(pattern.m, len(groups[0])).ways:
            changed = order.copy()
            changed[places] = order[places][way.reshape(-1)]
            kept.append(score(problem, changed))
        assert best[0] == np.argmax(kept)
        assert gains[0] == max(kept) - kept[0]


@settings(deadline=None, max_examples=60)
@given(problems(), st.integers(0, 99))
def test_compiled_kernels_give_what_numpy_gives_on_every_level(given: tuple[Any, NMPattern], seed: int) -> None:
    compiled()
    problem = problem_of(*given)
    order = any_order(problem, seed)
    stripes = np.random.default_rng(seed).permutation(problem.stripes)[:2]
    whole = problem.channels // problem.m if problem.m <= 4 else 0
    groups = [np.array(list(itertools.combinations(range(whole), size))) for size in (2, 3) if whole >= size]
    temperatures = np.array([problem.total // 20, problem.total // 200, 0])
    for kernels in compiled_levels():
        mine, theirs = (one.swap_gains(problem, order, stripes) for one in (kernels, NUMPY))
        assert np.array_equal(mine, theirs), kernels.name
        for some in groups:
            split, split_theirs = (one.best_splits(problem, order, some) for one in (kernels, NUMPY))
            assert np.array_equal(np.stack(split), np.stack(split_theirs)), kernels.name
        walk, walk_theirs = (one.anneal(problem, order, temperatures, 25, seed, None) for one in (kernels, NUMPY))
        assert np.array_equal(walk[0], walk_theirs[0]), kernels.name
        assert walk[1:] == walk_theirs[1:], kernels.name
    assert walk[1] == score(problem, walk[0]) - score(problem, order)


@pytest.mark.parametrize("pattern", [NMPattern(2, 4), NMPattern(3, 4), NMPattern(4, 8)])
def test_whole_searches_end_alike_compiled_and_in_numpy(pattern: NMPattern) -> None:
    problem = problem_of(np.random.default_rng(7).standard_normal((33, 35)), pattern)
    start = np.arange(len(problem.columns))
    ends = []
    for kernels in (compiled(), NUMPY):
        found = [
            search_greedy.channel_swap(problem, start, kernels, escapes=5, seed=1, deadline=None),
            search_greedy.stripe_groups(problem, start, kernels, window=2 * pattern.m, floor=0, deadline=None),
            anneal(problem, start, kernels, seed=2, iterations=600, deadline=None, threads=1),
        ]
        assert all(score(problem, one.order) == one.score for one in found)
        ends.append([(one.order.tolist(), one.passes, one.moves, one.steps, one.runs) for one in found])
    assert ends[0] == ends[1]


@pytest.mark.parametrize("matrix", [np.full((4096, 8), 1.0), np.eye(4096, 8) + 1])
def test_the_largest_sums_fit(matrix: Any) -> None:
    """The bounds that the compiled kernels' int32 relies on."""
    matrix = matrix * np.linspace(0.999, 1, 4096)[:, None] * np.linspace(0.999, 1, 8)
    for pattern in (TWO_FOUR, NMPattern(3, 4)):
        problem = search_problem(matrix, pattern)
        most = np.abs(problem.columns).max() * problem.columns.shape[1] * 4
        assert most < 2**31
        gains = [one.best_splits(problem, np.arange(8), np.array([[0, 1]]))[0] for one in (compiled(), NUMPY)]
        assert gains[0] == gains[1]
