"""The NumPy executor against onnxruntime, operator by operator, and what `evaluate` promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipelines.errors import PipelineError
from pipelines.executor import evaluate
from pipelines.executor.operators import Call
from pipelines.executor.windows import window

KINDS = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL, "u": TensorProto.UINT8}


def model_of(nodes: Sequence[Any], feeds: dict[str, Any], outputs: Sequence[str], opset: int) -> onnx.ModelProto:
    given_ = [helper.make_tensor_value_info(name, KINDS[np.asarray(v).dtype.kind], None) for name, v in feeds.items()]
    made = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(list(nodes), "g", given_, made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def runtime(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    running = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Any] = running.run(None, feeds)
    return found


def agree(op: str, *inputs: Any, opset: int = 13, outputs: int = 1, limit: float = 2e-5, **attributes: Any) -> None:
    """One node, in float64 and float32, against onnxruntime. None is an omitted input."""
    feeds = {f"x{place}": np.asarray(value) for place, value in enumerate(inputs) if value is not None}
    names = [f"x{place}" if value is not None else "" for place, value in enumerate(inputs)]
    made = [f"y{place}" for place in range(outputs)]
    model = model_of([helper.make_node(op, names, made, **attributes)], feeds, made, opset)
    wanted = runtime(model, feeds)
    for dtype in (np.float64, np.float32):
        found = evaluate(model, feeds, dtype=dtype)
        for name, one in zip(made, wanted, strict=True):
            value = found[name]
            assert value.shape == one.shape, (op, name)
            assert value.dtype == (dtype if one.dtype.kind == "f" else one.dtype), (op, name)
            np.testing.assert_allclose(value, one, rtol=limit, atol=limit, err_msg=op)


def floats(*shape: int, seed: int = 0, low: float = -2, high: float = 2) -> Any:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def whole(*values: int) -> Any:
    return np.array(values, np.int64)


X = floats(2, 3, 4, 5)


PLAIN = """
Abs Neg Ceil Floor Round Exp Sign Sin Cos Tan Atan Sinh Cosh Tanh Asinh Erf Relu Sigmoid Softplus Softsign LeakyRelu
Elu Selu Celu ThresholdedRelu HardSigmoid Identity Shrink
"""


@pytest.mark.parametrize("op", PLAIN.split())
def test_elementwise(op: str) -> None:
    agree(op, X)


def test_elementwise_where_the_domain_is_smaller() -> None:
    for op in ("Log", "Sqrt", "Reciprocal"):
        agree(op, floats(3, 4, low=0.1))
    for op in ("Asin", "Acos", "Atanh"):
        agree(op, floats(3, 4, low=-0.9, high=0.9))
    agree("Acosh", floats(3, 4, low=1.1, high=4))
    agree("HardSwish", X, opset=14)
    agree("Elu", X, alpha=0.5)
    agree("HardSigmoid", X, alpha=0.3, beta=0.4)
    agree("PRelu", X, floats(3, 1, 1))
    special = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    agree("IsNaN", special)
    agree("IsInf", special, detect_positive=0)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"])
def test_two_sides_broadcast(op: str) -> None:
    agree(op, X, floats(3, 1, 5, seed=1, low=0.5))
    agree(op, whole(7, -7, 6), whole(2, 2, -4))


def test_more_of_several_inputs() -> None:
    agree("Equal", whole(1, 2), whole(1, 3))
    agree("Pow", floats(3, 4, low=0.1), np.float32(2.5))
    agree("Pow", X, np.float32(2))
    agree("Mod", X, floats(5, seed=1, low=0.5), fmod=1)
    agree("Mod", whole(7, -7), whole(3, 3))
    for op in ("Sum", "Mean", "Min", "Max"):
        agree(op, X, floats(5, seed=1), floats(4, 1, seed=2))
    flags = np.array([True, False, True, False])
    for op in ("And", "Or", "Xor"):
        agree(op, flags, flags[::-1].copy())
    agree("Not", flags)
    agree("Where", flags, floats(2, 4), floats(4, seed=1))


def test_clip_by_inputs_and_by_attributes() -> None:
    agree("Clip", X, np.float32(-0.5), np.float32(1))
    agree("Clip", X, None, np.float32(1))
    agree("Clip", X, np.float32(-0.5))
    agree("Clip", X, opset=7, min=-0.25, max=0.75)


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_convolution(data: st.DataObject) -> None:
    rank, groups = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 1, 2, 4]))
    channels, filters = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    kernel = data.draw(st.tuples(*[st.integers(1, 3)] * rank))
    size = data.draw(st.tuples(*[st.integers(6, 9)] * rank))
    attributes: dict[str, Any] = {"group": groups, "strides": data.draw(st.tuples(*[st.integers(1, 2)] * rank))}
    auto = data.draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto == "NOTSET":
        attributes |= {
            "pads": data.draw(st.tuples(*[st.integers(0, 2)] * (2 * rank))),
            "dilations": data.draw(st.tuples(*[st.integers(1, 2)] * rank)),
        }
    else:
        attributes["auto_pad"] = auto
    x, w = floats(2, channels * groups, *size), floats(filters * groups, channels, *kernel, seed=1)
    agree("Conv", x, w, *data.draw(st.sampled_from([(), (floats(filters * groups, seed=2),)])), **attributes)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_transposed_convolution(data: st.DataObject) -> None:
    rank, groups = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1, 2]))
    kernel = data.draw(st.tuples(*[st.integers(2, 3)] * rank))
    attributes: dict[str, Any] = {"group": groups, "strides": data.draw(st.tuples(*[st.integers(2, 3)] * rank))}
    kind = data.draw(st.sampled_from(["pads", "pads", "VALID", "output_shape"]))
    if kind == "pads":
        attributes |= {
            "pads": data.draw(st.tuples(*[st.integers(0, 1)] * (2 * rank))),
            "output_padding": data.draw(st.tuples(*[st.integers(0, 1)] * rank)),
            "dilations": data.draw(st.tuples(*[st.integers(1, 2)] * rank)),
        }
    elif kind == "VALID":
        attributes["auto_pad"] = "VALID"
    else:
        attributes["output_shape"] = [3 * stride + 2 for stride in attributes["strides"]]
    x, w = floats(2, 2 * groups, *[4] * rank), floats(2 * groups, 3, *kernel, seed=1)
    agree("ConvTranspose", x, w, floats(3 * groups, seed=2), **attributes)


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_pools(data: st.DataObject) -> None:
    rank, op = data.draw(st.integers(1, 3)), data.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    kernel = data.draw(st.tuples(*[st.integers(2, 3)] * rank))
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": data.draw(st.tuples(*[st.integers(1, 3)] * rank)),
    }
    auto = data.draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto == "NOTSET":
        attributes["pads"] = data.draw(st.tuples(*[st.integers(0, 1)] * (2 * rank)))
        ceil = data.draw(st.integers(0, 1))
        if op == "MaxPool":
            attributes |= {"ceil_mode": ceil, "dilations": data.draw(st.tuples(*[st.integers(1, 2)] * rank))}
        else:  # onnxruntime counts what lies beyond the padding where both are set
            attributes["count_include_pad" if data.draw(st.booleans()) else "ceil_mode"] = ceil
    else:
        attributes["auto_pad"] = auto
    size = data.draw(st.tuples(*[st.integers(6, 9)] * rank))
    if attributes.get("ceil_mode"):
        shape = window(Call.of(helper.make_node(op, ["x"], ["y"], **attributes), 13, np.dtype("f8")), size, kernel)
        starts = zip(shape.sizes, shape.strides, shape.begin, size, strict=True)
        assume(all((count - 1) * stride < begin + length for count, stride, begin, length in starts))  # none is empty
    agree(op, floats(2, 3, *size), **attributes)


def test_an_average_counts_padding_but_nothing_beyond_it() -> None:
    node = helper.make_node(
        "AveragePool", ["x"], ["y"], kernel_shape=[2], strides=[2], pads=[1, 0], ceil_mode=1, count_include_pad=1
    )
    feeds = {"x": np.array([[[2, 4, 6, 8]]], np.float32)}
    assert evaluate(model_of([node], feeds, ["y"], 13), feeds)["y"].ravel().tolist() == [1, 5, 8]


def test_pools_over_all_positions() -> None:
    agree("GlobalAveragePool", X)
    agree("GlobalMaxPool", X)


def test_products() -> None:
    agree("MatMul", floats(2, 3, 4), floats(4, 5, seed=1))
    agree("MatMul", floats(4), floats(2, 4, 5, seed=1))
    agree("MatMul", floats(2, 1, 3, 4), floats(3, 4, 5, seed=1))
    agree("Gemm", floats(3, 4), floats(4, 5, seed=1), floats(5, seed=2))
    agree("Gemm", floats(4, 3), floats(5, 4, seed=1), floats(3, 1, seed=2), transA=1, transB=1, alpha=0.5, beta=2.0)
    agree("Gemm", floats(3, 4), floats(4, 5, seed=1))
    agree("Einsum", floats(2, 3, 4), floats(2, 4, 5, seed=1), equation="bij, bjk -> bik")


def test_norms() -> None:
    scale, bias, mean = (floats(3, seed=seed) for seed in (1, 2, 3))
    variance = floats(3, seed=4, low=0.1)
    for opset in (7, 9, 13, 15):
        agree("BatchNormalization", X, scale, bias, mean, variance, opset=opset, epsilon=1e-3)
    agree("InstanceNormalization", X, scale, bias)
    agree("LayerNormalization", X, floats(4, 5), floats(4, 5, seed=1), opset=17, axis=2)
    agree("LpNormalization", X, axis=1, p=1)
    agree("MeanVarianceNormalization", X)
    for size in (3, 5):
        agree("LRN", floats(2, 7, 3, 3), size=size, alpha=0.2, beta=0.6, bias=1.5)
    for op in ("Softmax", "LogSoftmax"):
        for opset in (11, 13):
            agree(op, X, opset=opset)
            agree(op, X, opset=opset, axis=2)
    agree("Hardmax", X, axis=1)


@pytest.mark.parametrize("op", ["Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp"])
def test_reductions(op: str) -> None:
    agree(f"Reduce{op}", X, opset=11)
    agree(f"Reduce{op}", X, opset=11, axes=[1, -1], keepdims=0)
    agree(f"Reduce{op}", whole(3, 1, 2) if op in ("Sum", "Max", "Min", "Prod") else X, opset=11, keepdims=0)


def test_more_reductions() -> None:
    agree("ReduceLogSum", floats(3, 4, low=0.1), opset=11, axes=[0])
    agree("ReduceSum", X, whole(1, 2), keepdims=0)
    agree("ReduceSum", X, whole(), noop_with_empty_axes=1)
    for op in ("ArgMax", "ArgMin"):
        agree(op, np.round(X), axis=-1)
        agree(op, np.round(X), axis=1, keepdims=0, select_last_index=1)
    agree("TopK", X, whole(2), outputs=2, axis=1)
    agree("TopK", np.round(X), whole(3), outputs=2, largest=0)
    agree("CumSum", X, np.int64(1), exclusive=1, reverse=1)


def test_shapes() -> None:
    agree("Reshape", X, whole(0, -1, 5))
    agree("Reshape", floats(2, 0, 3), whole(0, 3, 2), opset=14, allowzero=1)
    for axis in (0, 1, 2, 4, -1):
        agree("Flatten", X, axis=axis)
    agree("Transpose", X)
    agree("Transpose", X, perm=[0, 2, 3, 1])
    agree("Squeeze", floats(1, 3, 1))
    agree("Squeeze", floats(1, 3, 1), whole(-1))
    agree("Squeeze", floats(1, 3, 1), opset=11, axes=[0])
    agree("Unsqueeze", X, whole(0, -1))
    agree("Unsqueeze", X, opset=11, axes=[1, 3])
    agree("Concat", X, X, axis=1)
    agree("Split", X, outputs=2, axis=2)
    agree("Split", X, whole(1, 4), outputs=2, axis=-1)
    agree("Split", X, opset=11, outputs=2, axis=3, split=[2, 3])
    agree("Expand", floats(3, 1), whole(2, 1, 4))
    agree("Tile", floats(2, 3), whole(2, 2))
    agree("Shape", X)
    agree("Shape", X, opset=15, start=1, end=-1)
    agree("Size", X)
    agree("DepthToSpace", floats(1, 8, 2, 3), blocksize=2)
    agree("DepthToSpace", floats(1, 8, 2, 3), blocksize=2, mode="CRD")
    agree("SpaceToDepth", floats(1, 2, 4, 6), blocksize=2)
    agree("Dropout", X)


def test_pads() -> None:
    pads = whole(0, 1, 2, 0, 1, 0, 2, 3)
    agree("Pad", X, pads)
    agree("Pad", X, pads, np.float32(1.5))
    agree("Pad", X, whole(0, 0, -1, -2, 0, 0, 1, 1))
    for mode in ("reflect", "edge"):
        agree("Pad", X, whole(0, 0, 1, 2, 0, 0, 2, 1), mode=mode)
    agree("Pad", X, opset=9, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5)


def test_casts() -> None:
    agree("Cast", X, to=TensorProto.INT64)
    agree("Cast", X, to=TensorProto.BOOL)
    agree("Cast", whole(3, 4), to=TensorProto.FLOAT)


def test_constants() -> None:
    value = numpy_helper.from_array(whole(7))
    agree("ConstantOfShape", whole(2, 3))
    agree("ConstantOfShape", whole(2, 3), value=value)
    for held in ({"value": value}, {"value_float": 1.5}, {"value_ints": [1, 2]}, {"value_floats": [1.5, 2.0]}):
        agree("Constant", **held)


def test_indices() -> None:
    agree("Slice", X, whole(1, -4), whole(9, -1), whole(2, 3), whole(1, 2))
    agree("Slice", X, whole(-1), whole(-999), whole(3), whole(-2))
    agree("Slice", X, opset=9, starts=[0, 1], ends=[2, 3], axes=[1, 2])
    agree("Gather", X, np.array([[0, -1], [1, 1]], np.int64), axis=3)
    agree("Gather", X, np.int64(1), axis=1)
    agree("GatherElements", floats(3, 4), np.array([[0, 1], [2, -1]], np.int64), axis=1)
    agree("GatherND", floats(3, 4), np.array([[0, 1], [2, 3]], np.int64))
    agree("ScatterND", floats(4, 3), np.array([[1], [3]], np.int64), floats(2, 3, seed=1))
    agree("ScatterElements", floats(3, 4), np.array([[0, 1], [2, 3]], np.int64), floats(2, 2, seed=1), axis=1)
    agree("NonZero", np.array([[1, 0], [0, 2]], np.float32))
    agree("OneHot", whole(0, 2, -1, 7), whole(3), np.array([0.5, 2], np.float32))
    agree("Range", np.float32(0.5), np.float32(3), np.float32(1))
    agree("Trilu", X, np.int64(1), opset=14, upper=0)


@pytest.mark.parametrize("transformation", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(mode: str, transformation: str) -> None:
    how = {"mode": mode, "coordinate_transformation_mode": transformation}
    for scales in ([1, 1, 2, 2], [1, 1, 0.6, 1.7]):
        agree("Resize", X, None, np.array(scales, np.float32), **how)
    agree("Resize", X, None, None, whole(2, 3, 7, 3), **how)


def test_more_of_resize() -> None:
    doubled = np.array([1, 1, 2, 2], np.float32)
    for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        agree("Resize", X, None, doubled, mode="nearest", nearest_mode=nearest)
    agree("Resize", X, None, doubled, mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5)
    agree("Resize", X, doubled, opset=10)
    agree("Resize", X, np.array([1, 1, 0.5, 0.5], np.float32), opset=10)
    agree("Upsample", X, doubled, opset=9)
    agree("Upsample", X, opset=7, scales=[1.0, 1.0, 2.0, 3.0], mode="linear")


def test_quantised_values() -> None:
    scale, zero = np.float32(0.05), np.uint8(120)
    agree("QuantizeLinear", X, scale, zero)
    agree("QuantizeLinear", X, floats(3, low=0.01, high=0.02), np.array([1, 128, 200], np.uint8), axis=1)
    agree("DequantizeLinear", np.array([[0, 120, 255]], np.uint8), scale, zero)
    agree("DynamicQuantizeLinear", X, outputs=3)


def two_steps() -> tuple[onnx.ModelProto, dict[str, Any]]:
    feeds = {"x": floats(2, 3)}
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["y"]),
        helper.make_node("Mystery", ["x"], ["z"], name="odd", domain="house"),
    ]
    model = model_of(nodes, feeds, ["y"], 13)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3], np.float16), "w"))
    return model, feeds


def test_tensors_between_are_given_where_wanted_and_only_what_they_need_is_run() -> None:
    model, feeds = two_steps()
    found = evaluate(model, feeds, wanted=["h", "w", "x"])
    assert {name: value.dtype for name, value in found.items()} == dict.fromkeys(["h", "w", "x"], np.dtype("f8"))
    assert np.array_equal(found["h"], feeds["x"].astype(np.float64) * [1, 2, 3])


def test_an_unknown_operator_is_refused_by_its_name() -> None:
    model, feeds = two_steps()
    with pytest.raises(PipelineError, match="odd: the operator house:Mystery is not known"):
        evaluate(model, feeds, wanted=["z"])


def test_a_hook_may_run_a_node_itself_and_weights_may_be_replaced() -> None:
    model, feeds = two_steps()

    def hook(node: onnx.NodeProto, inputs: Sequence[Any]) -> Any:
        return [inputs[0] * 2] if node.domain == "house" else None

    assert np.array_equal(evaluate(model, feeds, wanted=["z"], on_node=hook)["z"], feeds["x"] * np.float64(2))
    replaced = evaluate(model, feeds, weights={"w": np.zeros(3)})
    assert not replaced["y"].any()


def test_a_missing_feed_and_a_missing_tensor_are_named() -> None:
    model, feeds = two_steps()
    with pytest.raises(ValueError, match="feeds: x is missing"):
        evaluate(model, {})
    model.graph.node[1].input[0] = "nowhere"
    with pytest.raises(PipelineError, match="Relu of y reads nowhere"):
        evaluate(model, feeds)


def test_a_fault_of_the_file_is_one_line_with_the_node_and_its_shapes() -> None:
    model = model_of([helper.make_node("MatMul", ["a", "b"], ["y"])], feeds := {"a": X, "b": X}, ["y"], 13)
    with pytest.raises(PipelineError, match=r"MatMul of y: MatMul fails on inputs of shapes \[\[2, 3, 4, 5\]"):
        evaluate(model, feeds)


def test_inputs_are_left_as_they_are() -> None:
    feeds = {"x": floats(1, 2, 5, 5)}
    before = feeds["x"].copy()
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[1, 1]),
        helper.make_node("AveragePool", ["p"], ["q"], kernel_shape=[2, 2]),
        helper.make_node("Relu", ["q"], ["y"]),
    ]
    evaluate(model_of(nodes, feeds, ["y"], 13), feeds, dtype=np.float32)
    assert np.array_equal(feeds["x"], before)
