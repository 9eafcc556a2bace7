"""Every tensor's type and shape in the file: converters ask for all of them, and onnx's inference knows not all."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipelines.errors import PipelineError
from pipelines.inference import session

# a run says nothing about the next one's shapes where these are in the graph
_DATA_DEPENDENT = {"Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "SequenceAt", "Unique"}


def without_shape(model: onnx.ModelProto) -> list[str]:
    """Outputs of nodes for which the file states no shape, or one that is not all numbers."""
    stated = {value.name for value in (*model.graph.value_info, *model.graph.output) if _static(value)}
    return [name for node in model.graph.node for name in node.output if name and name not in stated]


def with_all_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which shapes that inference left open (Einsum's, for one) are those of a run in onnxruntime.

    PipelineError where shapes depend on what the picture shows.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if not (left := without_shape(model)):
        return made
    if moving := sorted({node.op_type for node in model.graph.node} & _DATA_DEPENDENT):
        raise PipelineError(
            f"the shape of {left[0]} depends on the picture ({', '.join(moving)})", "a chip takes static shapes only"
        )
    measured = {value.name: value for value in _measured(model, left)}
    kept = [value for value in made.graph.value_info if value.name not in measured]
    for output in made.graph.output:
        if output.name in measured:
            output.CopyFrom(measured.pop(output.name))
    del made.graph.value_info[:]
    made.graph.value_info.extend([*kept, *measured.values()])
    return made


def _static(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return bool(tensor.HasField("shape")) and all(dim.HasField("dim_value") for dim in tensor.shape.dim)


def _measured(model: onnx.ModelProto, names: list[str]) -> list[onnx.ValueInfoProto]:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    given = model.graph.input[0]
    shape = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    values = session(probe.SerializeToString()).run(names, {given.name: np.zeros(shape, np.float32)})
    return [
        helper.make_tensor_value_info(name, numpy_helper.from_array(value).data_type, value.shape)
        for name, value in zip(names, values, strict=True)
    ]
