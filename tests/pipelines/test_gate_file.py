"""The gate over a file that somebody gives: exit codes, one document, and what is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_networks import conv, network, node

from pipelines.checks.gate_file import gate_report, shape_of
from pipelines.errors import PipelineError
from pipelines.graph.fix.shapes import one_picture
from pipelines.graph.load import load_model
from pipelines.graph.tidy import tidy
from pipelines.graph.unstructured import kept, unstructured
from pipelines.vendors.limits import Limits

LIMITS = Limits(opset=(9, 11), ir_version=6, origin="documentation")


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_report_says_what_was_looked_at_and_by_what(tmp_path: Path) -> None:
    report = gate_report(saved(conv((3, 3)), tmp_path), "tool", LIMITS)
    assert (report.file, report.toolchain, report.opset, report.ir_version, report.nodes) == (
        "m.onnx",
        "tool",
        13,
        7,
        1,
    )
    assert report.checked_by == f"onnx {onnx.__version__}"
    assert [one.fix for one in report.findings] == ["convert_opset", "convert_ir"]
    assert not report.ok
    assert (report.changes, report.proofs) == ((), 0)


def test_a_mended_file_is_written_and_is_within_the_limits(tmp_path: Path) -> None:
    made = tmp_path / "mended.onnx"
    report = gate_report(saved(conv((3, 3)), tmp_path), "tool", LIMITS, output=made)
    assert report.ok
    assert (report.opset, report.ir_version, report.proofs) == (11, 6, 8)
    assert gate_report(made, "tool", LIMITS).findings == ()


@pytest.mark.parametrize("unknown", [-1, 0])
def test_a_size_written_as_minus_one_or_zero_is_open(unknown: int, tmp_path: Path) -> None:
    model = conv((3, 3))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.type.tensor_type.shape.dim[0].dim_value = unknown
    path, made = saved(model, tmp_path), tmp_path / "mended.onnx"
    said = "the input x has shape [?, 4, 7, 7]"
    assert any(one.limit.startswith(said) for one in gate_report(path, "tool", LIMITS).findings)
    assert gate_report(path, "tool", LIMITS, (1, 4, 7, 7), made).ok
    onnx.checker.check_model(onnx.load(str(made)), full_check=True)
    assert one_picture(tidy(load_model(path), [1, 4, 7, 7], 7), None) == (1, 4, 7, 7)


@pytest.mark.parametrize(
    ("shape", "given", "said"),
    [
        (("batch", 4, "height", "width"), None, "the input x has open sizes: [1, 4, ?, ?]; name them: --shape"),
        ((8, 4, 8, 8), None, "the input x takes 8 pictures at once; export it for one"),
        (("batch", 4, "height", "width"), (2, 4, 8, 8), "the input x takes 2 pictures at once"),
    ],
)
def test_open_shapes_are_one_line(tmp_path: Path, shape: Any, given: Any, said: str) -> None:
    path = saved(network(node("Relu"), shape=shape), tmp_path)
    with pytest.raises(PipelineError) as caught:
        gate_report(path, "tool", LIMITS, given, tmp_path / "o.onnx")
    assert str(caught.value).startswith(said)
    assert not (tmp_path / "o.onnx").exists()


def test_open_shapes_are_closed_as_given(tmp_path: Path) -> None:
    path = saved(network(node("Relu"), shape=("batch", 4, "height", "width")), tmp_path)
    report = gate_report(path, "tool", LIMITS, (1, 4, 6, 5), tmp_path / "o.onnx")
    assert report.ok
    dims = onnx.load(str(tmp_path / "o.onnx")).graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [1, 4, 6, 5]


@pytest.mark.parametrize("text", ["1,x", "1,0,2", "-1", ","])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--shape '.*' is no shape like 1,3,224,224$"):
        shape_of(text)


@pytest.mark.parametrize(
    ("content", "toolchain", "code", "said"),
    [
        ("good", "sigmastar", 0, ""),
        ("opset 14", "sigmastar", 1, ""),
        ("noise", "sigmastar", 2, "m.onnx is no ONNX file"),
        ("good", "nobody", 2, "no toolchain is called 'nobody'"),
    ],
)
def test_the_exit_code_says_how_it_ended_and_stdout_is_one_document(
    tmp_path: Path, content: str, toolchain: str, code: int, said: str
) -> None:
    path = saved(network(node("Relu"), opset=14 if content == "opset 14" else 13), tmp_path)
    if content == "noise":
        path.write_bytes(b"no model")
    command = [sys.executable, "-m", "pipelines.checks.gate_file", str(path), "--toolchain", toolchain]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    document = json.loads(done.stdout)
    assert ("findings" in document) == (code < 2)
    assert document.get("message", "").startswith(said)


# zeros wherever they stand


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_the_smallest_become_zero_up_to_the_share(share: float) -> None:
    model = conv((3, 3))
    before = onnx.numpy_helper.to_array(model.graph.initializer[0])
    after = onnx.numpy_helper.to_array(unstructured(model, share, ["w"]).graph.initializer[0])
    assert np.count_nonzero(after == 0) == round(share * before.size)
    np.testing.assert_array_equal(after[after != 0], before[after != 0])
    if 0 < share < 1:
        assert np.abs(before[after == 0]).max() <= np.abs(after[after != 0]).min()
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), before)


def test_ties_go_to_the_lowest_index_and_the_smallest_level_is_not_the_largest() -> None:
    assert kept(np.array([1.0, -1.0, 1.0, 1.0]), 0.5).tolist() == [True, True, False, False]
    assert kept(np.array([-128, 127, 1, 0], np.int8), 0.5).tolist() == [True, True, False, False]


def test_impossible_shares_and_layers_are_refused() -> None:
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="is not between 0 and 1"):
            unstructured(conv((3, 3)), share, [])
    with pytest.raises(PipelineError, match="v is no stored weight"):
        unstructured(conv((3, 3)), 0.5, ["v"])
