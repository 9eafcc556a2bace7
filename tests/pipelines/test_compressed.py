"""The compressed form: nothing is lost, nothing that breaks the pattern gets in, and it takes what the law says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipelines.graph.mask import mask_magnitude
from pipelines.sparsity.compressed import compress, compressed_bytes, compressed_size
from pipelines.sparsity.pattern import NMPattern

PATTERNS = [NMPattern(*pair) for pair in [(1, 2), (2, 4), (1, 4), (3, 4), (2, 6), (4, 8), (2, 8), (8, 16), (5, 300)]]
SHAPES = [(8, 16), (3, 10), (4, 8, 3, 3), (2, 5, 3), (6, 1), (2, 17, 1, 2, 2), (3, 0), (0, 8)]


def masked(shape: tuple[int, ...], pattern: NMPattern, axis: int, dtype: Any, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    dense = random.integers(-100, 100, shape).astype(dtype)
    return np.where(pattern.mask(dense, axis), dense, np.zeros((), dtype))


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(PATTERNS),
    st.sampled_from(SHAPES),
    st.sampled_from([np.float32, np.float16, np.float64, np.int8]),
    st.integers(0, 3),
    st.integers(0, 99),
)
def test_round_trip_is_exact(pattern: NMPattern, shape: tuple[int, ...], dtype: Any, axis: int, seed: int) -> None:
    axis %= len(shape)
    weight = masked(shape, pattern, axis, dtype, seed)
    made = compress(weight, pattern, axis)
    back = made.to_dense()
    assert (back.dtype, back.shape) == (weight.dtype, weight.shape)
    assert back.tobytes() == weight.tobytes()
    assert (made.values.nbytes, made.metadata.nbytes) == compressed_size(shape, axis, pattern, weight.itemsize)
    places = made.indices.astype(np.int64)
    assert (np.diff(places, axis=-1) > 0).all()
    assert places.size == 0 or places.max() < pattern.m


def test_the_specified_example() -> None:
    made = compress(np.array([[0, 5, 0, -3, 2, 0, 0, 1]], np.float32), NMPattern(2, 4))
    assert made.values.ravel().tolist() == [5, -3, 2, 1]
    assert made.indices.ravel().tolist() == [1, 3, 0, 3]
    assert made.metadata.tolist() == [0xCD]  # nibbles 0xD and 0xC, the first one low
    assert made.nbytes == 4 * 4 + 1


def test_a_group_short_of_nonzeros_fills_its_slots_with_its_lowest_zeros() -> None:
    made = compress(np.array([[0, 0, 0, 7, 0, 0, 0, 0, 9, 0, 0, 0]], np.float32), NMPattern(2, 4))
    assert made.indices.reshape(3, 2).tolist() == [[0, 3], [0, 1], [0, 1]]
    assert made.values.reshape(3, 2).tolist() == [[0, 7], [0, 0], [9, 0]]


def test_values_that_are_no_numbers_are_kept_and_the_sign_of_zero_is_not() -> None:
    weight = np.array([[np.nan, 0, -np.inf, -0.0]], np.float32)
    back = compress(weight, NMPattern(2, 4)).to_dense()
    assert np.array_equal(back, weight, equal_nan=True)
    assert not np.signbit(back[0, 3])


@pytest.mark.parametrize(("dtype", "share"), [(np.float16, 0.5625), (np.int8, 0.625), (np.float32, 0.53125)])
def test_size_law_of_two_of_four(dtype: Any, share: float) -> None:
    weight = masked((32, 64), NMPattern(2, 4), 1, dtype)
    assert compress(weight, NMPattern(2, 4)).nbytes == share * weight.nbytes


def test_a_weight_that_breaks_the_pattern_is_refused_by_its_place() -> None:
    weight = masked((4, 8, 3, 3), NMPattern(2, 4), 1, np.float32)
    weight[2, 4:8, 1, 0] = 1
    with pytest.raises(ValueError, match=r"weight: group 1 of row \[2, 1, 0\] keeps 4 of 4, and 0 more groups"):
        compress(weight, NMPattern(2, 4))
    with pytest.raises(ValueError, match="axis: 4"):
        compress(weight, NMPattern(2, 4), 4)


def test_bytes_of_a_model_are_values_metadata_and_all_that_stays_dense() -> None:
    random = np.random.default_rng(0)
    tensors = {"w": random.random((8, 16, 3, 3)), "v": random.random((8, 3, 1, 1)), "b": random.random(8)}
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["h"]), helper.make_node("Conv", ["x", "v"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
    )
    dense: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    sparse, _ = mask_magnitude(dense, NMPattern(2, 4))
    size = compressed_bytes(sparse, NMPattern(2, 4))
    weight = 8 * 16 * 9 * 4
    assert size.dense_bytes == weight + 8 * 3 * 4 + 8 * 4
    assert [layer.initializer for layer in size.layers] == ["w"]
    assert size.compressed_bytes == weight * 0.53125 + 8 * 3 * 4 + 8 * 4
    assert compressed_bytes(dense, NMPattern(2, 4)).compressed_bytes == size.dense_bytes  # nothing holds the pattern
