"""Vela for real: ONNX to int8 TFLite to an Ethos-U's file, and what the adapter states of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipelines.checks.parity import shortfall
from pipelines.errors import PipelineError
from pipelines.graph.facts import Graph
from pipelines.vendors.vela import KNOWN, LIMITS, on_cpu
from pipelines.vendors.vela_tflite import arrangement
from tests.vendors.converting import Made, convert, network, patterned

U85, U55 = "ethos-u85-512", "ethos-u55-256"
CHANNELS = 64


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return convert("vela", "int8", network(channels=CHANNELS), tmp_path_factory.mktemp("u") / "dense", target=U85)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Made:
    model = patterned(network(channels=CHANNELS))
    return convert("vela", "int8", model, tmp_path_factory.mktemp("u") / "sparse", form="sparse", target=U85)


def test_the_int8_file_computes_what_onnxruntime_does(dense: Made) -> None:
    assert not dense.converted.error, dense.log
    assert dense.parity is not None
    assert not shortfall(dense.parity, dense.floor)
    assert "the int8 file given to Vela" in dense.converted.ran_by


def test_what_is_made_is_for_the_npu_alone(dense: Made) -> None:
    content = dense.file.read_bytes()
    assert content[4:8] == b"TFL3"
    assert b"ethos-u" in content, "a custom operator holds the NPU's commands"
    assert "operators on the NPU" in dense.converted.sparsity
    assert b"ethos-u" not in (dense.file.parent / "model_int8.tflite").read_bytes()


def test_a_pattern_makes_the_u85_faster_and_its_weights_smaller(dense: Made, sparse: Made) -> None:
    assert not sparse.converted.error, sparse.log
    assert sparse.parity is not None
    assert not shortfall(sparse.parity, sparse.floor)
    taken, _, _ = sparse.converted.sparsity.partition(" of ")
    assert int(taken) >= 1
    assert dense.converted.cycles and sparse.converted.cycles and dense.converted.weight_bytes
    assert sparse.converted.cycles <= dense.converted.cycles
    assert sparse.converted.weight_bytes and sparse.converted.weight_bytes < 0.8 * dense.converted.weight_bytes


def test_other_families_take_no_pattern_and_several_outputs_keep_order_and_shape(tmp_path: Path) -> None:
    """A feature map is given channels last; it is compared channels second, as in the ONNX file."""
    model = patterned(network())
    model.graph.output.insert(0, helper.make_tensor_value_info("r1", TensorProto.FLOAT, [1, 32, 16, 16]))
    made = convert("vela", "int8", model, tmp_path, form="sparse", target=U55)
    assert not made.converted.error, made.log
    assert made.parity is not None  # compares shapes first
    assert not shortfall(made.parity, made.floor)
    assert made.converted.sparsity.startswith("0 of ")


def test_a_padded_maxpool_after_relu_computes_what_onnxruntime_does(tmp_path: Path) -> None:
    """onnx2tf pads with the least float otherwise: no int8 scale holds that and the values."""
    made = convert("vela", "int8", _pooled("r0"), tmp_path, target=U85)
    assert not made.converted.error, made.log
    assert made.parity is not None
    assert not shortfall(made.parity, made.floor)


def test_the_gate_warns_where_the_padding_of_a_maxpool_could_win() -> None:
    (rule,) = LIMITS.rules
    assert rule.check(*_pool(_pooled("r0"))) == ""
    assert "filled with zeros" in rule.check(*_pool(_pooled("c0")))
    assert rule.check(*_pool(_pooled("c0", pads=0))) == ""


def test_operators_that_stay_on_the_cpu_are_named(tmp_path: Path) -> None:
    """Reordering channels while it runs: the U85 gathers, the U55 can't."""
    model = network()
    node = next(one for one in model.graph.node if one.name == "conv2")
    order = numpy_helper.from_array(np.random.default_rng(0).permutation(32).astype(np.int64), "order")
    model.graph.initializer.append(order)
    gather = helper.make_node("Gather", [node.input[0], "order"], ["g0"], "reorder", axis=1)
    node.input[0] = "g0"
    model.graph.node.insert(list(model.graph.node).index(node), gather)
    made = convert("vela", "int8", model, tmp_path, target=U55)
    assert not made.converted.error, made.log
    assert made.parity is not None
    assert not shortfall(made.parity, made.floor)
    assert "1 operators on the CPU: " in made.converted.sparsity


def test_a_log_without_the_list_of_operators_is_refused() -> None:
    assert on_cpu("CPU operators = 0 (0.0%)\nNPU operators = 3 (100.0%)") == "all 3 operators on the NPU"
    with pytest.raises(PipelineError, match="does not say where"):
        on_cpu("NPU operators = 3 (100.0%)")


def test_at_the_gates_highest_opset_and_ir_it_converts(tmp_path: Path) -> None:
    model = onnx.version_converter.convert_version(network(), LIMITS.opset[1])
    model.ir_version = LIMITS.ir_version
    made = convert("vela", "int8", model, tmp_path, target=U55)
    assert not made.converted.error, made.log
    assert made.parity is not None
    assert not shortfall(made.parity, made.floor)


def test_a_file_that_is_no_onnx_gives_one_line(tmp_path: Path) -> None:
    whole = network().SerializeToString()
    made = convert("vela", "int8", whole[: len(whole) // 2], tmp_path)
    assert made.converted.error
    assert "\n" not in made.converted.error


def test_a_variant_that_is_not_known_gives_one_line(tmp_path: Path) -> None:
    made = convert("vela", "int3", network(), tmp_path)
    assert "does not convert to 'int3'" in made.converted.error


def test_known_operators_are_those_that_onnx2tf_has() -> None:
    spec = importlib.util.find_spec("onnx2tf")
    assert spec is not None and spec.submodule_search_locations
    modules = {path.stem for path in Path(spec.submodule_search_locations[0], "ops").glob("[A-Z]*.py")}
    named = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert set(KNOWN.split()) == modules & named


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 99))
def test_the_arrangement_puts_channels_back_whatever_the_shape(sizes: list[int], seed: int) -> None:
    """Of a cube too, where the shapes alone do not tell."""
    wanted = np.random.default_rng(seed).normal(size=(1, *sizes)).astype(np.float32)
    last = np.moveaxis(wanted, 1, -1)
    for made in (wanted, last):
        assert np.array_equal(made.transpose(arrangement(made, wanted)), wanted)


def test_an_output_of_another_size_is_refused() -> None:
    with pytest.raises(PipelineError, match="shape"):
        arrangement(np.zeros((1, 3)), np.zeros((1, 4)))


def _pooled(source: str, pads: int = 1) -> onnx.ModelProto:
    """The network with a MaxPool, 3x3 in steps of 2, that reads `source`: convolution c0 or its Relu r0."""
    model = network()
    node = next(one for one in model.graph.node if one.name == "depthwise")
    node.input[0] = "m0"
    pool = helper.make_node(
        "MaxPool", [source], ["m0"], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[pads] * 4
    )
    model.graph.node.insert(list(model.graph.node).index(node), pool)
    return model


def _pool(model: onnx.ModelProto) -> tuple[onnx.NodeProto, Graph]:
    return next(one for one in model.graph.node if one.op_type == "MaxPool"), Graph(model)
