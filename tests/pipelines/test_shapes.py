"""Every tensor of an exported file has its shape, or the export says why it can't have one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest
from conftest import MODULE, by_name
from onnx import TensorProto, helper

from pipelines.contract import RunReport, RunRequest
from pipelines.errors import PipelineError
from pipelines.graph.shapes import with_all_shapes, without_shape

Make = Callable[..., RunRequest]
Go = Callable[..., RunReport]


def graph(*nodes: Any, known: dict[str, Any] | None = None) -> onnx.ModelProto:
    """From x float32 [1, 3, 4, 5] to y, of which nothing is stated."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 5])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (known or {}).items()]
    made = helper.make_graph(list(nodes), "g", [given], [onnx.ValueInfoProto(name="y")], value_info=values)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def stated(model: onnx.ModelProto) -> dict[str, tuple[int, list[int]]]:
    types = {value.name: value.type.tensor_type for value in (*model.graph.value_info, *model.graph.output)}
    return {name: (one.elem_type, [dim.dim_value for dim in one.shape.dim]) for name, one in types.items()}


SWAP = helper.make_node("Einsum", ["x"], ["h"], equation="nchw->nwhc")
SIGN = helper.make_node("Greater", ["h", "h"], ["y"])


def test_what_no_inference_knows_is_measured_in_a_run() -> None:
    model = graph(SWAP, SIGN)
    assert without_shape(model) == ["h", "y"]
    made = with_all_shapes(model)
    assert stated(made) == {"h": (TensorProto.FLOAT, [1, 5, 4, 3]), "y": (TensorProto.BOOL, [1, 5, 4, 3])}
    assert [value.name for value in made.graph.output] == ["y"]
    onnx.checker.check_model(made, full_check=True)


def test_a_shape_with_a_name_in_it_is_none() -> None:
    assert without_shape(graph(SWAP, SIGN, known={"h": ["batch", 5, 4, 3]})) == ["h", "y"]


def test_a_file_that_states_all_shapes_stays_as_it_is() -> None:
    made = with_all_shapes(graph(SWAP, SIGN))
    assert with_all_shapes(made) == made


def test_nothing_but_shapes_is_added() -> None:
    model = graph(SWAP, SIGN)
    made = with_all_shapes(model)
    assert list(made.graph.node) == list(model.graph.node)
    assert list(made.graph.input) == list(model.graph.input)


def test_a_shape_that_depends_on_the_picture_is_refused_by_name() -> None:
    with pytest.raises(PipelineError, match=r"^the shape of y depends on the picture \(NonZero\); "):
        with_all_shapes(graph(helper.make_node("NonZero", ["x"], ["y"])))


def test_a_network_with_einsum_is_exported_with_all_shapes(request_for: Make, run_all: Go, workspace: Any) -> None:
    text = MODULE.replace("torch.nn.Flatten()", "Swap(), torch.nn.Flatten()")
    text = text.replace(
        "    def build_model",
        "    class Swap(torch.nn.Module):\n"
        "        def forward(self, x):\n"
        "            return torch.einsum('nchw,cd->ndhw', x, torch.eye(16))\n\n\n"
        "    def build_model",
    )
    report = run_all(request_for(module=text))
    assert by_name(report)["export"].status == "ok", by_name(report)["export"].reason
    model = onnx.load(str(workspace / report.run_folder / "artifacts/export/model.onnx"))
    assert "Einsum" in {node.op_type for node in model.graph.node}
    assert without_shape(model) == []
