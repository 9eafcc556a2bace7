"""Graph pass: one static input, and every tensor's shape stated in the file."""

from __future__ import annotations

import onnx

from pipelines.errors import PipelineError
from pipelines.graph.facts import Graph
from pipelines.graph.fix.base import Goal
from pipelines.graph.shapes import with_all_shapes, without_shape
from pipelines.graph.tidy import tidy


def static_shapes(model: onnx.ModelProto, goal: Goal) -> tuple[onnx.ModelProto, list[str]]:
    """The input's open sizes become the goal's (a batch becomes 1), and shapes are inferred, or measured in a run."""
    shape = one_picture(model, goal.input_shape)
    graph, before = Graph(model), len(without_shape(model))
    made = with_all_shapes(tidy(model, shape, model.ir_version))
    told = [] if graph.shape(graph.inputs[0]) == shape else [f"its input is {'x'.join(map(str, shape))}"]
    if after := before - len(without_shape(made)):
        told.append(f"{after} shapes are stated")
    return made, told


def one_picture(model: onnx.ModelProto, given: tuple[int, ...] | None) -> tuple[int, ...]:
    """The one input's shape for one picture: `given`, or the file's own with an open batch as 1.

    PipelineError where a size is open that nobody gave, or the file is fixed to another batch than 1.
    """
    graph = Graph(model)
    if len(graph.inputs) != 1:
        raise PipelineError(f"the graph has {len(graph.inputs)} inputs", "this pipeline feeds one picture to one input")
    (name,) = graph.inputs
    stated = given if given is not None else graph.shape(name)
    if stated is None:
        raise PipelineError(f"the input {name} has no shape", "name it: --shape 1,3,224,224")
    if stated and (stated[0] or 1) != 1:
        raise PipelineError(f"the input {name} takes {stated[0]} pictures at once", "export it for one")
    fixed = tuple(1 if place == 0 else size or 0 for place, size in enumerate(stated))
    if 0 in fixed:
        told = ", ".join(str(size or "?") for size in fixed)
        raise PipelineError(f"the input {name} has open sizes: [{told}]", "name them: --shape 1,3,224,224")
    return fixed
