"""RKNN-Toolkit2 for real: what its adapter states, what the converted network computes, and what becomes of zeros."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipelines.arrays import load_arrays
from pipelines.checks.parity import shortfall
from pipelines.contract import Form
from pipelines.graph.facts import Graph
from pipelines.vendors.rknn import LIMITS, TARGETS, VENDOR
from pipelines.vendors.rknn_log import read_error, read_log
from tests.vendors.converting import Made, convert, network, patterned, pictures, thinned

SPARSE_CHIP = "rk3576"


def _model(nodes: list[onnx.NodeProto], values: list[onnx.TensorProto], opset: int = 13) -> onnx.ModelProto:
    """[1, 3, 16, 16] -> output, whose shape is inferred."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        values,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 7
    return onnx.shape_inference.infer_shapes(model)


def _conv(source: str, made: str, *shape: int, seed: int = 0) -> tuple[onnx.NodeProto, onnx.TensorProto]:
    weight = np.random.default_rng(seed).normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
    node = helper.make_node("Conv", [source, f"w{made}"], [made], f"conv_{made}", kernel_shape=list(shape[2:]))
    return node, numpy_helper.from_array(weight, f"w{made}")


def _padded(kind: str) -> onnx.ModelProto:
    """A Pad whose pads are stored as bytes, as torch's exporter does, and what it stands before."""
    pads = numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 1, 1]), "pads")
    pad = helper.make_node("Pad", ["input", "pads"], ["p"], "pad")
    if kind == "Conv":
        node, weight = _conv("p", "output", 8, 3, 3, 3)
        return _model([pad, node], [pads, weight])
    return _model([pad, helper.make_node(kind, ["p"], ["output"], "pool", kernel_shape=[3, 3], strides=[2, 2])], [pads])


def _passes(made: Made) -> bool:
    assert not made.converted.error, made.log
    assert made.parity is not None
    return not shortfall(made.parity, made.floor)


def _findings(model: onnx.ModelProto) -> list[str]:
    """What the adapter's rules say of it, warnings apart."""
    graph = Graph(model)
    rules = [rule for rule in LIMITS.rules if rule.severity == "error"]
    told = [rule.check(node, graph) for node in graph.nodes for rule in rules if rule.op == node.op_type]
    return [one for one in told if one]


def _weights(made: Made) -> int:
    assert made.converted.weight_bytes is not None, made.log
    return made.converted.weight_bytes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Form, str], Made]:
    """A network of 128 and 256 channels in that form and format, for the chip that has 2:4; converted once."""

    @functools.cache
    def converted(form: Form, variant: str) -> Made:
        dense = network(channels=128)
        networks = {"dense": lambda: dense, "sparse": lambda: patterned(dense), "unstructured": lambda: thinned(dense)}
        folder = tmp_path_factory.mktemp("made") / form / variant
        return convert("rknn", variant, networks[form](), folder, form=form, target=SPARSE_CHIP)

    return converted


@pytest.mark.parametrize("variant", [one.name for one in TARGETS[SPARSE_CHIP]])
def test_a_converted_file_computes_what_onnxruntime_does(variant: str, made: Callable[[Form, str], Made]) -> None:
    one = made("dense", variant)
    assert _passes(one)
    assert one.file.read_bytes()[:4] == b"RKNN"
    assert one.converted.ran_by.startswith("simulator of rknn-toolkit2 2.")
    assert one.converted.cycles
    assert one.converted.elapsed_s > 0


# of rk3566, rv1103 and rv1106b the toolkit plans the same memory as of rk3568, rv1106 and rv1103b
@pytest.mark.parametrize("target", ["rk3588", "rk3568", "rk3562", "rv1126b", "rk2118", "rv1106", "rv1103b"])
def test_a_target_converts_in_its_first_format(target: str, tmp_path: Path) -> None:
    assert _passes(convert("rknn", TARGETS[target][0].name, network(), tmp_path, target=target))


def test_int8_weights_take_half_the_memory_of_fp16(made: Callable[[Form, str], Made]) -> None:
    assert 0.5 <= _weights(made("dense", "int8")) / _weights(made("dense", "fp16")) < 0.6  # biases stay as they are


def test_the_sparse_format_is_used_where_the_pattern_holds_and_said_to_be_ignored_elsewhere(
    made: Callable[[Form, str], Made],
) -> None:
    dense, sparse, unstructured = (made(form, "int8-sparse") for form in ("dense", "sparse", "unstructured"))
    assert all(_passes(one) for one in (dense, sparse, unstructured))
    assert dense.converted.sparsity == "sparse_infer did nothing; 2:4 holds in 0 of 4"
    assert unstructured.converted.sparsity == dense.converted.sparsity
    assert sparse.converted.sparsity == (
        "1 of 4 layers are stored without zeros; 2:4 holds in 2 of 4; "
        "1 of them ignored by shape: it takes multiples of 32 input and 16 output channels, one group"
    )
    assert _weights(dense) == _weights(unstructured)
    kernel = 256 * 128 * 3 * 3
    assert 0.1 * kernel < _weights(dense) - _weights(sparse) < 0.25 * kernel  # indices take the other quarter
    assert sparse.converted.cycles is None


