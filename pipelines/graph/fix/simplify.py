"""Graph pass: what onnxsim, or onnxruntime's basic level where that is not here, can say in fewer operators."""

from __future__ import annotations

import importlib.util
from collections import Counter
from typing import Literal

import onnx

from pipelines.errors import PipelineError, first_line
from pipelines.graph.facts import all_nodes
from pipelines.graph.fix.base import Goal, copied
from pipelines.graph.fix.shapes import one_picture
from pipelines.graph.own_vectors import with_own_vectors
from pipelines.graph.shapes import with_all_shapes
from pipelines.graph.tidy import simplified, tidy


def simplify(model: onnx.ModelProto, goal: Goal) -> tuple[onnx.ModelProto, list[str]]:
    """Batch norms go into convolutions, shape arithmetic into constants; IR version and opset stay.

    A network of the same operators comes back as it was: the tools also put nodes into another order.
    """
    if importlib.util.find_spec("onnxsim") is not None:
        made, by = _by(model, "onnxsim"), "onnxsim"
    else:
        made, by = _by(model, "onnxruntime"), "onnxruntime"
    made = with_all_shapes(with_own_vectors(tidy(made, one_picture(model, goal.input_shape), model.ir_version)))
    before, after = (Counter(node.op_type for node in all_nodes(one.graph)) for one in (model, made))
    if before == after:
        return copied(model), []
    fewer = before.total() - after.total()
    return made, [f"{fewer} nodes fewer by {by}" if fewer > 0 else f"other operators by {by}"]


def _by(model: onnx.ModelProto, tool: Literal["onnxsim", "onnxruntime"]) -> onnx.ModelProto:
    try:
        return simplified(model, tool)
    except Exception as error:  # neither tool's errors have a base
        raise PipelineError(f"{tool} fails on it: {first_line(error)}") from error
