"""Graph pass: float64 becomes float32, as chips compute; what is float16 already lost digits, and stays."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from pipelines.graph.facts import all_nodes
from pipelines.graph.fix.base import Goal, copied
from pipelines.graph.load import all_tensors
from pipelines.graph.tensors import values


def single_precision(model: onnx.ModelProto, goal: Goal) -> tuple[onnx.ModelProto, list[str]]:
    """Stored tensors, casts, random and constant fills, inputs and outputs of the graph."""
    del goal
    made = copied(model)
    count = 0
    for tensor in all_tensors(made.graph):
        if tensor.data_type == TensorProto.DOUBLE:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values(tensor, name).astype(np.float32), name))
            count += 1
    for node in all_nodes(made.graph):
        for one in node.attribute:
            if one.name in ("to", "dtype") and one.i == TensorProto.DOUBLE:
                one.i = TensorProto.FLOAT
                count += 1
    for value in (*made.graph.input, *made.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            count += 1
    if not count:
        return model, []
    del made.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(made), [f"{count} tensors and casts are float32, not float64"]
