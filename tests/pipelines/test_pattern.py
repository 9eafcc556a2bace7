"""N:M patterns against a loop that does it by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipelines.sparsity.pattern import NMPattern, Violation

PATTERNS = st.integers(2, 20).flatmap(lambda m: st.integers(1, m - 1).map(lambda n: NMPattern(n, m)))
DTYPES = st.sampled_from([np.float32, np.float16, np.float64, np.int8])


@st.composite
def weights(draw: Any) -> tuple[Any, int]:
    """A weight and one of its axes; few distinct values, so that ties are common."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=9))
    values = draw(hnp.arrays(draw(DTYPES), shape, elements=st.integers(-3, 3)))
    return values, draw(st.integers(-values.ndim, values.ndim - 1))


def by_hand(weight: Any, pattern: NMPattern, axis: int) -> Any:
    moved = np.moveaxis(weight, axis, -1)
    mask = np.zeros(moved.shape, bool)
    for place in np.ndindex(moved.shape[:-1]):
        row = [abs(float(value)) for value in moved[place]]
        for start in range(0, len(row), pattern.m):
            group = list(range(start, min(start + pattern.m, len(row))))
            for kept in sorted(group, key=lambda i: (-row[i], i))[: pattern.n]:
                mask[place][kept] = True
    return np.moveaxis(mask, -1, axis)


@settings(deadline=None)
@given(weights(), PATTERNS)
def test_the_mask_keeps_the_n_largest_and_ties_go_to_the_lowest_index(
    given: tuple[Any, int], pattern: NMPattern
) -> None:
    weight, axis = given
    assert np.array_equal(pattern.mask(weight, axis), by_hand(weight, pattern, axis))


@settings(deadline=None)
@given(weights(), PATTERNS)
def test_a_masked_weight_holds_and_masking_again_changes_nothing(given: tuple[Any, int], pattern: NMPattern) -> None:
    weight, axis = given
    sparse = np.where(pattern.mask(weight, axis), weight, np.zeros((), weight.dtype))
    assert pattern.holds(sparse, axis)
    assert pattern.violations(sparse, axis) == []
    again = np.where(pattern.mask(sparse, axis), sparse, np.zeros((), weight.dtype))
    assert np.array_equal(again, sparse)


@settings(deadline=None)
@given(weights(), PATTERNS)
def test_holds_and_violations_agree(given: tuple[Any, int], pattern: NMPattern) -> None:
    weight, axis = given
    assert pattern.holds(weight, axis) == (pattern.violations(weight, axis) == [])


@settings(deadline=None)
@given(weights(), PATTERNS, st.integers(0, 3))
def test_broken_groups_are_counted_and_the_first_are_those_of_the_whole_list(
    given: tuple[Any, int], pattern: NMPattern, limit: int
) -> None:
    weight, axis = given
    everything = pattern.violations(weight, axis)
    assert pattern.broken_groups(weight, axis) == len(everything)
    assert pattern.violations(weight, axis, limit=limit) == everything[:limit]
    assert pattern.group_count(weight.shape, axis) >= len(everything)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), PATTERNS)
def test_every_group_of_ones_is_counted(shape: list[int], pattern: NMPattern) -> None:
    for axis, length in enumerate(shape):
        ones = np.ones(shape)
        last = np.moveaxis(ones, axis, -1).reshape(-1, length)
        assert pattern.group_count(shape, axis) == sum(len(range(0, length, pattern.m)) for _ in last)


@settings(deadline=None)
@given(weights(), PATTERNS)
def test_no_choice_retains_more(given: tuple[Any, int], pattern: NMPattern) -> None:
    weight, axis = given
    kept = pattern.retained_magnitude(weight, axis)
    random = np.random.default_rng(0).permutation(weight.shape[axis])
    other = pattern.mask(np.take(np.abs(weight.astype(np.float64)) + 1, random, axis), axis)
    assert 0 <= kept <= np.abs(weight.astype(np.float64)).sum() + 1e-9
    assert other.sum() == pattern.mask(weight, axis).sum()


