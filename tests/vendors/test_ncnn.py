"""ncnn: what pnnx makes of a network, and what is said where it makes nothing of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipelines.checks.parity import shortfall
from pipelines.graph.facts import Graph
from pipelines.inference import load_outputs
from pipelines.vendors.ncnn import VENDOR
from tests.vendors.converting import convert, network, patterned, pictures, thinned

FORMS = {"dense": network, "sparse": lambda: patterned(network()), "unstructured": lambda: thinned(network())}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", ["fp16", "fp32"])
def test_it_computes_the_same_network(form: str, variant: str, tmp_path: Path) -> None:
    made = convert("ncnn", variant, FORMS[form](), tmp_path / "made", form=form)
    assert not made.converted.error, made.log
    assert made.parity is not None
    assert made.parity.top1 == 1.0
    assert not shortfall(made.parity, made.floor)


def test_fp16_takes_half_the_bytes_of_fp32_and_fp32_is_nearer(tmp_path: Path) -> None:
    half, full = (convert("ncnn", variant, network(), tmp_path / variant) for variant in ("fp16", "fp32"))
    assert half.converted.weight_bytes == half.file.stat().st_size
    assert half.converted.weight_bytes is not None
    assert full.converted.weight_bytes is not None
    assert 1.8 < full.converted.weight_bytes / half.converted.weight_bytes < 2.1
    assert half.parity is not None
    assert full.parity is not None
    assert full.parity.max_abs_diff < half.parity.max_abs_diff


@pytest.mark.parametrize("variant", ["fp16", "fp32"])
def test_zeros_are_stored_as_any_weight_and_it_says_so(variant: str, tmp_path: Path) -> None:
    dense = convert("ncnn", variant, network(), tmp_path / "dense")
    sparse = convert("ncnn", variant, patterned(network()), tmp_path / "sparse", form="sparse")
    assert dense.converted.weight_bytes == sparse.converted.weight_bytes
    assert "stored as any value" in sparse.converted.sparsity
    assert dense.converted.sparsity == ""


def test_all_outputs_come_in_their_order_and_shapes(tmp_path: Path) -> None:
    model = network()
    model.graph.output.insert(0, helper.make_tensor_value_info("p", TensorProto.FLOAT, [1, 64, 1, 1]))
    made = convert("ncnn", "fp32", model, tmp_path / "made")
    assert not made.converted.error, made.log
    assert [one.shape for one in load_outputs(Path(made.converted.outputs))] == [(8, 64, 1, 1), (8, 10)]
    assert made.parity is not None
    assert made.parity.max_abs_diff < 1e-4


def test_its_files_are_those_that_the_row_names(tmp_path: Path) -> None:
    made = convert("ncnn", "fp16", network(), tmp_path / "made")
    left = sorted(one.name for one in made.file.parent.iterdir())
    assert left == sorted([made.converted.file, *made.converted.beside])


def _with(op: str, **attributes: object) -> onnx.ModelProto:
    """The network with one more operator behind the first convolution."""
    model = network()
    nodes = list(model.graph.node)
    nodes[1].input[0] = "more"
    nodes.insert(1, helper.make_node(op, ["c0"], ["more"], "strange", **attributes))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("op", ["Softsign", "ThresholdedRelu", "LpNormalization", "Hardmax"])
def test_an_operator_that_ncnn_does_not_have_is_named(op: str, tmp_path: Path) -> None:
    """pnnx ends well with it: the layer is in its file under a name that ncnn does not know."""
    made = convert("ncnn", "fp16", _with(op), tmp_path / "made")
    assert f"ncnn has no layer {op}" in made.converted.error
    assert op in VENDOR.limits.refused


LIMITED: dict[str, dict[str, object]] = {
    "MaxPool": {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [2, 2, 2, 2]},
    "ReduceMax": {"axes": [2, 3], "keepdims": 1},
}


@pytest.mark.parametrize("op", LIMITED)
def test_a_rule_of_the_gate_stands_for_what_the_tool_does(op: str, tmp_path: Path) -> None:
    model = _with(op, **LIMITED[op])
    node = next(one for one in model.graph.node if one.op_type == op)
    assert any(rule.check(node, Graph(model)) for rule in VENDOR.limits.rules if rule.op == op)
    made = convert("ncnn", "fp32", model, tmp_path / "made")
    assert made.converted.error.startswith("ncnn has no layer ")


@pytest.mark.parametrize("content", [b"no network", network().SerializeToString()[:2000]], ids=["text", "cut"])
def test_a_file_that_is_no_network_gives_one_line(content: bytes, tmp_path: Path) -> None:
    made = convert("ncnn", "fp16", content, tmp_path / "made")
    assert "model.onnx is no ONNX file" in made.converted.error
    assert "\n" not in made.converted.error


@pytest.mark.parametrize(("opset", "ir_version"), [(27, 7), (6, 7), (13, 14)])
def test_what_lies_outside_the_limits_is_refused_by_the_tool_too(opset: int, ir_version: int, tmp_path: Path) -> None:
    model = network()
    model.opset_import[0].version, model.ir_version = opset, ir_version
    limits = VENDOR.limits
    assert not (limits.opset[0] <= opset <= limits.opset[1] and ir_version <= limits.ir_version)
    made = convert("ncnn", "fp16", model.SerializeToString(), tmp_path / "made", judged=pictures(network(), 2))
    assert made.converted.error.startswith("pnnx was killed by SIGSEGV: ")
    assert "\n" not in made.converted.error


def test_an_unknown_variant_is_refused_with_those_it_has(tmp_path: Path) -> None:
    made = convert("ncnn", "int8", network(), tmp_path / "made")
    assert made.converted.error == "ncnn does not convert to 'int8'; it has fp16 and fp32"


def test_a_weight_that_fp16_can_not_hold_is_seen(tmp_path: Path) -> None:
    """Above 65504 a float16 is infinite: pnnx ends well, and the outputs tell."""
    model = network()
    weight = next(one for one in model.graph.initializer if one.name == "w3")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e6), "w3"))
    made = convert("ncnn", "fp16", model, tmp_path / "made")
    assert not made.converted.error
    assert made.parity is not None
    assert made.parity.max_abs_diff is None
