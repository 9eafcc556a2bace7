"""Every limit: a network at the limit passes, one step beyond is one finding that names node, limit and remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_networks import conv, network, node

from pipelines.contract import GateFinding
from pipelines.gate.examine import examine
from pipelines.vendors import rules
from pipelines.vendors.limits import Limits, Rule

DOC = "documentation"


def limits(*one: Rule, **more: Any) -> Limits:
    return Limits(**{"opset": (7, 13), "ir_version": 8, "origin": "measured", "rules": one, **more})


def found(model: onnx.ModelProto, allowed: Limits) -> list[GateFinding]:
    return examine(model, allowed, "dense", model.ByteSize())


def pool(op: str, kernel: list[int]) -> onnx.ModelProto:
    return network(node(op, kernel_shape=kernel), shape=(1, 4, 300, 300))


def softmax(axis: int | None, opset: int = 13, shape: tuple[int, ...] = (1, 4, 8)) -> onnx.ModelProto:
    stated = {} if axis is None else {"axis": axis}
    return network(node("Softmax", **stated), shape=shape, opset=opset)


def concat(count: int) -> onnx.ModelProto:
    return network(node("Concat", ["x"] * count, axis=1))


def gather(dtype: Any, indices: str = "i") -> onnx.ModelProto:
    return network(node("Gather", f"x {indices}", axis=1), stored={"i": np.array([0, 2], dtype)})


def computed_pads(of_the_picture: bool) -> onnx.ModelProto:
    """Pad whose pads are a sum: of two stored tensors, or of one and the picture's shape."""
    ones = np.ones(8, np.int64)
    if of_the_picture:
        nodes = [node("Shape", output="s"), node("Concat", "s s", "s8", axis=0), node("Mul", "s8 zero", "p")]
    else:
        nodes = [node("Add", "a zero", "p")]
    stored = {"a": ones, "zero": np.zeros(8, np.int64)}
    made = (1, 4, 8, 8) if of_the_picture else (3, 6, 10, 10)
    return network(*nodes, node("Pad", "x p"), stored=stored, made=made)


def resize(mode: str) -> onnx.ModelProto:
    scales = np.array([1, 1, 2, 2], np.float32)
    return network(node("Resize", ["x", "", "scales"], mode=mode), stored={"scales": scales})


def clip(low: float, high: float) -> onnx.ModelProto:
    bounds = {"low": np.array(low, np.float32), "high": np.array(high, np.float32)}
    return network(node("Clip", "x low high"), stored=bounds)


