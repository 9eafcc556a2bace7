"""Where a weight is stored: behind casts and quantisation too, and whether a stored zero is a zero of the weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from pipelines.graph.tensors import is_elsewhere, values

FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
LEVELS = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}  # of quantised weights
PASSES = ("Identity", "Cast", "QuantizeLinear", "DequantizeLinear")  # value by value, shape as it is


@dataclass(frozen=True)
class Source:
    """The stored tensor `name` behind a value. `fault` says why zeros there would be none of the value, or ""."""

    name: str
    quantised: bool = False
    scale_axis: int | None = None  # along which the quantisation scale changes
    fault: str = ""


def is_pass(node: onnx.NodeProto) -> bool:
    """Whether the node hands its first input on, value by value."""
    return node.domain in ("", "ai.onnx") and node.op_type in PASSES and bool(node.input)


def sources(
    graph: onnx.GraphProto, held: Mapping[str, onnx.TensorProto], outer: Mapping[str, Source] | None = None
) -> dict[str, Source]:
    """Name -> source, of every stored tensor and of what passes hand on of them. Nodes are in topological order."""
    found = {**(outer or {}), **{name: Source(name) for name in held}}
    for node in graph.node:
        if is_pass(node) and (source := found.get(node.input[0])) is not None:
            found[node.output[0]] = _passed(node, source, held)
    return found


def zero_point_fault(name: str, held: Mapping[str, onnx.TensorProto]) -> str:
    """Why that zero point keeps a stored 0 from being the number 0; "" where it does not. No name is no zero point."""
    if not name:
        return ""
    if (tensor := held.get(name)) is None:
        return "its zero point is computed, not stored"
    if is_elsewhere(tensor):
        return "its zero point is in another file that was not loaded"
    points = values(tensor, name)
    if not points.any():
        return ""
    return f"its zero point is {points.ravel()[np.flatnonzero(points)[0]]}: a stored 0 is not the number 0 there"


def _passed(node: onnx.NodeProto, source: Source, held: Mapping[str, onnx.TensorProto]) -> Source:
    if node.op_type == "Identity":
        return source
    if node.op_type == "Cast":
        to = next(one.i for one in node.attribute if one.name == "to")
        return source if to in FLOATS else replace(source, fault=source.fault or "its weight is cast to whole numbers")
    point = node.input[2] if len(node.input) > 2 else ""
    scale = held.get(node.input[1])
    axis = source.scale_axis
    if scale is not None and len(scale.dims) == 1 and scale.dims[0] > 1:
        axis = next((int(one.i) for one in node.attribute if one.name == "axis"), 1)
    fault = source.fault or zero_point_fault(point, held)
    return replace(source, quantised=True, scale_axis=axis, fault=fault)