def test_the_numbers_of_the_specification() -> None:
    weight = np.array([[4.0, -3, 2, 1, 0, 0, 5, -5]])
    assert NMPattern.parse("2:4").mask(weight).tolist() == [[True, True, False, False, False, False, True, True]]
    assert NMPattern(2, 4).retained_magnitude(weight) == 17.0
    bits = {"1:2": (1, 1), "2:4": (4, 3), "4:8": (12, 7), "8:16": (32, 14), "2:8": (6, 5), "1:4": (2, 2)}
    for text, (stored, bound) in bits.items():
        pattern = NMPattern.parse(text)
        assert (pattern.index_bits, pattern.entropy_bits) == (stored, bound), text
    assert NMPattern(2, 4).entropy_bits == math.ceil(math.log2(6))


def test_a_violation_names_its_row_and_group() -> None:
    weight = np.zeros((3, 8, 2))
    weight[1, 4:7, 1] = 1
    assert NMPattern(2, 4).violations(weight, axis=1) == [Violation(index=(1, 1), group=1, nonzeros=3)]


def test_the_least_int8_has_the_greatest_magnitude() -> None:
    weight = np.array([[-128, 127, 126, 1]], np.int8)
    assert NMPattern(1, 4).mask(weight).tolist() == [[True, False, False, False]]


@pytest.mark.parametrize(
    "text", ["", "2", "2:", ":4", "2:4:8", "a:b", "-2:4", "2.0:4", "4:4", "0:4", "5:4", "²:4", None]
)
def test_what_is_no_pattern_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^(text|n|m): "):
        NMPattern.parse(text)


@pytest.mark.parametrize(("n", "m"), [(True, 4), (2.0, 4), ("2", 4), (2, None)])
def test_what_is_no_number_is_refused(n: Any, m: Any) -> None:
    with pytest.raises(ValueError, match=r"^(n|m): "):
        NMPattern(n, m)


def test_wrong_weights_and_axes_are_refused_by_name() -> None:
    pattern = NMPattern(2, 4)
    with pytest.raises(ValueError, match=r"^axis: 2 "):
        pattern.mask(np.ones((2, 4)), axis=2)
    with pytest.raises(ValueError, match=r"^weight: holds NaN"):
        pattern.mask(np.array([[np.nan, 1, 2, 3]]))
    for ask in (pattern.mask, pattern.holds, pattern.violations, pattern.retained_magnitude):
        with pytest.raises(ValueError, match=r"^weight: dtype"):
            ask(np.array([["a", "b"]]))
        axis: Any
        for axis in ("1", 1.0, True, None):
            with pytest.raises(ValueError, match=r"^axis: .* is not a whole number"):
                ask(np.ones((2, 4)), axis=axis)


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (0, 0)])
@pytest.mark.parametrize("m", [4, 32])
def test_an_empty_weight_has_an_empty_mask(shape: tuple[int, int], m: int) -> None:
    pattern, weight = NMPattern(2, m), np.zeros(shape, np.float32)
    assert pattern.mask(weight).shape == shape
    assert (pattern.holds(weight), pattern.violations(weight), pattern.retained_magnitude(weight)) == (True, [], 0.0)


@pytest.mark.parametrize("m", [4, 32])
def test_the_largest_integers_keep_their_order(m: int) -> None:
    """Neither |-2**63| nor an unsigned 2**63 fits int64."""
    pattern = NMPattern(1, m)
    assert pattern.mask(np.array([[1, 2**63, 2**63 - 1, 0]], np.uint64)).tolist() == [[False, True, False, False]]
    assert pattern.mask(np.array([[2**63 - 1, -(2**63), 5, 0]])).tolist() == [[False, True, False, False]]


def test_numpy_s_whole_numbers_are_numbers() -> None:
    assert NMPattern(np.int64(2), np.uint8(4)) == NMPattern(2, 4)


def test_bits_are_exact_where_logarithms_round() -> None:
    assert NMPattern(1, 2**60 + 1).index_bits == 61