def test_without_the_option_a_pattern_saves_nothing(made: Callable[[Form, str], Made]) -> None:
    dense, sparse = made("dense", "int8"), made("sparse", "int8")
    assert (dense.converted.sparsity, sparse.converted.sparsity) == ("", "stored like any value")
    assert _weights(dense) == _weights(sparse)


def test_one_group_that_breaks_the_pattern_makes_the_whole_layer_dense(tmp_path: Path) -> None:
    model = patterned(network(channels=64))
    kernel = next(one for one in model.graph.initializer if one.name == "w2")
    weight = numpy_helper.to_array(kernel).copy()
    weight[0, :4, 0, 0] = 0.1
    kernel.CopyFrom(numpy_helper.from_array(weight, "w2"))
    made = convert("rknn", "int8-sparse", model, tmp_path, form="sparse", target=SPARSE_CHIP)
    assert made.converted.sparsity.startswith("sparse_infer did nothing; 2:4 holds in 1 of 4")


@pytest.mark.parametrize("kind", ["Conv", "AveragePool"])
def test_pads_that_are_stored_as_bytes_are_read(kind: str, tmp_path: Path) -> None:
    """The toolkit fuses the Pad, and writes into an array over those bytes."""
    assert _passes(convert("rknn", "fp16", _padded(kind), tmp_path))


def test_a_layer_normalisation_without_its_epsilon_is_read(tmp_path: Path) -> None:
    ones, zeros = (numpy_helper.from_array(np.full(16, x, np.float32), name) for x, name in ((1, "s"), (0, "b")))
    node = helper.make_node("LayerNormalization", ["input", "s", "b"], ["output"], "norm", axis=-1)
    assert _passes(convert("rknn", "fp16", _model([node], [ones, zeros], opset=17), tmp_path))


def test_zeros_padded_before_a_max_pooling_are_lost_and_the_gate_says_so(tmp_path: Path) -> None:
    """Exit code 0, and the pooling of negative values at the border is another one: the comparison finds it."""
    model = _padded("MaxPool")
    images = -np.abs(pictures(model, 8)) - 0.1
    made = convert("rknn", "fp16", model, tmp_path, judged=images.astype(np.float32))
    assert not made.converted.error
    assert made.parity is not None
    assert made.parity.max_abs_diff is not None
    assert made.parity.max_abs_diff > 0.1
    assert "zeros are padded" in _findings(model)[0]


def test_operators_that_the_gate_warns_of_are_put_on_the_cpu_and_others_are_not(tmp_path: Path) -> None:
    slow, fast = ("Atan", "Ceil", "Exp", "Floor", "Round", "Selu", "Sign", "Softsign"), ("Sigmoid", "Tanh", "HardSwish")
    conv, weight = _conv("input", "c", 8, 3, 3, 3)
    nodes = [helper.make_node(op, ["c"], [op.lower()], op) for op in (*slow, *fast)]
    joined = helper.make_node("Concat", [op.lower() for op in (*slow, *fast)], ["output"], "joined", axis=1)
    made = convert("rknn", "fp16", _model([conv, *nodes, joined], [weight], opset=14), tmp_path)
    assert _passes(made)
    on_cpu = {found[1] for found in re.finditer(r"\] \d+ +(\w+) +\S+ +CPU ", made.log)}
    assert on_cpu >= set(slow)
    assert not on_cpu & set(fast)
    warned = {rule.op for rule in LIMITS.rules if rule.severity == "warning"}
    assert warned >= set(slow)
    assert not warned & set(fast)


def test_several_outputs_keep_onnx_order_and_shape(tmp_path: Path) -> None:
    model = network()
    model.graph.output.insert(0, helper.make_tensor_value_info("r1", TensorProto.FLOAT, [1, 32, 16, 16]))
    made = convert("rknn", "fp16", model, tmp_path)
    assert _passes(made)
    shapes = [one.shape for one in load_arrays(Path(made.converted.outputs)).values()]
    assert shapes == [(8, 32, 16, 16), (8, 10)]


def test_paths_with_spaces_and_other_letters_work(tmp_path: Path) -> None:
    assert _passes(convert("rknn", "int8", network(), tmp_path / "a folder" / "größe"))


