"""Graph passes: another opset, another IR version."""

from __future__ import annotations

import onnx
from onnx import version_converter

from pipelines.errors import PipelineError, first_line
from pipelines.graph.facts import opset_of
from pipelines.graph.fix.base import Goal, copied
from pipelines.graph.fix.lower import lowered

INITIALIZERS_APART = 4  # the IR version since which an initializer need not be an input too
FUNCTIONS = 8  # and that which brought functions of a model's own


def convert_opset(model: onnx.ModelProto, goal: Goal) -> tuple[onnx.ModelProto, list[str]]:
    """To the nearest opset in the goal's range: up by onnx's own converter, down by what its schemas say.

    PipelineError where an operator has no form there.
    """
    stands = opset_of(model)
    wanted = min(max(stands, goal.opset[0]), goal.opset[1])
    if wanted == stands:
        return model, []
    made = lowered(model, goal, stands, wanted) if wanted < stands else _raised(model, wanted)
    return made, [f"opset {stands} is {wanted}"]


def _raised(model: onnx.ModelProto, wanted: int) -> onnx.ModelProto:
    try:
        made: onnx.ModelProto = version_converter.convert_version(model, wanted)
    except Exception as error:  # its own ConvertError, RuntimeError and IndexError
        why = first_line(error).rpartition(": ")[2]  # a place in its own source stands before it
        raise PipelineError(
            f"onnx {onnx.__version__} can't bring it to opset {wanted}: {why}", f"export it at opset {wanted}"
        ) from error
    made.ir_version = model.ir_version
    return made


def convert_ir(model: onnx.ModelProto, goal: Goal) -> tuple[onnx.ModelProto, list[str]]:
    """To the goal's IR version where it is above it: only what newer versions added is lost, names of origin above all.

    PipelineError where the graph itself needs the newer one.
    """
    stands = model.ir_version
    if stands <= goal.ir_version:
        return model, []
    if goal.ir_version < FUNCTIONS and len(model.functions):
        raise PipelineError("it has functions of its own, which IR 8 brought", "export it without functions")
    if goal.ir_version < INITIALIZERS_APART:
        raise PipelineError(f"IR {goal.ir_version} wants every weight among the inputs", "use a newer converter")
    made = copied(model)
    made.ir_version = goal.ir_version
    return made, [f"IR {stands} is {goal.ir_version}"]