CASES = {  # rule -> (one at the limit, one beyond it, what is said)
    "kernel area": (rules.kernel_area("Conv", 63, DOC), conv((7, 9)), conv((8, 8)), "kernel 8x8: at most 63 in all"),
    "kernel side": (
        rules.kernel_side("AveragePool", 255, DOC),
        pool("AveragePool", [255, 255]),
        pool("AveragePool", [1, 256]),
        "kernel 1x256: at most 255 a side",
    ),
    "kernel of a global pooling": (
        rules.kernel_side("GlobalAveragePool", 255, DOC),
        network(node("GlobalAveragePool"), shape=(1, 4, 255, 255)),
        network(node("GlobalAveragePool"), shape=(1, 4, 8, 256)),
        "kernel 8x256: at most 255 a side",
    ),
    "pads": (
        rules.pads("Conv", 7, DOC),
        conv((9, 9), pads=[7, 7, 7, 7]),
        conv((9, 9), pads=[0, 0, 8, 0]),
        "pads 0, 0, 8, 0: at most 7",
    ),
    "pads that are not stated": (
        rules.pads("Conv", 7, DOC),
        conv((15, 15), auto_pad="SAME_UPPER"),
        conv((16, 16), auto_pad="SAME_UPPER"),
        "pads 7, 7, 8, 8: at most 7",
    ),
    "negative pads": (
        rules.pads("Conv", 7, DOC),
        conv((3, 3), pads=[0, 0, 0, 0]),
        conv((3, 3), pads=[-1, 0, 0, 0]),
        "none may be below 0",
    ),
    "strides": (rules.strides("Conv", 2, DOC), conv((3, 3), strides=[2, 2]), conv((3, 3), strides=[1, 3]), "1, 3"),
    "dilations": (
        rules.dilations("Conv", 1, DOC),
        conv((3, 3), dilations=[1, 1]),
        conv((3, 3), dilations=[2, 2]),
        "dilations 2, 2: at most 1",
    ),
    "groups": (
        rules.groups("Conv", DOC),
        conv((3, 3), group=4),
        conv((3, 3), group=2),
        "2 groups of 4 channels: 1 or 4 are taken",
    ),
    "depthwise kernel": (
        rules.depthwise_kernels([(3, 3), (6, 6)], DOC, severity="error"),
        conv((6, 6), group=4),
        conv((5, 5), group=4),
        "depthwise kernel 5x5: 3x3, 6x6 are native",
    ),
    "Softmax's axis": (rules.innermost_axis("Softmax", DOC), softmax(2), softmax(1), "axis 1 of 3: only the last, 2"),
    "Softmax's axis by default": (
        rules.innermost_axis("Softmax", DOC),
        softmax(None),
        softmax(None, opset=12),  # 1 was the default then
        "axis 1 of 3: only the last, 2",
    ),
    "Softmax's size": (
        rules.axis_size("Softmax", 16384, DOC),
        softmax(-1, shape=(1, 16384)),
        softmax(-1, shape=(1, 16385)),
        "an axis of 16385 elements: at most 16384",
    ),
    "Concat's inputs": (
        rules.input_count("Concat", 1024, DOC),
        concat(1024),
        concat(1025),
        "1025 inputs: at most 1024",
    ),
    "Gather's index type": (
        rules.index_type("Gather", 1, {"int32"}, DOC),
        gather(np.int32),
        gather(np.int64),
        "indices are int64: int32 is taken",
    ),
    "Pad's pads": (
        rules.stored_input("Pad", 1, "pads", DOC),
        network(node("Pad", "x p"), stored={"p": np.ones(8, np.int64)}),
        computed_pads(of_the_picture=True),
        "pads computed from the picture: they must be stored",
    ),
    "Pad's mode": (
        rules.attribute_in("Pad", "mode", {"constant"}, "constant", DOC),
        network(node("Pad", "x p"), stored={"p": np.ones(8, np.int64)}),
        network(node("Pad", "x p", mode="reflect"), stored={"p": np.array([0, 0, 1, 1] * 2, np.int64)}),
        "mode reflect: constant is taken",
    ),
    "Resize's mode": (
        rules.attribute_not_in("Resize", "mode", {"cubic"}, "nearest", DOC),
        resize("linear"),
        resize("cubic"),
        "mode cubic is not taken",
    ),
    "rank": (
        rules.rank("Relu", 2, 4, DOC),
        network(node("Relu")),
        network(node("Relu"), shape=(1, 1, 4, 8, 8)),
        "5 dimensions: 2 to 4 are taken",
    ),
    "Clip's bounds": (
        rules.clip_range({(0, 6)}, DOC),
        clip(0, 6),
        clip(-1, 1),
        "clips to -1..1: 0..6 are taken",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_at_the_limit_passes_and_one_step_beyond_is_one_finding(name: str) -> None:
    rule, good, bad, said = CASES[name]
    assert found(good, limits(rule)) == []
    (finding,) = found(bad, limits(rule))
    assert said in finding.limit
    assert (finding.node, finding.op) == (bad.graph.node[-1].name, rule.op)
    assert (finding.remedy, finding.severity, finding.origin) == (rule.remedy, "error", DOC)
    assert found(bad, limits()) == []  # the rule says it, and nothing else does


def test_bounds_of_clip_are_read_in_either_form() -> None:
    rule = rules.clip_range({(0, 6)}, DOC)
    assert found(network(node("Clip", min=0.0, max=6.0), opset=10), limits(rule)) == []
    (finding,) = found(network(node("Clip", max=6.0), opset=10), limits(rule))
    assert "clips to -inf..6" in finding.limit


def test_a_warning_stays_one() -> None:
    (finding,) = found(conv((5, 5), group=4), limits(rules.depthwise_kernels([(3, 3)], DOC)))
    assert finding.severity == "warning"


def test_folding_is_offered_only_where_it_helps() -> None:
    rule = rules.stored_input("Pad", 1, "pads", DOC)
    (fixed,) = found(computed_pads(of_the_picture=False), limits(rule))
    (moving,) = found(computed_pads(of_the_picture=True), limits(rule))
    assert (fixed.fix, moving.fix) == ("fold_constants", "")
    assert "computed from stored tensors" in fixed.limit


# operators


def test_operators_that_are_not_taken_are_named_with_what_to_do() -> None:
    model = network(node("Gelu", output="g"), node("Relu", "g"))
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    _, foreign = found(model, limits())  # its output's shape is unknown too
    assert (foreign.op, foreign.remedy) == ("com.example.Gelu", "use ONNX's own operators")
    relu = network(node("Relu"))
    (refused,) = found(relu, limits(refused={"Relu": "use Clip"}))
    assert (refused.limit, refused.remedy) == ("Relu is not taken", "use Clip")
    (unknown,) = found(relu, limits(operators=frozenset({"Conv"})))
    assert (unknown.node, unknown.limit) == ("Relu_y", "Relu is not taken")
    assert found(relu, limits(operators=frozenset({"Relu"}))) == []


def test_operators_of_nested_graphs_are_seen() -> None:
    empty = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4, 8, 8])
    branch = helper.make_graph([helper.make_node("Erf", ["x"], ["z"], name="inner")], "branch", [], [empty])
    model = network(node("If", "c", then_branch=branch, else_branch=branch), stored={"c": np.array(True)})
    nodes = {one.node for one in found(model, limits(operators=frozenset({"If"})))}
    assert nodes == {"inner"}


