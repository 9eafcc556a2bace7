"""Finding prunable weights in a graph, and masking them and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipelines.checks.sparse_file import only_pruned
from pipelines.errors import PipelineError
from pipelines.graph.mask import mask_magnitude
from pipelines.graph.tensors import values_of, without_tensors
from pipelines.graph.weights import check_pattern, split, weights_of
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
    (helper.make_node("Gemm", ["w", "x"], ["y"]), weight(10, 16), 1),
    (helper.make_node("Gemm", ["w", "x"], ["y"], transA=1), weight(16, 10), 0),
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
        (helper.make_node("Gemm", ["x", "w"], ["y"]), weight(16, 10).astype(np.int8), "INT8, not float16"),
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


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Conv"])
def test_the_weight_of_a_constant_node_is_a_weight_like_others(op: str) -> None:
    value = weight(16, 8) if op != "Conv" else weight(8, 16, 1, 1)
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(value))
    model = graph([constant, helper.make_node(op, ["x", "w"], ["y"])])
    made, (layer,) = mask_magnitude(model, PATTERN)
    assert (layer.weight.initializer, layer.zeros) == ("w", value.size // 2)
    assert check_pattern(made, PATTERN) == []
    assert only_pruned(model, made, PATTERN).status == "ok"
    made.graph.node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(value))
    assert [found.initializer for found, _ in check_pattern(made, PATTERN)] == ["w"]


def test_a_weight_computed_from_constants_is_reported_and_not_taken_for_an_activation() -> None:
    nodes = [helper.make_node("Transpose", ["w"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    eligible, others = split(graph(nodes, w=weight(8, 16)), PATTERN)
    assert (eligible, [reason for _, reason in others]) == ([], ["its weight is computed, not stored"])


@pytest.mark.parametrize(
    ("nodes", "reader"),
    [
        ([("Gather", ["w", "x"], "h"), ("MatMul", ["h", "w"], "y")], "read by Gather of h"),  # a tied embedding
        ([("MatMul", ["x", "w"], "h"), ("Add", ["h", "w"], "y")], "read by Add of y"),
        ([("MatMul", ["x", "w"], "h"), ("Gemm", ["h", "v", "w"], "y")], "read by Gemm of y"),  # there it is a bias
    ],
)
def test_a_weight_that_another_operator_reads_is_left_alone(nodes: list[Any], reader: str) -> None:
    model = graph([helper.make_node(op, given, [out]) for op, given, out in nodes], w=weight(16, 16), v=weight(16, 16))
    eligible, others = split(model, PATTERN)
    assert "w" not in [one.initializer for one in eligible]
    assert f"its weight is also {reader}" in [reason for _, reason in others]


def test_a_weight_that_is_an_output_is_left_alone() -> None:
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], w=weight(16, 16))
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 16]))
    assert [reason for _, reason in split(model, PATTERN)[1]] == ["its weight is also an output of the graph"]


def test_a_weight_shared_with_a_layer_that_can_not_follow_is_left_alone() -> None:
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["h"]), helper.make_node("ConvTranspose", ["h", "w"], ["y"])]
    nodes[1].attribute.append(helper.make_attribute("group", 2))
    eligible, others = split(graph(nodes, w=weight(12, 8, 1, 1)), PATTERN)
    assert (eligible, len(others)) == ([], 2)
    assert "shared with a layer that can't follow" in others[0][1]


def test_a_layer_in_a_nested_graph_says_so_and_bars_the_weight_it_shares() -> None:
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["z"])], "branch", [], [out])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch, else_branch=branch),
    ]
    eligible, others = split(graph(nodes, w=weight(16, 16), c=np.array(True)), PATTERN)
    assert eligible == []
    assert "it is in a graph nested in choice" in [reason for _, reason in others]


def test_an_operator_of_another_domain_is_none_of_ours() -> None:
    assert weights_of(graph([helper.make_node("Conv", ["x", "w"], ["y"], domain="mine")], w=weight(8, 16, 1, 1))) == []


def test_values_in_another_file_are_refused_by_name(tmp_path: Path) -> None:
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], w=weight(64, 64))
    onnx.save(model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.bin", size_threshold=0)
    bare = onnx.load(str(tmp_path / "m.onnx"), load_external_data=False)
    assert [reason for _, reason in split(bare, PATTERN)[1]] == ["its weight is in another file that was not loaded"]
    with pytest.raises(PipelineError, match=r"^the values of w are in another file"):
        values_of(bare)
    assert mask_magnitude(onnx.load(str(tmp_path / "m.onnx")), PATTERN)[1][0].zeros == 64 * 64 // 2


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_values_in_typed_fields_are_read_like_raw_ones(kind: int) -> None:
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"])])
    model.graph.initializer.append(helper.make_tensor("w", kind, [8, 2], list(weight(16))))
    made, _ = mask_magnitude(model, PATTERN)
    assert np.count_nonzero(values_of(made)["w"]) == 8
    assert only_pruned(model, made, PATTERN).status == "ok"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused_with_its_layer(value: float) -> None:
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="head")], w=np.full((8, 8), value, np.float32))
    with pytest.raises(PipelineError, match=r"^head: w holds values that are not finite"):
        mask_magnitude(model, PATTERN)
    assert only_pruned(model, model, PATTERN).detail == "w is not finite in the dense file"


def test_the_untouched_rest_is_compared_bit_for_bit() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    model = graph(nodes, w=weight(8, 8), b=np.array([0.0, np.nan], np.float32))
    made, _ = mask_magnitude(model, PATTERN)
    assert only_pruned(model, made, PATTERN).status == "ok"  # NaN equals itself
    made.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array([-0.0, np.nan], np.float32), "b"))
    assert only_pruned(model, made, PATTERN).detail.startswith("1 values of b are neither")


def test_the_rest_of_a_model_is_all_of_it_but_its_values() -> None:
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(weight(4)))
    model = graph(
        [constant, helper.make_node("Conv", ["x", "w", "c"], ["y"], name="n", pads=[1, 1])], w=weight(4, 4, 3)
    )
    model.metadata_props.add(key="a", value="b")
    model.graph.doc_string = "text"
    wanted = onnx.ModelProto()
    wanted.CopyFrom(model)
    wanted.graph.initializer[0].Clear()
    wanted.graph.node[0].attribute[0].t.Clear()
    assert without_tensors(model) == wanted


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
