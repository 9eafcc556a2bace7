"""The exported file: what the toolchain asked for, the same bytes each time, and equal to the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import MODULE, by_name
from onnx import helper, numpy_helper

from pipelines.contract import ExportOptions, RunReport, RunRequest
from pipelines.graph import tidy
from pipelines.graph.tidy import simplified

Make = Callable[..., RunRequest]
Go = Callable[..., RunReport]

HEAD = MODULE[: MODULE.index("    def build_model")]

ATTENTION = (
    HEAD
    + """
    class Attending(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Conv2d(3, 16, 4, stride=4)
            self.encoder = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.head = torch.nn.Linear(16, 10)

        def forward(self, images):
            tokens = self.embed(images).flatten(2).transpose(1, 2)  # [N, 16 tokens, 16]
            return self.head(self.encoder(tokens).mean(1))


    def build_model():
        return Attending()
"""
)

NOT_EXPORTABLE = (
    HEAD
    + """
    class Odd(torch.nn.Module):
        def forward(self, images):
            return torch.linalg.svdvals(images[0, 0])[None]


    def build_model():
        return Odd()
"""
)


def exported(report: RunReport, workspace: Path) -> onnx.ModelProto:
    return onnx.load(str(workspace / report.run_folder / "artifacts/export/model.onnx"))


def options(**changes: Any) -> ExportOptions:
    return ExportOptions(**{"opset": 13, "ir_version": 7, "simplifier": "onnxruntime", **changes})


@pytest.mark.parametrize("simplifier", ["onnxruntime", "onnxsim"])
@pytest.mark.parametrize(("opset", "ir_version"), [(11, 6), (12, 7), (13, 7)])
def test_the_file_has_the_opset_and_ir_that_were_asked_for(
    request_for: Make, run_all: Go, workspace: Path, simplifier: str, opset: int, ir_version: int
) -> None:
    if simplifier == "onnxsim":
        pytest.importorskip("onnxsim", reason="this environment simplifies with onnxruntime")
    report = run_all(request_for(export=options(opset=opset, ir_version=ir_version, simplifier=simplifier)))
    assert by_name(report)["export"].status == "ok", by_name(report)["export"].reason
    model = exported(report, workspace)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", opset)]
    assert model.ir_version == ir_version
    onnx.checker.check_model(model, full_check=True)


def test_all_shapes_are_static(request_for: Make, run_all: Go, workspace: Path) -> None:
    graph = exported(run_all(request_for()), workspace).graph
    stated = {value.name for value in (*graph.output, *graph.value_info)}
    assert stated == {name for node in graph.node for name in node.output}
    for value in (*graph.input, *graph.output, *graph.value_info):
        assert all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim), value.name
    assert [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [1, 3, 16, 16]


def test_nothing_in_it_says_where_it_was_made(request_for: Make, run_all: Go, workspace: Path) -> None:
    model = exported(run_all(request_for()), workspace)
    texts = [model.doc_string, model.graph.doc_string, *(node.doc_string for node in model.graph.node)]
    assert not any(texts)
    assert not model.metadata_props
    assert str(workspace).encode() not in model.SerializeToString()


def test_two_workspaces_give_the_same_bytes(request_for: Make, tmp_path: Path, data: Path) -> None:
    from pipelines.runner import run
    from pipelines.stages import plan

    made = []
    for place in ("one", "two"):
        request = request_for()
        folder = tmp_path / place / request.run_folder
        folder.parent.mkdir(parents=True)
        (tmp_path / "runs" / request.run_folder).rename(folder)
        made.append(run(request, plan(request), tmp_path / place, data, lambda event: None).artifacts)
    assert made[0] == made[1]


def test_attention_is_exported_below_the_opset_that_torch_wants_for_it(request_for: Make, run_all: Go) -> None:
    report = by_name(run_all(request_for(module=ATTENTION)))
    assert report["export"].status == "ok", report["export"].reason
    assert report["verify"].facts["export_max_abs_diff"] < 1e-5


def test_an_operator_that_can_not_be_exported_is_named_in_one_line(request_for: Make, run_all: Go) -> None:
    stage = by_name(run_all(request_for(module=NOT_EXPORTABLE)))["export"]
    assert stage.status == "failed"
    assert stage.reason.startswith("small can't be exported at opset 13: ")
    assert "svd" in stage.reason
    assert "\n" not in stage.reason


@pytest.mark.parametrize(("added", "said"), [(0.01, "0.01"), (np.nan, "nan")])
def test_a_simplifier_that_changes_the_network_is_found(
    request_for: Make, run_all: Go, monkeypatch: pytest.MonkeyPatch, added: float, said: str
) -> None:
    def spoiling(model: onnx.ModelProto, by: Any) -> onnx.ModelProto:
        made = simplified(model, by)
        bias = next(one for one in made.graph.initializer if one.dims == [10])
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(added), bias.name))
        return made

    monkeypatch.setattr(tidy, "simplified", spoiling)
    stage = by_name(run_all(request_for()))["export"]
    assert stage.status == "failed"
    assert f"onnxruntime changed the outputs by {said}" in stage.reason


def test_weights_among_the_inputs_of_an_old_file_are_inputs_no_more() -> None:
    """There they could be fed, so nothing folds them, and a converter asks for pictures for each."""
    weight = numpy_helper.from_array(np.ones((8, 48), np.float32), "w")
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("Gemm", ["flat", "w"], ["y"], transB=1)]
    inputs = [
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 4, 4]),
        helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [8, 48]),
    ]
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 8])
    old = helper.make_model(
        helper.make_graph(nodes, "g", inputs, [out], [weight]), opset_imports=[helper.make_opsetid("", 13)]
    )
    made = tidy.tidy(old, (1, 3, 4, 4), 7)
    assert [one.name for one in made.graph.input] == ["x"]
    onnx.checker.check_model(made, full_check=True)


def test_a_network_that_wants_another_shape_fails_in_one_line(request_for: Make, run_all: Go) -> None:
    stage = by_name(run_all(request_for(module=MODULE.replace("Conv2d(3, 8", "Conv2d(4, 8"))))["export"]
    assert stage.status == "failed"
    assert "can't be exported" in stage.reason
    assert "\n" not in stage.reason
