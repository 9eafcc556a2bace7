"""Every mend: what the gate found is gone, and the network is the same in onnxruntime; what can't be mended says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser
from random_graphs import networks
from small_networks import conv, network, node, pictures

from pipelines.errors import PipelineError
from pipelines.gate.examine import examine
from pipelines.gate.mend import Mended, mend
from pipelines.gate.prove import evidence
from pipelines.graph.facts import opset_of
from pipelines.graph.fix import PASSES, Goal
from pipelines.graph.mask import mask_magnitude
from pipelines.inference import largest_difference, limit_for, outputs_of
from pipelines.sparsity.pattern import NMPattern
from pipelines.vendors import rules
from pipelines.vendors.limits import Limits

DOC = "documentation"
PATTERN = NMPattern(2, 4)
ANY = Limits(opset=(7, 16), ir_version=8, origin="measured")


def mended(model: onnx.ModelProto, limits: Limits, count: int = 3, **more: Any) -> Mended:
    return mend(model, limits, "dense", evidence(model, pictures(model, count), PATTERN), **more)


def ops(model: onnx.ModelProto) -> list[str]:
    return [one.op_type for one in model.graph.node]


def with_constant(tensor: Any, output: str = "c") -> onnx.NodeProto:
    return node("Constant", "", output, value=numpy_helper.from_array(np.asarray(tensor)))


def relu6() -> onnx.ModelProto:
    nodes = [node("Relu", output="r"), node("Min", "r six")]
    return network(*nodes, stored={"six": np.array(6, np.float32)})


def max_min() -> onnx.ModelProto:
    nodes = [node("Max", "low x", "m"), node("Min", "m high")]
    return network(*nodes, stored={"low": np.array([-1], np.float32), "high": np.array(0.5, np.float32)})


def normed() -> onnx.ModelProto:
    model = conv((3, 3))
    model.graph.node[0].output[0] = "c"
    stats = {name: np.linspace(0.5, 1.5, 4).astype(np.float32) for name in ("scale", "shift", "mean", "variance")}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stats.items())
    model.graph.node.append(node("BatchNormalization", "c scale shift mean variance"))
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model)


def flattened_by_shape() -> onnx.ModelProto:
    """As exporters write x.view(x.size(0), -1)."""
    stored = {"zero": np.array([0], np.int64), "rest": np.array([-1], np.int64)}
    nodes = [node("Shape", output="s"), node("Gather", "s zero", "n", axis=0), node("Concat", "n rest", "t", axis=0)]
    return network(*nodes, node("Reshape", "x t"), stored=stored, made=(1, 256))


def unclear_pads() -> onnx.ModelProto:
    stored = {"half": np.array([0, 0, 1, 1] * 2, np.int64)}
    return network(node("Add", "half half", "p"), node("Pad", "x p"), stored=stored, made=(1, 4, 12, 12))


REFUSE = {"Identity": "leave it out", "Dropout": "leave it out", "Constant": "store it", "Min": "clip", "Max": "clip"}
CASES: dict[str, tuple[Callable[[], onnx.ModelProto], Limits, str, list[str]]] = {
    # name: network, limits, the pass, the operators afterwards
    "opset up": (lambda: network(node("Relu"), opset=11), replace(ANY, opset=(13, 13)), "convert_opset", ["Relu"]),
    "opset down": (lambda: network(node("Relu")), replace(ANY, opset=(9, 11)), "convert_opset", ["Relu"]),
    "IR version": (lambda: network(node("Relu"), ir=8), replace(ANY, ir_version=6), "convert_ir", ["Relu"]),
    "open batch": (
        lambda: network(node("Relu"), shape=("batch", 4, 8, 8)),
        ANY,
        "static_shapes",
        ["Relu"],
    ),
    "unstated shapes": (
        lambda: network(node("Relu", output="a"), node("Relu", "a"), infer=False),
        replace(ANY, all_shapes=True),
        "static_shapes",
        ["Relu", "Relu"],
    ),
    "ReLU6 as Min": (relu6, replace(ANY, refused=REFUSE), "min_max_to_clip", ["Clip"]),
    "Max and Min": (max_min, replace(ANY, refused=REFUSE), "min_max_to_clip", ["Clip"]),
    "Identity": (
        lambda: network(node("Identity", output="i"), node("Relu", "i")),
        replace(ANY, refused=REFUSE),
        "drop_identities",
        ["Relu"],
    ),
    "Dropout": (
        lambda: network(node("Dropout", output="d"), node("Relu", "d")),
        replace(ANY, refused=REFUSE),
        "drop_identities",
        ["Relu"],
    ),
    "Constant": (
        lambda: network(with_constant(np.float32(2)), node("Mul", "x c")),
        replace(ANY, refused=REFUSE),
        "constants_to_initializers",
        ["Mul"],
    ),
    "computed pads": (
        unclear_pads,
        replace(ANY, rules=(rules.stored_input("Pad", 1, "pads", DOC),)),
        "fold_constants",
        ["Pad"],
    ),
    "batch norm": (normed, replace(ANY, refused={"BatchNormalization": "fuse it"}), "simplify", ["Conv"]),
    "shape arithmetic": (flattened_by_shape, replace(ANY, refused={"Shape": "fold it"}), "simplify", ["Reshape"]),
    "Softmax over channels": (
        lambda: network(node("Softmax", axis=1)),
        replace(ANY, rules=(rules.innermost_axis("Softmax", DOC),)),
        "softmax_last",
        ["Transpose", "Softmax", "Transpose"],
    ),
    "flattening Softmax": (
        lambda: network(node("Softmax", axis=1), opset=11),
        replace(ANY, rules=(rules.innermost_axis("Softmax", DOC),)),
        "softmax_last",
        ["Reshape", "Softmax", "Reshape"],
    ),
    "int64 indices": (
        lambda: network(node("Gather", "x i", axis=1), stored={"i": np.array([3, -1], np.int64)}),
        replace(ANY, rules=(rules.index_type("Gather", 1, {"int32"}, DOC),)),
        "short_indices",
        ["Gather"],
    ),
    "names": (
        lambda: network(node("Relu", output="größe"), node("Relu", "größe")),
        replace(ANY, ascii_names=True),
        "plain_names",
        ["Relu", "Relu"],
    ),
    "long names": (
        lambda: network(node("Relu", output="a" * 70 + "1"), node("Relu", "a" * 70 + "1")),
        replace(ANY, name_length=24),
        "plain_names",
        ["Relu", "Relu"],
    ),
    "float64": (
        lambda: network(
            node("Cast", output="d", to=TensorProto.DOUBLE),
            node("Mul", "d two", "t"),
            node("Cast", "t", to=TensorProto.FLOAT),
            stored={"two": np.array(2.0)},
        ),
        ANY,
        "single_precision",
        ["Cast", "Mul", "Cast"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_can_be_mended_is_gone_and_the_network_is_the_same(name: str) -> None:
    make, limits, fix, left = CASES[name]
    model = make()
    before = model.SerializeToString()
    assert any(one.fix == fix for one in examine(model, limits, "dense", 0))
    done = mended(model, limits)
    assert [one for one in done.findings if not one.fixed] == []
    assert {one.fix for one in done.findings} == {fix}
    assert all(change.startswith(f"{fix}: ") for change in done.changes)
    assert ops(done.model) == left
    assert examine(done.model, limits, "dense", 0) == []
    same(model, done.model)
    assert model.SerializeToString() == before  # a pass works on a copy


def same(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    images = pictures(before)
    reference, found = (outputs_of(one.SerializeToString(), images) for one in (before, after))
    assert largest_difference(reference, found) <= limit_for(reference)


def test_nothing_is_touched_where_nothing_is_found() -> None:
    model = conv((3, 3))
    done = mended(model, ANY)
    assert (done.findings, done.changes) == ([], [])
    assert done.model is model


def test_an_order_of_bounds_that_clip_can_not_say_stays() -> None:
    crossed = {"low": np.array(3, np.float32), "high": np.array(1, np.float32)}
    model = network(node("Max", "x low", "m"), node("Min", "m high"), stored=crossed)
    done = mended(model, replace(ANY, refused=REFUSE))
    same(model, done.model)


def test_a_relu_alone_stays_a_relu() -> None:
    model = network(node("Relu", output="r"), node("Max", "r low"), stored={"low": np.array(-9, np.float32)})
    assert ops(PASSES["min_max_to_clip"](network(node("Relu")), Goal((7, 13), 8))[0]) == ["Relu"]
    same(model, PASSES["min_max_to_clip"](model, Goal((7, 13), 8))[0])


def test_what_several_read_is_clipped_for_each() -> None:
    nodes = [node("Relu", output="r"), node("Min", "r six", "m"), node("Add", "r m")]
    model = network(*nodes, stored={"six": np.array(0.5, np.float32)})
    done = mended(model, replace(ANY, refused=REFUSE))
    assert ops(done.model) == ["Relu", "Clip", "Add"]


def test_outputs_keep_their_names_and_order() -> None:
    nodes = [node("Relu", output="a"), node("Identity", "a", "y"), node("Identity", "y", "z")]
    model = network(*nodes, outputs=("z", "a", "y"))
    done = mended(model, replace(ANY, refused=REFUSE))
    assert [one.name for one in done.model.graph.output] == ["z", "a", "y"]
    assert [one.limit for one in done.findings if not one.fixed] == ["Identity is not taken"] * 2


def test_dropout_that_trains_is_no_identity() -> None:
    stored = {"ratio": np.array(0.5, np.float32), "training": np.array(True)}
    model = network(node("Dropout", "x ratio training", "d"), node("Relu", "d"), stored=stored)
    made, told = PASSES["drop_identities"](model, Goal((7, 13), 8))
    assert (ops(made), told) == (["Dropout", "Relu"], [])


def test_indices_that_do_not_fit_stay_long() -> None:
    stored = {"i": np.array([0], np.int64), "big": np.array([2**40], np.int64)}
    model = network(node("Gather", "x i", axis=1), stored=stored)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([2**40]), "i"))
    assert PASSES["short_indices"](model, Goal((7, 13), 8))[1] == []


def test_renamed_inputs_and_outputs_are_told() -> None:
    model = network(node("Relu"))
    model.graph.input[0].name = model.graph.node[0].input[0] = "bild_ä"
    done = mended(model, replace(ANY, ascii_names=True))
    assert done.model.graph.input[0].name == "bild__"
    assert done.changes == ["plain_names: 'bild_\\xe4' is bild__"]


# older opsets


def split(opset: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Split", ["x", "sizes"], ["a", "b"], name="split", axis=1), node("Concat", "b a", axis=1)]
    return network(*nodes, stored={"sizes": np.array([1, 3], np.int64)}, opset=opset)


def clipped() -> onnx.ModelProto:
    stored = {"low": np.array(-1, np.float32), "high": np.array(0.5, np.float32)}
    return network(node("Clip", "x low high"), stored=stored)


def squeezed() -> onnx.ModelProto:
    nodes = [node("Squeeze", "x axes", "s"), node("Unsqueeze", "s axes", "u"), node("ReduceSum", "u sides")]
    return network(*nodes, stored={"axes": np.array([0], np.int64), "sides": np.array([2, 3], np.int64)})


def sliced() -> onnx.ModelProto:
    stored = {name: np.array([number], np.int64) for name, number in (("a", 1), ("b", 3), ("axis", 1), ("step", 1))}
    return network(node("Slice", "x a b axis step"), stored=stored)


def padded() -> onnx.ModelProto:
    stored = {"pads": np.array([0, 0, 1, 1] * 2, np.int64), "value": np.array(0.5, np.float32)}
    return network(node("Pad", "x pads value"), stored=stored)


def hard_swish() -> onnx.ModelProto:
    return network(node("HardSwish"), opset=14, ir=8)


def batch_norm() -> onnx.ModelProto:
    stored = {name: np.linspace(0.5, 1.5, 4).astype(np.float32) for name in "abcd"}
    return network(node("BatchNormalization", "x a b c d", training_mode=0), stored=stored, opset=15, ir=8)


def layer_norm(side: tuple[int, ...] = (8,), bias: bool = True, **more: Any) -> onnx.ModelProto:
    size = int(np.prod(side))
    stored = {"scale": np.linspace(0.5, 1.5, size), "bias": np.linspace(-1, 1, size)}
    arrays = {name: array.astype(np.float32).reshape(side) for name, array in stored.items()}
    inputs = "x scale bias" if bias else "x scale"
    return network(node("LayerNormalization", inputs, **more), stored=arrays, opset=17, ir=8)


def reshaped() -> onnx.ModelProto:
    return network(node("Reshape", "x to", allowzero=0), stored={"to": np.array([1, 256], np.int64)}, opset=14, ir=8)


LOWER = {
    "Gemm without C": (
        lambda: network(node("Gemm", "x w"), stored={"w": np.ones((4, 2), np.float32)}, shape=(1, 4)),
        9,
    ),
    "Split": (lambda: split(13), 9),
    "Clip": (clipped, 7),
    "Squeeze": (squeezed, 11),
    "Slice": (sliced, 9),
    "Pad": (padded, 9),
    "Softmax over channels": (lambda: network(node("Softmax", axis=1)), 11),
    "Softmax by default": (lambda: network(node("LogSoftmax")), 11),
    "HardSwish": (hard_swish, 13),
    "BatchNormalization": (batch_norm, 11),
    "LayerNormalization": (lambda: layer_norm(epsilon=0.01), 13),
    "LayerNormalization over two axes": (lambda: layer_norm((8, 8), axis=2, epsilon=1e-3), 11),
    "LayerNormalization without a bias": (lambda: layer_norm(bias=False), 16),
    "Softmax by an older default": (lambda: network(node("Softmax"), opset=12), 9),
    "Reshape": (reshaped, 13),
    "Constant in another form": (
        lambda: network(node("Constant", "", "c", value_float=2.0), node("Mul", "x c")),
        11,
    ),
    "Dropout": (lambda: network(node("Dropout", output="d"), node("Relu", "d")), 11),
    "Pad by computed pads": (unclear_pads, 9),
}


@pytest.mark.parametrize("name", LOWER)
def test_operators_go_down_into_their_older_form(name: str) -> None:
    make, opset = LOWER[name]
    model = make()
    done = mended(model, replace(ANY, opset=(opset, opset)))
    assert [one for one in done.findings if not one.fixed] == []
    assert opset_of(done.model) == opset
    same(model, done.model)


@pytest.mark.parametrize(
    ("make", "opset", "said"),
    [
        (hard_swish, 5, "HardSigmoid"),
        (
            lambda: network(node("Slice", "x a b axis step"), stored={
                "a": np.array([0]), "b": np.array([4]), "axis": np.array([1]), "step": np.array([2]),
            }),
            9,
            "Slice_y: Slice has no steps at opset 9",
        ),
        (lambda: network(node("CumSum", "x axis"), stored={"axis": np.array(1)}), 9, "CumSum came after opset 9"),
    ],
)  # fmt: skip
def test_what_has_no_older_form_is_refused_and_the_finding_says_why(
    make: Callable[[], onnx.ModelProto], opset: int, said: str
) -> None:
    model = make()
    done = mended(model, replace(ANY, opset=(opset, opset)))
    (finding,) = done.findings
    assert not finding.fixed
    assert "(convert_opset can't: " in finding.remedy
    assert said in finding.remedy
    assert done.model is model


# a pass that is wrong


def broken(change: Callable[[onnx.ModelProto], None]) -> Callable[..., tuple[onnx.ModelProto, list[str]]]:
    def step(model: onnx.ModelProto, goal: Goal) -> tuple[onnx.ModelProto, list[str]]:
        made = onnx.ModelProto()
        made.CopyFrom(model)
        made.ir_version = goal.ir_version
        change(made)
        return made, ["IR is lower"]

    return step


def scale_weight(model: onnx.ModelProto) -> None:
    weight = numpy_helper.to_array(model.graph.initializer[0]) * np.float32(1.001)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))


def fill_zeros(model: onnx.ModelProto) -> None:
    weight = numpy_helper.to_array(model.graph.initializer[0])
    filled = np.where(weight == 0, np.float32(1e-9), weight)  # no output shows it
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(filled, "w"))


def other_shape(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 7, 7]))


def not_a_number(model: onnx.ModelProto) -> None:
    weight = np.full((4, 4, 3, 3), np.nan, np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))


def no_model(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Convolution"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (scale_weight, "outputs changed by "),
        (fill_zeros, "a layer of 144 weights no longer is what it was: it followed 2:4"),
        (other_shape, "outputs of shapes"),
        (not_a_number, "outputs changed by nan"),
        (no_model, "the mended file is invalid: No Op registered for Convolution"),
    ],
)
def test_a_pass_that_changes_the_network_is_refused(change: Callable[[onnx.ModelProto], None], said: str) -> None:
    model = mask_magnitude(conv((3, 3)), PATTERN)[0]
    passes = {"convert_ir": broken(change)}
    done = mended(model, replace(ANY, ir_version=6), passes=passes)
    (finding,) = done.findings
    assert not finding.fixed
    assert said in finding.remedy
    assert "\n" not in finding.remedy
    assert (done.model is model, done.changes) == (True, [])
    good = mended(model, replace(ANY, ir_version=6), passes={"convert_ir": broken(lambda made: None)})
    assert good.findings[0].fixed


def test_a_pass_that_another_makes_possible_runs_again() -> None:
    def only_without_identity(model: onnx.ModelProto, goal: Goal) -> tuple[onnx.ModelProto, list[str]]:
        if "Identity" in ops(model):
            raise PipelineError("there is an Identity")
        return PASSES["convert_ir"](model, goal)

    limits = replace(ANY, ir_version=6, refused=REFUSE)
    model = network(node("Identity", output="i"), node("Relu", "i"))
    passes = {"convert_ir": only_without_identity, "drop_identities": PASSES["drop_identities"]}
    done = mended(model, limits, passes=passes)
    assert all(one.fixed for one in done.findings)
    assert [change.partition(":")[0] for change in done.changes] == ["drop_identities", "convert_ir"]


def test_a_pass_that_does_nothing_is_said_to_do_nothing() -> None:
    limits = replace(ANY, refused={"Max": "clip"})
    (finding,) = mended(network(node("Max", "x x")), limits).findings
    assert finding.remedy == "clip (min_max_to_clip can't: it finds nothing to change)"


def test_every_picture_gets_the_answer_that_it_gets_alone() -> None:
    """onnxruntime's plan of memory let a node that nobody reads overwrite another's output from the second run on."""
    random = np.random.default_rng(0)
    nodes = [
        node("Conv", "x w", "c", group=2),
        node("Transpose", "x", "t", perm=[0, 3, 2, 1]),
        node("Softmax", "t", "s", axis=3),
        node("Transpose", "s", "b", perm=[0, 3, 2, 1]),
        node("Relu", "x", "r"),
        node("MaxPool", "c", "m", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),  # nobody reads it
        node("Flatten", "b", "f"),
        node("Gemm", "f v z"),
    ]
    shapes = {"w": (4, 1, 1, 1), "v": (72, 10), "z": (1,)}
    stored = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model = network(*nodes, stored=stored, shape=(1, 2, 6, 6), opset=9).SerializeToString()
    images = random.standard_normal((3, 2, 6, 6)).astype(np.float32)
    alone = np.concatenate([outputs_of(model, image[None])[0] for image in images])
    np.testing.assert_array_equal(outputs_of(model, images)[0], alone)


def test_every_output_of_a_network_comes_out() -> None:
    """onnxruntime 1.14 fuses x * sigmoid(x), and then gives nothing for a Sigmoid that is an output too."""
    nodes = [node("Neg", "x", "n"), node("Sigmoid", "n", "s"), node("Mul", "s n")]
    model = network(*nodes, outputs=("s", "y"))
    sigmoid, product = outputs_of(model.SerializeToString(), pictures(model))
    np.testing.assert_allclose(-sigmoid * pictures(model), product, rtol=1e-5, atol=1e-6)


def test_a_network_that_gives_no_numbers_can_not_be_proved() -> None:
    model = network(node("Mul", "x nan"), stored={"nan": np.array(np.nan, np.float32)})
    with pytest.raises(PipelineError, match="its outputs are not finite; nothing can be proved"):
        evidence(model, pictures(model), PATTERN)


# networks as they come

GREEDY = replace(
    ANY,
    opset=(9, 11),
    ir_version=6,
    refused={**REFUSE, "BatchNormalization": "fuse it"},
    rules=(
        rules.innermost_axis("Softmax", DOC),
        rules.stored_input("Reshape", 1, "shape", DOC),
        rules.index_type("Gather", 1, {"int32"}, DOC),
        rules.kernel_area("Conv", 4, DOC),
    ),
    ascii_names=True,
    name_length=10,
    all_shapes=True,
)


def test_nothing_to_simplify_leaves_nodes_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """<ir_version: 7, opset_import: ["": 13]> g (float[1,2,4,4] x) => (float[1,2,4,4] a, float[1,2,4,4] b)
        { a = Relu (x)  b = Abs (x) }"""
    model = parser.parse_model(text)
    other = parser.parse_model(text.replace("a = Relu (x)  b = Abs (x)", "b = Abs (x)  a = Relu (x)"))
    # as onnxruntime does now and then
    monkeypatch.setattr(import_module("pipelines.graph.fix.simplify"), "simplified", lambda *_: other)
    made, told = PASSES["simplify"](model, Goal((13, 13), 7, None, 12))
    assert (ops(made), told) == (["Relu", "Abs"], [])


@settings(deadline=None, max_examples=25)
@given(networks(), st.sampled_from(sorted(PASSES)), st.integers(9, 16))
def test_no_pass_changes_a_network(model: onnx.ModelProto, name: str, opset: int) -> None:
    before = model.SerializeToString()
    try:
        made, told = PASSES[name](model, Goal((opset, opset), 6, None, 12))
    except PipelineError as error:
        assert name == "convert_opset", error
        return
    assert model.SerializeToString() == before
    onnx.checker.check_model(made, full_check=True)
    same(model, made)
    if name != "simplify":  # it may find more in what it left
        _, more = PASSES[name](made, Goal((opset, opset), 6, None, 12))
        assert more == []
    assert told or ops(made) == ops(model)


@settings(deadline=None, max_examples=25)
@given(networks())
def test_mending_leaves_the_network_and_reports_what_stays(model: onnx.ModelProto) -> None:
    done = mended(model, GREEDY, count=2)
    same(model, done.model)
    left = [(one.node, one.limit) for one in done.findings if not one.fixed]
    assert left == [(one.node, one.limit) for one in examine(done.model, GREEDY, "dense", 0)]
    first = {one.limit for one in examine(model, GREEDY, "dense", 0)}
    assert {one.limit for one in done.findings if one.fixed} >= first - {limit for _, limit in left}
