"""MNN for real: what its adapter states, and what its file computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipelines.arrays import load_arrays
from pipelines.checks.parity import shortfall
from pipelines.sparsity.pattern import NMPattern
from pipelines.vendors.mnn import VENDOR
from tests.vendors.converting import PATTERN, convert, network, patterned, thinned

DEFAULTS = [one.name for one in VENDOR.variants("") if one.by_default]


@pytest.mark.parametrize("variant", DEFAULTS)
def test_a_converted_file_computes_what_onnxruntime_does(variant: str, tmp_path: Path) -> None:
    made = convert("mnn", variant, network(), tmp_path)
    assert not made.converted.error, made.log
    assert made.parity is not None
    assert not shortfall(made.parity, made.floor)
    assert [one.name for one in made.file.parent.iterdir()] == [made.file.name]
    assert "MNN" in made.converted.ran_by


def test_ema_ends_well_and_parity_refuses_what_it_made(tmp_path: Path) -> None:
    made = convert("mnn", "int8-ema", _chain(4), tmp_path)
    assert not made.converted.error, "the tool itself sees nothing wrong"
    assert made.file.is_file()
    assert made.parity is not None
    assert "centred cosine to onnxruntime" in shortfall(made.parity, made.floor)
    assert "int8-ema" not in DEFAULTS


def test_kl_bears_the_network_that_ema_does_not(tmp_path: Path) -> None:
    made = convert("mnn", "int8", _chain(4), tmp_path)
    assert made.parity is not None
    assert not shortfall(made.parity, made.floor)


def test_weights_of_eight_bits_keep_zeros_at_zero(tmp_path: Path) -> None:
    channels = 32
    model = _one_layer(channels)
    weight = numpy_helper.to_array(model.graph.initializer[0])[:, :, 0, 0]  # [K, C]
    one_by_one = np.zeros((channels, channels, 4, 4), np.float32)
    one_by_one[np.arange(channels), np.arange(channels)] = 1  # picture i reads column i of the weight
    made = convert("mnn", "weight8", model, tmp_path, form="sparse", judged=one_by_one)
    assert not made.converted.error, made.log
    read = load_arrays(Path(made.converted.outputs))["output_0"][:, :, 0, 0].T
    assert (weight == 0).sum() == weight.size / 2
    assert np.all(read[weight == 0] == 0)
    step = (weight.max(1) - weight.min(1)) / 255
    assert np.all(np.abs(read - weight) <= 0.6 * step[:, None])


@pytest.mark.parametrize("variant", ["fp32", "weight8", "int8"])
def test_a_thinned_network_is_stored_without_its_zeros_and_is_smaller(variant: str, tmp_path: Path) -> None:
    model = network(channels=64)
    dense = convert("mnn", variant, model, tmp_path / "dense")
    thin = convert("mnn", variant, thinned(model), tmp_path / "thin", form="unstructured")
    assert dense.converted.sparsity == ""
    stored, _, words = thin.converted.sparsity.partition(" of ")
    assert int(stored) >= 1 and "stored without their zeros" in words
    assert thin.file.stat().st_size < dense.file.stat().st_size


def test_a_pattern_of_half_the_weights_is_too_dense_for_float_files(tmp_path: Path) -> None:
    model = network(channels=64)
    made = convert("mnn", "fp32", patterned(model), tmp_path, form="sparse")
    assert made.converted.sparsity.startswith("none of")


def test_several_outputs_keep_onnx_order_and_shape(tmp_path: Path) -> None:
    model = network()
    last = helper.make_tensor_value_info("r1", TensorProto.FLOAT, [1, 32, 16, 16])
    model.graph.output.insert(0, last)
    made = convert("mnn", "fp32", model, tmp_path)
    assert not made.converted.error, made.log
    assert made.parity is not None  # compares shapes first
    assert not shortfall(made.parity, made.floor)


def test_a_file_that_is_no_onnx_gives_one_line(tmp_path: Path) -> None:
    whole = network().SerializeToString()
    made = convert("mnn", "fp32", whole[: len(whole) // 2], tmp_path)
    assert "could not convert" in made.converted.error
    assert "\n" not in made.converted.error
    assert "check your file format" in VENDOR.cause(made.log)


def test_a_variant_that_is_not_known_gives_one_line(tmp_path: Path) -> None:
    made = convert("mnn", "int3", network(), tmp_path)
    assert "no variant 'int3'" in made.converted.error


def test_inputs_that_are_no_pictures_can_not_be_calibrated(tmp_path: Path) -> None:
    made = convert("mnn", "int8", _one_layer(5), tmp_path)
    assert "1 or 3 channels, and the input has 5" in made.converted.error


def test_the_operators_of_its_limits_are_those_that_the_tool_prints() -> None:
    code = "import _tools; _tools.mnnconvert(['mnnconvert', '-f', 'ONNX', '--OP'])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert VENDOR.limits.operators == set(said.partition("support Ops")[2].partition("Total")[0].split())


def _one_layer(channels: int, seed: int = 0) -> onnx.ModelProto:
    """A convolution of one pixel, 2:4 along its input channels: [1, C, H, W] -> [1, 8, H, W]."""
    weight = np.random.default_rng(seed).normal(size=(8, channels, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "w"], ["output"], "conv")],
        "layer",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, channels, 4, 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 8, 4, 4])],
        [numpy_helper.from_array(np.where(NMPattern.parse(PATTERN).mask(weight), weight, np.float32(0)), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    return model


def _chain(stages: int, channels: int = 16, seed: int = 0) -> onnx.ModelProto:
    """That many 3x3 convolutions and a matrix product, no burden to a right int8 form: [1, 3, 32, 32] -> [1, 10]."""
    random = np.random.default_rng(seed)
    nodes, weights, before = [], [], ("input", 3)
    for place in range(stages):
        spread = np.sqrt(2 / (9 * before[1]))
        weight = random.normal(0, spread, (channels, before[1], 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{place}"))
        conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        nodes.append(helper.make_node("Conv", [before[0], f"w{place}"], [f"c{place}"], f"conv{place}", **conv))
        nodes.append(helper.make_node("Relu", [f"c{place}"], [f"r{place}"], f"relu{place}"))
        before = (f"r{place}", channels)
    nodes.append(helper.make_node("GlobalAveragePool", [before[0]], ["p"], "pool"))
    nodes.append(helper.make_node("Flatten", ["p"], ["f"], "flatten"))
    nodes.append(helper.make_node("Gemm", ["f", "classes"], ["output"], "classes", transB=1))
    weights.append(numpy_helper.from_array(random.normal(0, 0.3, (10, channels)).astype(np.float32), "classes"))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 32, 32])
    out = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 10])
    model = helper.make_model(
        helper.make_graph(nodes, "chain", [given], [out], weights), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 7
    return model
