"""Which weights of an ONNX graph have an input-channel axis, and which of them can follow an N:M pattern."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from pipelines.graph.tensors import is_elsewhere, stored, values
from pipelines.sparsity.pattern import NMPattern, Violation

FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}


@dataclass(frozen=True)
class Weight:
    """A weight of a layer. `axis` is its input-channel axis; `groups` those of a grouped convolution."""

    node: str
    op: str
    initializer: str  # or the output of a Constant node; "" where the weight is computed
    shape: tuple[int, ...]
    axis: int
    groups: int
    dtype: int  # onnx.TensorProto's
    elsewhere: bool = False  # its values are in another file
    inside: str = ""  # the node whose nested graph (If, Loop, Scan) holds the layer

    @property
    def channels(self) -> int:
        """Input channels that one output sees."""
        held = self.shape[self.axis]
        return held // self.groups if self.op == "ConvTranspose" else held


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(one.i) for one in node.attribute if one.name == name), default)


def name_of(node: onnx.NodeProto) -> str:
    """What a person finds the node by."""
    return str(node.name) or f"{node.op_type} of {node.output[0]}"


def weights_of(model: onnx.ModelProto) -> list[Weight]:
    """The weight of every Conv, ConvTranspose, Gemm and MatMul, in graph order; a shared one once a node."""
    return list(_of_graph(model.graph, {}, set(), ""))


def _of_graph(
    graph: onnx.GraphProto, outer: dict[str, onnx.TensorProto], outer_fixed: set[str], inside: str
) -> Iterator[Weight]:
    held = {**outer, **stored(graph)}
    fixed = outer_fixed | _fixed(graph, outer_fixed)
    for node in graph.node:
        for nested in _nested(node):
            yield from _of_graph(nested, held, fixed, inside or name_of(node))
        if (operand := _weight_operand(node, fixed)) is None:
            continue
        place, axis = operand
        tensor = held.get(node.input[place])
        shape = tuple(tensor.dims) if tensor is not None else ()
        yield Weight(
            node=name_of(node),
            op=node.op_type,
            initializer=node.input[place] if tensor is not None else "",
            shape=shape,
            axis=axis % len(shape) if len(shape) > 1 else 0,
            groups=attribute(node, "group", 1),
            dtype=tensor.data_type if tensor is not None else 0,
            elsewhere=tensor is not None and is_elsewhere(tensor),
            inside=inside,
        )


def _nested(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [graph for one in node.attribute for graph in ([one.g] if one.HasField("g") else list(one.graphs))]


def _fixed(graph: onnx.GraphProto, outer: set[str]) -> set[str]:
    """Names of what depends on no input: stored tensors, and all that is computed from them alone."""
    fixed = {*outer, *stored(graph)}
    for node in graph.node:  # in topological order, as ONNX demands
        if not _nested(node) and all(name in fixed or not name for name in node.input):
            fixed.update(node.output)
    return fixed


def _weight_operand(node: onnx.NodeProto, fixed: set[str]) -> tuple[int, int] | None:
    """Which input is the weight, and its input-channel axis; None for a node without a weight."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        return 1, 1 if node.op_type == "Conv" else 0
    if node.op_type not in ("Gemm", "MatMul"):
        return None
    if node.input[1] in fixed:  # [.., in, out], or [out, in] where transposed
        return 1, -1 if attribute(node, "transB", 0) else -2
    if node.input[0] in fixed:  # [.., out, in], or [in, out] where transposed
        return 0, -2 if attribute(node, "transA", 0) else -1
    return None  # a product of two activations


def why_not(weight: Weight, pattern: NMPattern) -> str:
    """Why the pattern can't be applied to that weight; "" where it can."""
    if weight.inside:
        return f"it is in a graph nested in {weight.inside}"
    if not weight.initializer:
        return "its weight is computed, not stored"
    if weight.elsewhere:
        return "its weight is in another file that was not loaded"
    if len(weight.shape) < 2:
        return f"its weight has {len(weight.shape)} dimension"
    if weight.dtype not in FLOATS:
        return f"its weight is {onnx.TensorProto.DataType.Name(weight.dtype)}, not float16, float32 or float64"
    if weight.channels < pattern.m:
        each = " a group" if weight.groups > 1 else ""
        return f"{weight.channels} input channels{each}, fewer than {pattern.m}"
    if weight.op == "ConvTranspose" and weight.groups > 1 and weight.channels % pattern.m:
        return f"groups of {weight.channels} input channels do not divide into {pattern.m}"
    return ""


def split(model: onnx.ModelProto, pattern: NMPattern) -> tuple[list[Weight], list[tuple[Weight, str]]]:
    """Weights that the pattern applies to (each initializer once), and the others with their reasons."""
    found = [(weight, why_not(weight, pattern)) for weight in weights_of(model)]
    axes: dict[str, set[int]] = {}
    for weight, _ in found:
        axes.setdefault(weight.initializer, set()).add(weight.axis)
    barred = {weight.initializer for weight, reason in found if reason}
    read = _read_otherwise(model.graph)
    eligible: dict[str, Weight] = {}
    others = []
    for weight, own in found:
        reason = own
        if not reason and len(axes[weight.initializer]) > 1:
            reason = "its weight is shared with a layer that reads it along another axis"
        if not reason and weight.initializer in barred:
            reason = "its weight is shared with a layer that can't follow the pattern"
        if not reason and weight.initializer in read:
            reason = f"its weight is also {read[weight.initializer]}"
        if reason:
            others.append((weight, reason))
        else:
            eligible.setdefault(weight.initializer, weight)
    return list(eligible.values()), others


def _read_otherwise(graph: onnx.GraphProto) -> dict[str, str]:
    """Name -> who else reads it, of all that is read other than as a weight: zeros there would change another thing."""
    fixed = _fixed(graph, set())
    read = {value.name: "an output of the graph" for value in graph.output}
    for node in graph.node:
        operand = _weight_operand(node, fixed)
        for place, name in enumerate(node.input):
            if operand is None or place != operand[0]:
                read.setdefault(name, f"read by {name_of(node)}")
        for nested in _nested(node):
            read |= {name: f"read inside {name_of(node)}" for name in _names_read(nested)}
    return read


def _names_read(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that the graph's nodes and outputs read, nested ones too; its own names do no harm here."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for nested in _nested(node):
            yield from _names_read(nested)


def check_pattern(model: onnx.ModelProto, pattern: NMPattern) -> list[tuple[Weight, list[Violation]]]:
    """Every weight the pattern applies to and breaks, with the groups that break it."""
    held = stored(model.graph)
    found = [
        (weight, pattern.violations(values(held[weight.initializer], weight.initializer), weight.axis))
        for weight in split(model, pattern)[0]
    ]
    return [(weight, groups) for weight, groups in found if groups]
