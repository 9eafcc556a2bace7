"""OpenVINO for real: what its adapter states, and what its file computes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipelines.arrays import load_arrays
from pipelines.checks.parity import shortfall
from pipelines.vendors.openvino import VENDOR
from tests.vendors.converting import Made, convert, network, patterned, pictures, thinned

VARIANTS = [one.name for one in VENDOR.variants("")]


def _constants(made: Made) -> dict[str, list[tuple[int, ...]]]:
    """Element type -> shapes of the constants with more than one axis, as the file has them."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for op in openvino.Core().read_model(made.file).get_ops():
        shape = tuple(op.get_output_shape(0))
        if op.get_type_name() == "Constant" and sum(size > 1 for size in shape) > 1:
            found.setdefault(op.get_element_type().get_type_name(), []).append(shape)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_converted_file_computes_what_onnxruntime_does(variant: str, tmp_path: Path) -> None:
    made = convert("openvino", variant, network(), tmp_path)
    assert not made.converted.error, made.log
    assert made.parity is not None
    assert not shortfall(made.parity, made.floor)
    assert made.converted.ran_by.startswith("OpenVINO 2")
    assert made.converted.weight_bytes == made.file.with_suffix(".bin").stat().st_size


@pytest.mark.parametrize(("variant", "stored"), [("fp16", "f16"), ("int8", "i8")])
def test_every_weight_is_stored_in_the_variants_format(variant: str, stored: str, tmp_path: Path) -> None:
    """The depthwise layer too: NNCF leaves it in float32 where a reshape stands before its weight."""
    made = convert("openvino", variant, network(), tmp_path)
    shapes = _constants(made)
    assert set(shapes) == {stored}
    assert len(shapes[stored]) == 4


def test_zeros_are_counted_in_the_file_and_save_nothing(tmp_path: Path) -> None:
    model = network(channels=64)
    weights = sum(numpy_helper.to_array(one).size for one in model.graph.initializer if len(one.dims) > 1)
    thin = thinned(model)
    zeros = sum(int((numpy_helper.to_array(one) == 0).sum()) for one in thin.graph.initializer if len(one.dims) > 1)
    dense = convert("openvino", "fp16", model, tmp_path / "dense")
    made = convert("openvino", "fp16", thin, tmp_path / "thin", form="unstructured")
    assert dense.converted.sparsity == ""
    assert f"{zeros / weights:.1%} of {weights} weights are zeros" in made.converted.sparsity
    assert made.converted.weight_bytes == dense.converted.weight_bytes


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_pattern_of_zeros_stays_in_the_file(variant: str, tmp_path: Path) -> None:
    model = network(channels=64)
    made = convert("openvino", variant, patterned(model), tmp_path, form="sparse")
    assert not made.converted.error, made.log
    kernel = next(
        op.get_data()
        for op in openvino.Core().read_model(made.file).get_ops()
        if op.get_type_name() == "Constant" and tuple(op.get_output_shape(0)) == (128, 64, 3, 3)
    )
    kept = (kernel != 0).reshape(128, 16, 4, 3, 3).sum(2)
    assert kept.max() == 2


def test_several_outputs_keep_onnx_order_and_shape(tmp_path: Path) -> None:
    model = network()
    model.graph.output.insert(0, helper.make_tensor_value_info("r1", TensorProto.FLOAT, [1, 32, 16, 16]))
    made = convert("openvino", "fp16", model, tmp_path)
    assert not made.converted.error, made.log
    assert made.parity is not None  # compares shapes first
    assert not shortfall(made.parity, made.floor)


def test_outputs_are_of_every_picture_in_their_order(tmp_path: Path) -> None:
    """The runtime gives views of memory that it uses again."""
    judged = pictures(network(), 5)
    whole = convert("openvino", "fp16", network(), tmp_path / "whole", judged=judged)
    turned = convert("openvino", "fp16", network(), tmp_path / "turned", judged=judged[::-1])
    one, other = (load_arrays(Path(made.converted.outputs))["output_0"] for made in (whole, turned))
    assert np.array_equal(one, other[::-1])
    assert len({row.tobytes() for row in one}) == 5


def test_a_file_that_is_no_onnx_gives_one_line(tmp_path: Path) -> None:
    whole = network().SerializeToString()
    made = convert("openvino", "fp16", whole[: len(whole) // 2], tmp_path)
    assert "can't read model.onnx" in made.converted.error
    assert "\n" not in made.converted.error


def test_an_operator_that_it_does_not_know_is_named_in_one_line(tmp_path: Path) -> None:
    model = network()
    next(node for node in model.graph.node if node.name == "relu0").op_type = "Foreign"
    made = convert("openvino", "fp16", model.SerializeToString(), tmp_path)
    assert "No conversion rule found for operations: Foreign" in made.converted.error
    assert "\n" not in made.converted.error


def test_a_variant_that_is_not_known_gives_one_line(tmp_path: Path) -> None:
    made = convert("openvino", "int3", network(), tmp_path)
    assert "does not convert to 'int3'" in made.converted.error


def test_int8_without_calibration_pictures_says_what_to_give(tmp_path: Path) -> None:
    import msgspec

    from pipelines.vendors.base import Job
    from pipelines.vendors.worker import convert_apart

    convert("openvino", "fp16", network(), tmp_path)
    job = msgspec.json.decode((tmp_path / "work" / "job.json").read_bytes(), type=Job)
    again = tmp_path / "again"
    again.mkdir()
    job = msgspec.structs.replace(job, variant="int8", work=str(again), result=str(again / "result.json"))
    made = convert_apart(VENDOR, job, tmp_path / "again.log", 100)
    assert "int8 needs calibration pictures; give --calibration FOLDER" in made.error


def test_it_converts_without_torch_and_without_telemetry() -> None:
    import nncf  # noqa: F401

    absent = {"torch", "openvino_telemetry", "sklearn"}
    assert not absent & {name.partition(".")[0] for name in sys.modules}


def test_the_gates_limits_are_what_reads_here(tmp_path: Path) -> None:
    """At the highest opset and IR that the gate lets through, tool and judge both run."""
    model = onnx.version_converter.convert_version(network(), VENDOR.limits.opset[1])
    model.ir_version = VENDOR.limits.ir_version
    made = convert("openvino", "fp16", model, tmp_path)
    assert not made.converted.error, made.log
    assert made.parity is not None and not shortfall(made.parity, made.floor)
