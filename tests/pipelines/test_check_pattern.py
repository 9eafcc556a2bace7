"""check-pattern on any ONNX file: what holds, what breaks and where, what can't be judged, and files that are none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipelines.checks.pattern_file import pattern_report
from pipelines.contract import PatternReport
from pipelines.errors import PipelineError
from pipelines.graph import load
from pipelines.graph.load import load_model
from pipelines.graph.mask import mask_magnitude
from pipelines.graph.pattern_check import check_layers
from pipelines.graph.weights import split
from pipelines.sparsity.hardware import hardware_note, ratio_warning
from pipelines.sparsity.pattern import NMPattern

PATTERN = NMPattern(2, 4)


def weight(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def network(*nodes: Any, **tensors: Any) -> onnx.ModelProto:
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    graph = helper.make_graph(list(nodes), "g", [x], [y], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def convolution() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["a"], name="first"),
        helper.make_node("Conv", ["a", "w"], ["y"], name="second"),
    ]
    return network(*nodes, stem=weight(8, 3, 3, 3), w=weight(6, 8, 3, 3))


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def states(report: PatternReport) -> list[tuple[str, str]]:
    return [(layer.node, layer.status) for layer in report.layers]


def test_a_masked_file_holds_and_each_other_layer_has_its_reason(tmp_path: Path) -> None:
    sparse, _ = mask_magnitude(convolution(), PATTERN)
    report = pattern_report(saved(sparse, tmp_path), PATTERN)
    assert report.ok
    assert states(report) == [("first", "not applicable"), ("second", "holds")]
    assert report.layers[0].detail == "3 input channels, fewer than 4"
    assert (report.layers[1].groups, report.layers[1].density) == (6 * 9 * 2, 0.5)
    assert (report.index_bits, report.entropy_bits) == (4, 3)


def test_a_broken_group_is_named_by_row_group_and_channels_and_all_are_counted(tmp_path: Path) -> None:
    sparse, _ = mask_magnitude(convolution(), PATTERN)
    values = numpy_helper.to_array(sparse.graph.initializer[1]).copy()
    values[4, 4:7, 2, 1] = 1.0
    values[5, 0:4, 0, 0] = 1.0
    sparse.graph.initializer[1].CopyFrom(numpy_helper.from_array(values, "w"))
    report = pattern_report(saved(sparse, tmp_path), PATTERN)
    second = report.layers[1]
    assert not report.ok
    assert (second.status, second.broken) == ("broken", 2)
    assert (
        second.detail == f"row [4, 2, 1], group 1 (channels 4 to 7) keeps {np.count_nonzero(values[4, 4:8, 2, 1])} of 4"
    )


def test_a_file_to_which_the_pattern_never_applies_is_not_ok(tmp_path: Path) -> None:
    model = network(helper.make_node("Conv", ["x", "stem"], ["y"]), stem=weight(8, 3, 3, 3))
    report = pattern_report(saved(model, tmp_path), PATTERN)
    assert [layer.status for layer in report.layers] == ["not applicable"]
    assert not report.ok


def test_a_weight_that_is_no_number_is_broken(tmp_path: Path) -> None:
    sparse, _ = mask_magnitude(convolution(), PATTERN)
    values = numpy_helper.to_array(sparse.graph.initializer[1]).copy()
    values[values != 0] = np.nan
    sparse.graph.initializer[1].CopyFrom(numpy_helper.from_array(values, "w"))
    (layer,) = [one for one in pattern_report(saved(sparse, tmp_path), PATTERN).layers if one.node == "second"]
    assert (layer.status, layer.broken, layer.detail) == ("broken", 0, "holds values that are not finite")


def test_matrices_of_unknown_operators_are_listed_and_not_passed_over(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("FusedMatMul", ["x", "w"], ["h"], domain="com.microsoft", name="fused"),
        helper.make_node("MatMul", ["h", "v"], ["y"], name="plain"),
    ]
    sparse, _ = mask_magnitude(network(*nodes, w=weight(8, 8), v=weight(8, 8)), PATTERN)
    report = pattern_report(saved(sparse, tmp_path), PATTERN)
    assert states(report) == [("plain", "holds"), ("fused", "not applicable")]
    assert report.layers[1].detail == "com.microsoft.FusedMatMul is not looked into"


# quantised weights


def levels(*shape: int) -> Any:
    return np.random.default_rng(1).integers(-128, 128, shape).astype(np.int8)


def quantised(zero_point: int, axis: int = 0, source: str = "DequantizeLinear") -> onnx.ModelProto:
    nodes = [
        helper.make_node(source, ["q", "scale", "zero"], ["w"], axis=axis),
        helper.make_node("Conv", ["x", "w"], ["y"], name="layer"),
    ]
    scale = np.linspace(0.01, 0.02, 8).astype(np.float32)
    return network(*nodes, q=levels(8, 8, 1, 1), scale=scale, zero=np.full(8, zero_point, np.int8))


def test_int8_weights_behind_dequantisation_take_the_pattern_in_their_levels() -> None:
    made, (layer,) = mask_magnitude(quantised(0), PATTERN)
    found = numpy_helper.to_array(made.graph.initializer[0])
    assert (layer.weight.initializer, layer.weight.quantised, found.dtype) == ("q", True, np.int8)
    assert np.array_equal(found != 0, PATTERN.mask(levels(8, 8, 1, 1)) & (levels(8, 8, 1, 1) != 0))
    assert [check.holds for check in check_layers(made, PATTERN)] == [True]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (quantised(3), "its zero point is 3: a stored 0 is not the number 0 there"),
        (quantised(0, axis=1), "its quantisation scale changes along the input channels"),
        (network(helper.make_node("Conv", ["x", "q"], ["y"]), q=levels(8, 8, 1, 1)), "INT8, not float16"),
    ],
)
def test_levels_whose_zeros_are_no_zeros_are_left_alone_with_the_reason(model: Any, reason: str) -> None:
    eligible, others = split(model, PATTERN)
    assert eligible == []
    assert reason in others[0][1]


def test_levels_that_another_layer_reads_are_left_alone() -> None:
    model = quantised(0)
    model.graph.node.append(helper.make_node("Add", ["y", "w"], ["z"], name="other"))
    assert [reason for _, reason in split(model, PATTERN)[1]] == ["its weight is also read by other"]


@pytest.mark.parametrize(
    ("op", "inputs", "axis"),
    [
        ("QLinearConv", ["x", "s", "z", "q", "s", "z", "s", "z"], 1),
        ("ConvInteger", ["x", "q", "z", "z"], 1),
        ("QLinearMatMul", ["x", "s", "z", "q", "s", "z", "s", "z"], -2),
        ("MatMulInteger", ["x", "q"], -2),
    ],
)
def test_integer_operators_have_an_input_channel_axis_too(op: str, inputs: list[str], axis: int) -> None:
    values = levels(16, 8, 1, 1) if "Conv" in op else levels(16, 8)
    model = network(helper.make_node(op, inputs, ["y"]), q=values, s=np.float32(0.1), z=np.int8(0))
    made, _ = mask_magnitude(model, PATTERN)
    assert PATTERN.holds(numpy_helper.to_array(made.graph.initializer[0]), axis)
    shifted = network(helper.make_node(op, inputs, ["y"]), q=values, s=np.float32(0.1), z=np.int8(7))
    assert bool(split(shifted, PATTERN)[0]) == (op == "MatMulInteger")  # it was given no zero point


# files


def test_external_data_is_read_from_beside_the_file(tmp_path: Path) -> None:
    sparse, _ = mask_magnitude(convolution(), PATTERN)
    path = tmp_path / "m.onnx"
    values = numpy_helper.to_array(sparse.graph.initializer[1]).tobytes()
    onnx.save(sparse, str(path), save_as_external_data=True, location="m.bin", size_threshold=0)
    assert pattern_report(path, PATTERN).ok
    assert load_model(path).graph.initializer[1].raw_data == values
    (tmp_path / "m.bin").write_bytes((tmp_path / "m.bin").read_bytes()[:-1])
    with pytest.raises(PipelineError, match=r"^m.onnx: m.bin ends before the values of w; get both files"):
        load_model(path)
    (tmp_path / "m.bin").unlink()
    with pytest.raises(PipelineError, match=r"^m.onnx: its weights are in m.bin, which is missing"):
        pattern_report(path, PATTERN)


@pytest.mark.parametrize("location", ["../m.bin", "/etc/passwd", ""])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    model = convolution()
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    with pytest.raises(PipelineError, match=r"outside its folder; keep its data beside it"):
        load_model(saved(model, tmp_path))


def test_sizes_are_looked_at_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse on disk
    with pytest.raises(PipelineError, match=r"^large.onnx: 2.0 GiB, one ONNX file holds less than 2"):
        load_model(path)
    onnx.save(convolution(), str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.bin", size_threshold=0)
    monkeypatch.setattr(load, "LIMIT_BYTES", 2000)
    with pytest.raises(PipelineError, match=r"with its external data; this pipeline writes one file"):
        load_model(tmp_path / "m.onnx")
    assert not pattern_report(tmp_path / "m.onnx", PATTERN).ok  # one weight at a time: no limit there


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "model.onnx is empty"),
        (b"not a model at all", "model.onnx is no ONNX file"),
        (b"\x08\x07", "model.onnx is no ONNX file: it holds no graph"),
        (None, "model.onnx: no such file"),
    ],
)
def test_a_file_that_is_no_model_is_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(PipelineError) as caught:
        load_model(tmp_path / "model.onnx")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_values_that_do_not_fill_their_shape_are_one_line(tmp_path: Path) -> None:
    model = convolution()
    model.graph.initializer[1].raw_data = model.graph.initializer[1].raw_data[:-4]
    with pytest.raises(PipelineError, match=r"^w can't be read: "):
        pattern_report(saved(model, tmp_path), PATTERN)


@pytest.mark.parametrize(("spoil", "code"), [("nothing", 0), ("pattern", 1), ("file", 2), ("words", 2)])
def test_the_exit_code_says_how_it_ended_and_stdout_is_one_document(tmp_path: Path, spoil: str, code: int) -> None:
    sparse, _ = mask_magnitude(convolution(), PATTERN)
    path = saved(convolution() if spoil == "pattern" else sparse, tmp_path)
    if spoil == "file":
        path.write_bytes(b"x")
    asked = "4:2" if spoil == "words" else "2:4"
    command = [sys.executable, "-m", "pipelines.checks.pattern_file", str(path), "--sparsity", asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    document = json.loads(done.stdout)
    assert ("layers" in document) == (code < 2)
    assert ("message" in document) == (code == 2)


# ratios


def test_ratios_without_a_hardware_path_say_so() -> None:
    for text in ("1:2", "2:4", "4:8", "8:16", "2:8", "1:4"):
        assert ratio_warning(NMPattern.parse(text)) == ""
    for text in ("2:6", "1:3", "3:4", "3:8"):
        assert "no power-of-two compression, no hardware path" in ratio_warning(NMPattern.parse(text))
    assert "fp16, bf16, int8, fp8" in hardware_note(NMPattern(2, 4))
    assert hardware_note(NMPattern(2, 8)).startswith("no hardware path known")
