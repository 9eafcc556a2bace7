"""The tensors that an ONNX model stores: its initializers, and what its Constant nodes hold."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from pipelines.arrays import Array
from pipelines.errors import PipelineError


def stored(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Name -> the tensor inside `graph` itself (not of nested graphs): changing it changes the model."""
    held = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            held.update((node.output[0], one.t) for one in node.attribute if one.name == "value")
    return held


def is_elsewhere(tensor: onnx.TensorProto) -> bool:
    """True where its values are in another file, and were not loaded."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def values(tensor: onnx.TensorProto, name: str) -> Array:
    """Its values. PipelineError where they are not in the model."""
    if is_elsewhere(tensor):
        raise PipelineError(
            f"the values of {name} are in another file", "keep it beside the model, or store them in it"
        )
    array: Array = numpy_helper.to_array(tensor)
    return array


def values_of(model: onnx.ModelProto) -> dict[str, Array]:
    """Name -> values, of every stored tensor."""
    return {name: values(tensor, name) for name, tensor in stored(model.graph).items()}


def without_tensors(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every stored tensor is empty: the rest of the model."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in stored(bare.graph).values():
        tensor.Clear()
    return bare
