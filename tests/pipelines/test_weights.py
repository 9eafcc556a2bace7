"""Finding prunable weights in a graph, and masking them and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipelines.graph.mask import mask_magnitude
from pipelines.graph.weights import check_pattern, split, values_of, weights_of
from pipelines.sparsity.pattern import NMPattern

PATTERN = NMPattern(2, 4)


def graph(nodes: list[Any], **tensors: Any) -> onnx.ModelProto:
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    made = helper.make_graph(nodes, "g", [given], [out], held)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def weight(*shape: int, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


CASES = [
    (helper.make_node("Conv", ["x", "w"], ["y"]), weight(8, 16, 3, 3), 1),
    (helper.make_node("Conv", ["x", "w"], ["y"]), weight(8, 16, 3), 1),
    (helper.make_node("Conv", ["x", "w"], ["y"]), weight(8, 16, 1, 1, 1), 1),
    (helper.make_node("Conv", ["x", "w"], ["y"], group=2), weight(8, 8, 3, 3), 1),
    (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), weight(16, 8, 2, 2), 0),
    (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), weight(10, 16), 1),
    (helper.make_node("Gemm", ["x", "w"], ["y"]), weight(16, 10), 0),
    (helper.make_node("MatMul", ["x", "w"], ["y"]), weight(16, 10), 0),
    (helper.make_node("MatMul", ["x", "w"], ["y"]), weight(3, 16, 10), 1),
    (helper.make_node("MatMul", ["w", "x"], ["y"]), weight(10, 16), 1),
]


@pytest.mark.parametrize(("node", "value", "axis"), CASES)
def test_the_input_channel_axis_of_every_layer(node: Any, value: Any, axis: int) -> None:
    model = graph([node], w=value)
    (found,) = weights_of(model)
    assert (found.initializer, found.shape, found.axis) == ("w", value.shape, axis)
    made, _ = mask_magnitude(model, PATTERN)
    sparse = values_of(made)["w"]
    assert np.count_nonzero(sparse) == value.size // 2
    assert PATTERN.holds(sparse, axis)
    assert check_pattern(made, PATTERN) == []


@pytest.mark.parametrize(
    ("node", "value", "reason"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"]), weight(8, 3, 3, 3), "3 input channels, fewer than 4"),
        (helper.make_node("Conv", ["x", "w"], ["y"], group=8), weight(8, 1, 3, 3), "1 input channels a group"),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=2), weight(12, 8, 2, 2), "do not divide into 4"),
        (helper.make_node("Gemm", ["x", "w"], ["y"]), weight(16, 10).astype(np.int8), "not floating point"),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), weight(16), "1 dimension"),
        (helper.make_node("Conv", ["x", "v"], ["y"]), weight(8, 16, 3, 3), "computed, not stored"),
    ],
)
def test_what_can_not_follow_the_pattern_has_its_reason(node: Any, value: Any, reason: str) -> None:
    eligible, others = split(graph([node], w=value), PATTERN)
    assert eligible == []
    assert reason in others[0][1]


def test_a_product_of_two_activations_has_no_weight() -> None:
    assert weights_of(graph([helper.make_node("MatMul", ["x", "z"], ["y"])])) == []


def test_a_shared_weight_is_masked_once() -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"]), helper.make_node("Gemm", ["h", "w"], ["y"])]
    eligible, others = split(graph(nodes, w=weight(8, 8)), PATTERN)
    assert (len(eligible), others) == (1, [])


def test_a_weight_read_along_two_axes_is_left_alone_with_its_reason() -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"]), helper.make_node("Gemm", ["h", "w"], ["y"], transB=1)]
    eligible, others = split(graph(nodes, w=weight(8, 8)), PATTERN)
    assert eligible == []
    assert all("another axis" in reason for _, reason in others)


def test_a_broken_group_is_named_with_its_layer() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="stem")
    made, _ = mask_magnitude(graph([node], w=weight(8, 16, 3, 3)), PATTERN)
    broken = values_of(made)["w"].copy()
    broken[3, 8:12, 1, 2] = 1.0
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(broken, "w"))
    ((found, groups),) = check_pattern(made, PATTERN)
    assert found.node == "stem"
    assert [(one.index, one.group, one.nonzeros) for one in groups] == [((3, 1, 2), 2, 4)]


layers = st.lists(st.tuples(st.sampled_from(["Conv", "Gemm", "Relu"]), st.integers(1, 12)), min_size=1, max_size=6)


@settings(deadline=None)
@given(layers, st.sampled_from([NMPattern(2, 4), NMPattern(1, 4), NMPattern(4, 8)]))
def test_masking_any_graph_changes_eligible_weights_only(plan: list[tuple[str, int]], pattern: NMPattern) -> None:
    nodes, tensors, name = [], {}, "x"
    for place, (kind, size) in enumerate(plan):
        inputs = [name] if kind == "Relu" else [name, f"w{place}"]
        if kind != "Relu":
            tensors[f"w{place}"] = weight(5, size, 1, 1) if kind == "Conv" else weight(size, 5)
        nodes.append(helper.make_node(kind, inputs, [f"h{place}"], name=f"n{place}"))
        name = f"h{place}"
    model = graph(nodes, **tensors)
    made, masked = mask_magnitude(model, pattern)
    names = {layer.weight.initializer for layer in masked}
    assert names == {one.initializer for one in split(model, pattern)[0]}
    assert check_pattern(made, pattern) == []
    for tensor, before in values_of(model).items():
        after = values_of(made)[tensor]
        assert np.array_equal(after, before) or (
            tensor in names and np.array_equal(after[after != 0], before[after != 0])
        )
    del model.graph.initializer[:], made.graph.initializer[:]
    assert made == model