# the file


@pytest.mark.parametrize(("opset", "good"), [(6, False), (7, True), (13, True), (14, False)])
def test_the_opset_lies_in_the_range(opset: int, good: bool) -> None:
    told = found(network(node("Relu"), opset=opset, ir=8), limits())
    assert [one.limit for one in told] == ([] if good else [f"opset {opset}: 7 to 13 is taken"])
    assert [one.fix for one in told] == ([] if good else ["convert_opset"])


@pytest.mark.parametrize(("version", "good"), [(7, True), (8, False)])
def test_the_ir_version_is_at_most_the_limit(version: int, good: bool) -> None:
    told = found(network(node("Relu"), ir=version), limits(ir_version=7))
    assert [(one.limit, one.fix) for one in told] == (
        [] if good else [("IR version 8: at most 7 is taken", "convert_ir")]
    )


def test_the_file_has_a_size() -> None:
    model = conv((3, 3))
    size = model.ByteSize()
    assert examine(model, limits(file_bytes=size), "dense", size) == []
    (finding,) = examine(model, limits(file_bytes=size - 1), "dense", size)
    assert "MiB: at most" in finding.limit


def test_of_an_invalid_file_only_versions_are_told_and_why_in_one_line() -> None:
    model = network(node("Relu"))
    model.graph.node[0].input[0] = "nobody"
    rule = rules.rank("Relu", 9, 9, DOC)
    version, finding = found(model, limits(rule, ir_version=6))  # versions are known; the graph is not looked at
    assert version.limit.startswith("IR version 7")
    assert "finds the file invalid" in finding.limit
    assert "\n" not in finding.limit


def test_several_inputs_are_one_finding() -> None:
    model = network(node("Add", "x x2"))
    model.graph.input.append(helper.make_tensor_value_info("x2", TensorProto.FLOAT, [1, 4, 8, 8]))
    (finding,) = found(model, limits())
    assert finding.limit == "2 inputs (x, x2): one picture goes to one input"


@pytest.mark.parametrize("shape", [("batch", 4, 8, 8), (1, 4, "height", "width"), (None, 4, 8, 8)])
def test_open_sizes_are_found_in_the_input_and_in_what_follows(shape: tuple[Any, ...]) -> None:
    first, rest = found(network(node("Relu"), shape=shape), limits())
    assert first.limit.startswith("the input x has shape [")
    assert first.limit.endswith("a chip takes static shapes only")
    assert rest.limit.startswith("1 tensors have shapes that can't be inferred, first y of Relu_y")
    assert first.fix == rest.fix == "static_shapes"


def test_shapes_that_the_file_does_not_state_matter_to_tools_that_infer_none() -> None:
    model = network(node("Relu", output="a"), node("Relu", "a"), infer=False)
    assert found(model, limits()) == []
    (finding,) = found(model, limits(all_shapes=True))
    assert finding.limit.startswith("1 tensors state no shape, first a of Relu_a")


def test_number_formats_are_those_that_the_tool_computes_in() -> None:
    halves = network(node("Cast", output="h", to=TensorProto.FLOAT16), node("Cast", "h", to=TensorProto.FLOAT))
    (finding,) = found(halves, limits())
    assert finding.limit == "h is float16: float32 is taken"
    assert found(halves, limits(dtypes=frozenset({"float16", "float32"}))) == []
    assert found(gather(np.int64), limits()) == []  # indices are no numbers to compute with
    (given,) = found(network(node("Relu"), dtype=TensorProto.DOUBLE, opset=14, ir=8), limits(opset=(7, 14)))[:1]
    assert given.limit == "the input x is float64: float32 is taken"


def test_levels_of_quantised_weights_are_numbers_to_compute_with() -> None:
    stored = {"w": np.ones((4, 4, 1, 1), np.int8), "scale": np.array(0.1, np.float32)}
    model = network(node("DequantizeLinear", "w scale", "f"), node("Conv", "x f"), stored=stored)
    (finding,) = found(model, limits())
    assert finding.limit == "w is int8: float32 is taken"


@pytest.mark.parametrize(
    ("name", "said"),
    [("größe", "the name 'gr\\xf6\\xdfe': printable ASCII is taken"), ("n" * 65, "has 65 characters: at most 64")],
)
def test_names_that_break_a_tool_are_found(name: str, said: str) -> None:
    model = network(node("Relu", output=name), node("Relu", name))
    allowed = limits(ascii_names=True, name_length=64)
    assert any(said in one.limit for one in found(model, allowed))
    assert {one.fix for one in found(model, allowed)} == {"plain_names"}
    assert found(model, limits()) == []
    assert found(network(node("Relu", output="n" * 59), node("Relu", "n" * 59)), allowed) == []
