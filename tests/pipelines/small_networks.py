"""Networks of a node or two, for one limit or one pass each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipelines.arrays import Array

SHAPE = (1, 4, 8, 8)


def network(
    *nodes: onnx.NodeProto,
    stored: Mapping[str, Array] | None = None,
    shape: Sequence[int | str | None] = SHAPE,
    opset: int = 13,
    ir: int = 7,
    outputs: Sequence[str] = ("y",),
    dtype: int = TensorProto.FLOAT,
    made: Sequence[int] | None = None,
    infer: bool = True,
) -> onnx.ModelProto:
    """From "x" to "y"; shapes are inferred and stated. `made`: the outputs' shape, instead.

    Without `infer` only the outputs' shapes are stated.
    """
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", dtype, list(shape))],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (stored or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir
    inferred = onnx.shape_inference.infer_shapes(model)
    for output, told in zip(model.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(told)
        if made is not None or not told.type.tensor_type.HasField("shape"):
            output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, list(made or SHAPE)))
    return onnx.shape_inference.infer_shapes(model) if infer else model


def node(op: str, inputs: str | Sequence[str] = "x", output: str = "y", **attributes: Any) -> onnx.NodeProto:
    """One node, named after its output; several names as in "x w"."""
    given = inputs.split() if isinstance(inputs, str) else list(inputs)
    return helper.make_node(op, given, [output], name=f"{op}_{output}", **attributes)


def conv(kernel: tuple[int, int], *, group: int = 1, **attributes: Any) -> onnx.ModelProto:
    """One convolution over four channels; seeded weights."""
    weight = np.random.default_rng(0).standard_normal((4, 4 // group, *kernel)).astype(np.float32)
    side = max(kernel) + 4
    return network(node("Conv", "x w", group=group, **attributes), stored={"w": weight}, shape=(1, 4, side, side))


def pictures(model: onnx.ModelProto, count: int = 3) -> Array:
    """Seeded noise of the input's shape, its open sizes taken as 1: float32 [count, ...]."""
    sizes = [dim.dim_value or 1 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(1).standard_normal((count, *sizes[1:])).astype(np.float32)