@pytest.mark.parametrize(
    ("target", "variant", "said"),
    [
        ("rk3588", "int8-sparse", "rknn does not convert to 'int8-sparse' for rk3588; these are: fp16, int8"),
        ("rv1106", "fp16", "rknn does not convert to 'fp16' for rv1106; these are: int8"),
        ("rk9999", "fp16", "rknn has no target 'rk9999'; these are: rk3588, "),
    ],
)
def test_what_a_chip_lacks_is_one_line(target: str, variant: str, said: str, tmp_path: Path) -> None:
    made = convert("rknn", variant, network(), tmp_path, target=target)
    assert made.converted.error.startswith(said)
    assert "\n" not in made.converted.error


def test_a_file_that_is_no_onnx_is_one_line(tmp_path: Path) -> None:
    made = convert("rknn", "fp16", b"\x08\x07no model", tmp_path)
    assert made.converted.error.startswith("model.onnx is no ONNX file")
    assert "\n" not in made.converted.error


def test_what_the_toolkit_refuses_is_its_own_reason(tmp_path: Path) -> None:
    model = network()
    model.opset_import[0].version = LIMITS.opset[1] + 1
    made = convert("rknn", "fp16", model, tmp_path)
    assert made.converted.error == "rknn-toolkit2 can't convert it: Unsupport onnx opset 20, need <= 19!"


def test_a_sum_of_four_fails_and_the_gate_says_so(tmp_path: Path) -> None:
    conv, weight = _conv("input", "c", 8, 3, 3, 3)
    parts = [helper.make_node(op, ["c"], [op], op) for op in ("Sigmoid", "Tanh", "Relu", "Abs")]
    total = helper.make_node("Sum", [part.op_type for part in parts], ["output"], "sum")
    model = _model([conv, *parts, total], [weight])
    assert _findings(model) == ["4 inputs: at most 3"]
    assert convert("rknn", "fp16", model, tmp_path).converted.error


def test_a_crash_of_the_toolkit_is_told_by_its_signal_and_the_gate_is_before_it(tmp_path: Path) -> None:
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    node = helper.make_node("Resize", ["input", "", "scales"], ["output"], "resize", mode="cubic")
    model = _model([node], [scales])
    assert _findings(model) == ["mode cubic is not taken"]
    made = convert("rknn", "fp16", model, tmp_path)
    assert made.converted.error == "rknn-toolkit2 can't convert it: it was killed by SIGSEGV"


def test_the_versions_in_the_report_are_installed() -> None:
    from pipelines.installed import installed

    assert set(installed(VENDOR.distributions)) == set(VENDOR.distributions)


RECOGNISED = """\
I RKNN: [02:47:20.201] Weight conv.weight sparse type, method 2 (64, 64, 3, 3)
D RKNN: [02:47:20.320] ID OpType DataType Target InputShape OutputShape Cycles(DDR/NPU/Total) RW(KB) FullName
D RKNN: [02:47:20.320] 0 InputOperator INT8 CPU \\ (1,64,56,56) 0/0/0 0 In:input
D RKNN: [02:47:20.320] 1 ConvRelu INT8 NPU (64,RANK,3,3),(64),... (64,56,56) DDR/12/99 RATIO 232 Conv:a name
D RKNN: [02:47:20.348] Total Weight Memory Size: 36.25KB
"""


@pytest.mark.parametrize(
    ("ratio", "stored", "traffic", "sparse", "cycles"),
    [("0%", "64", "58", 0, 99), ("50%(IC)", "32", "-12", 1, None), ("", "64", "58", 0, 99)],
)
def test_the_layer_table_decides_whether_a_recognised_pattern_is_used(
    ratio: str, stored: str, traffic: str, sparse: int, cycles: int | None
) -> None:
    """For rv1126b it names the weight and stores it whole; older chips have no such column."""
    text = RECOGNISED.replace("RATIO", ratio).replace("RANK", stored).replace("DDR/", f"{traffic}/")
    read = read_log(text)
    assert read.recognised == {"conv.weight"}
    assert [layer.name for layer in read.layers] == ["input", "a name"]
    assert (read.sparse_layers, read.cycles, read.weight_bytes) == (sparse, cycles, 37120)


FRAGMENTS = [*RECOGNISED.replace("\n", " \n ").split(" "), " ", ".", "1", "\x1b[1;31m", "E RKNN: [", "ValueError: "]


@given(st.lists(st.sampled_from(FRAGMENTS) | st.text()))
@settings(deadline=None)
def test_any_text_is_read_as_a_log(pieces: list[str]) -> None:
    text = " ".join(pieces)
    read = read_log(text)
    assert len(read.layers) <= len(text.splitlines())
    assert "\n" not in read_error(text)
