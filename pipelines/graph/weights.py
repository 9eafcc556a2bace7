"""Which weights of an ONNX graph have an input-channel axis, and which of them can follow an N:M pattern."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from pipelines.arrays import Array
from pipelines.sparsity.pattern import NMPattern, Violation

FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}


@dataclass(frozen=True)
class Weight:
    """A weight of a layer. `axis` is its input-channel axis; `groups` those of a grouped convolution."""

    node: str
    op: str
    initializer: str  # "" where the weight is computed
    shape: tuple[int, ...]
    axis: int
    groups: int
    dtype: int  # onnx.TensorProto's

    @property
    def channels(self) -> int:
        """Input channels that one output sees."""
        held = self.shape[self.axis]
        return held // self.groups if self.op == "ConvTranspose" else held


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(one.i) for one in node.attribute if one.name == name), default)


def weights_of(model: onnx.ModelProto) -> list[Weight]:
    """The weight of every Conv, ConvTranspose, Gemm and MatMul, in graph order; a shared one once a node."""
    held = {one.name: one for one in model.graph.initializer}
    return [weight for node in model.graph.node for weight in _of_node(node, held)]


def _of_node(node: onnx.NodeProto, held: dict[str, onnx.TensorProto]) -> Iterator[Weight]:
    place, axis = 1, 1
    if node.op_type == "ConvTranspose":
        axis = 0
    elif node.op_type == "Gemm":
        axis = 1 if attribute(node, "transB", 0) else 0
    elif node.op_type == "MatMul":
        if node.input[0] in held and node.input[1] not in held:
            place, axis = 0, -1
        elif node.input[1] not in held:
            return  # a product of two activations has no weight
        else:
            axis = -2
    elif node.op_type != "Conv":
        return
    name = node.input[place]
    tensor = held.get(name)
    shape = tuple(tensor.dims) if tensor is not None else ()
    yield Weight(
        node=node.name or f"{node.op_type} of {node.output[0]}",
        op=node.op_type,
        initializer=name if tensor is not None else "",
        shape=shape,
        axis=axis % len(shape) if len(shape) > 1 else 0,
        groups=attribute(node, "group", 1),
        dtype=tensor.data_type if tensor is not None else 0,
    )


def why_not(weight: Weight, pattern: NMPattern) -> str:
    """Why the pattern can't be applied to that weight; "" where it can."""
    if not weight.initializer:
        return "its weight is computed, not stored"
    if len(weight.shape) < 2:
        return f"its weight has {len(weight.shape)} dimension"
    if weight.dtype not in FLOATS:
        return f"its weight is {onnx.TensorProto.DataType.Name(weight.dtype)}, not floating point"
    if weight.channels < pattern.m:
        each = " a group" if weight.groups > 1 else ""
        return f"{weight.channels} input channels{each}, fewer than {pattern.m}"
    if weight.op == "ConvTranspose" and weight.groups > 1 and weight.channels % pattern.m:
        return f"groups of {weight.channels} input channels do not divide into {pattern.m}"
    return ""


def split(model: onnx.ModelProto, pattern: NMPattern) -> tuple[list[Weight], list[tuple[Weight, str]]]:
    """Weights that the pattern applies to (each initializer once), and the others with their reasons."""
    found = weights_of(model)
    axes: dict[str, set[int]] = {}
    for weight in found:
        axes.setdefault(weight.initializer, set()).add(weight.axis)
    eligible: dict[str, Weight] = {}
    others = []
    for weight in found:
        reason = why_not(weight, pattern)
        if not reason and len(axes[weight.initializer]) > 1:
            reason = "its weight is shared with a layer that reads it along another axis"
        if reason:
            others.append((weight, reason))
        else:
            eligible.setdefault(weight.initializer, weight)
    return list(eligible.values()), others


def values_of(model: onnx.ModelProto) -> dict[str, Array]:
    """Initializer name -> its values."""
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def check_pattern(model: onnx.ModelProto, pattern: NMPattern) -> list[tuple[Weight, list[Violation]]]:
    """Every weight the pattern applies to and breaks, with the groups that break it."""
    values = values_of(model)
    eligible, _ = split(model, pattern)
    broken = [(weight, pattern.violations(values[weight.initializer], weight.axis)) for weight in eligible]
    return [(weight, groups) for weight, groups in broken if groups]
