"""Which weights of an ONNX graph have an input-channel axis, and which of them can follow an N:M pattern."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import onnx

from pipelines.graph.sources import FLOATS, LEVELS, Source, is_pass, sources, zero_point_fault
from pipelines.graph.tensors import is_elsewhere, stored, values
from pipelines.sparsity.pattern import NMPattern, Violation

KEPT = "kept dense, as asked"
_CONVOLUTIONS = {"Conv": (1, 1), "ConvTranspose": (1, 0), "ConvInteger": (1, 1), "QLinearConv": (3, 1)}  # input, axis
_PRODUCTS = {"Gemm": (0, 1), "MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}  # both operands
_ZERO_POINTS = {("ConvInteger", 1): 3, ("QLinearConv", 3): 5, ("QLinearMatMul", 0): 2, ("QLinearMatMul", 3): 5} | {
    ("MatMulInteger", 0): 2,
    ("MatMulInteger", 1): 3,
}


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
    quantised: bool = False  # stored as levels that are scaled to numbers
    fault: str = ""  # why a stored zero would be no zero of the weight

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
    """The weight of every convolution and matrix product, in graph order; a shared one once a node."""
    return list(_of_graph(model.graph, {}, {}, set(), ""))


def _of_graph(
    graph: onnx.GraphProto,
    outer: Mapping[str, onnx.TensorProto],
    outer_sources: Mapping[str, Source],
    outer_fixed: set[str],
    inside: str,
) -> Iterator[Weight]:
    held = {**outer, **stored(graph)}
    found = sources(graph, held, outer_sources)
    fixed = outer_fixed | _fixed(graph, outer_fixed)
    for node in graph.node:
        for nested in _nested(node):
            yield from _of_graph(nested, held, found, fixed, inside or name_of(node))
        if (operand := _weight_operand(node, fixed)) is not None:
            yield _weight(node, *operand, held, found, inside)


def _weight(
    node: onnx.NodeProto,
    place: int,
    axis: int,
    held: Mapping[str, onnx.TensorProto],
    found: Mapping[str, Source],
    inside: str,
) -> Weight:
    source = found.get(node.input[place])
    tensor = held[source.name] if source is not None else None
    shape = tuple(tensor.dims) if tensor is not None else ()
    its_axis = axis % len(shape) if len(shape) > 1 else 0
    quantised, fault = (source.quantised, source.fault) if source is not None else (False, "")
    if (point := _ZERO_POINTS.get((node.op_type, place))) is not None:
        quantised = True
        fault = fault or zero_point_fault(node.input[point] if len(node.input) > point else "", held)
    if source is not None and source.scale_axis is not None and source.scale_axis % max(len(shape), 1) == its_axis:
        fault = fault or "its quantisation scale changes along the input channels"
    return Weight(
        node=name_of(node),
        op=node.op_type,
        initializer=source.name if source is not None else "",
        shape=shape,
        axis=its_axis,
        groups=attribute(node, "group", 1),
        dtype=tensor.data_type if tensor is not None else 0,
        elsewhere=tensor is not None and is_elsewhere(tensor),
        inside=inside,
        quantised=quantised,
        fault=fault,
    )


def _nested(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [graph for one in node.attribute for graph in ([one.g] if one.HasField("g") else list(one.graphs))]


def _fixed(graph: onnx.GraphProto, outer: set[str]) -> set[str]:
    """Names of what depends on no input: stored tensors, and all that is computed from them alone."""
    sparse = {one.values.name for one in graph.sparse_initializer}
    fixed = {*outer, *stored(graph), *sparse}
    for node in graph.node:  # in topological order, as ONNX demands
        if not _nested(node) and all(name in fixed or not name for name in node.input):
            fixed.update(node.output)
    return fixed


def _weight_operand(node: onnx.NodeProto, fixed: set[str]) -> tuple[int, int] | None:
    """Which input is the weight, and its input-channel axis; None for a node without a weight."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in _CONVOLUTIONS:
        return _CONVOLUTIONS[node.op_type]
    if node.op_type not in _PRODUCTS:
        return None
    left, right = _PRODUCTS[node.op_type]
    if node.input[right] in fixed:  # [.., in, out], or [out, in] where transposed
        return right, -1 if attribute(node, "transB", 0) else -2
    if node.input[left] in fixed:  # [.., out, in], or [in, out] where transposed
        return left, -2 if attribute(node, "transA", 0) else -1
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
    if 0 in weight.shape:
        return "its weight is empty"
    if weight.dtype not in (FLOATS | LEVELS if weight.quantised else FLOATS):
        return f"its weight is {onnx.TensorProto.DataType.Name(weight.dtype)}, not float16, float32 or float64"
    if weight.fault:
        return weight.fault
    if weight.channels < pattern.m:
        each = " a group" if weight.groups > 1 else ""
        return f"{weight.channels} input channels{each}, fewer than {pattern.m}"
    if weight.op == "ConvTranspose" and weight.groups > 1 and weight.channels % pattern.m:
        return f"groups of {weight.channels} input channels do not divide into {pattern.m}"
    return ""


def classified(
    model: onnx.ModelProto, pattern: NMPattern, keep: Collection[str] = (), *, within_reach: bool = False
) -> list[tuple[Weight, str]]:
    """Every weight in graph order with the reason why it stays dense, "" where it takes the pattern.

    `keep`: node names of layers to leave dense. `within_reach`: values in other files can be read as they are needed.
    A weight that several layers share stands once where it takes the pattern.
    """
    weights = weights_of(model)
    if within_reach:
        weights = [replace(weight, elsewhere=False) for weight in weights]
    found = [(weight, why_not(weight, pattern) or (KEPT if weight.node in keep else "")) for weight in weights]
    axes: dict[str, set[int]] = {}
    for weight, _ in found:
        axes.setdefault(weight.initializer, set()).add(weight.axis)
    barred = {weight.initializer for weight, reason in found if reason}
    read = _read_otherwise(model.graph)
    told: list[tuple[Weight, str]] = []
    taken: set[str] = set()
    for weight, own in found:
        reason = own
        if not reason and len(axes[weight.initializer]) > 1:
            reason = "its weight is shared with a layer that reads it along another axis"
        if not reason and weight.initializer in barred:
            reason = "its weight is shared with a layer that can't follow the pattern"
        if not reason and weight.initializer in read:
            reason = f"its weight is also {read[weight.initializer]}"
        if reason or weight.initializer not in taken:
            told.append((weight, reason))
        if not reason:
            taken.add(weight.initializer)
    return told


def split(
    model: onnx.ModelProto, pattern: NMPattern, keep: Collection[str] = ()
) -> tuple[list[Weight], list[tuple[Weight, str]]]:
    """Weights that take the pattern (each initializer once), and the others with their reasons; `keep` as above."""
    told = classified(model, pattern, keep)
    return [weight for weight, reason in told if not reason], [one for one in told if one[1]]


def _read_otherwise(graph: onnx.GraphProto) -> dict[str, str]:
    """Name -> who else reads it, of all that is read other than as a weight: zeros there would change another thing."""
    fixed = _fixed(graph, set())
    read = {value.name: "an output of the graph" for value in graph.output}
    for node in graph.node:
        operand = _weight_operand(node, fixed)
        for place, name in enumerate(node.input):
            if (operand is None or place != operand[0]) and not (is_pass(node) and place == 0):
                read.setdefault(name, f"read by {name_of(node)}")
        for nested in _nested(node):
            read |= {name: f"read inside {name_of(node)}" for name in _names_read(nested)}
    for node in reversed(graph.node):  # who reads what a pass hands on reads what is behind it
        if is_pass(node) and node.output[0] in read:
            read.setdefault(node.input[0], read[node.output[0]])
    return read


def _names_read(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that the graph's nodes and outputs read, nested ones too; its own names do no harm here."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for nested in _nested(node):
            yield from _names_read(nested)


def check_pattern(
    model: onnx.ModelProto, pattern: NMPattern, keep: Collection[str] = ()
) -> list[tuple[Weight, list[Violation]]]:
    """Every weight that should have the pattern and breaks it, with the groups that break it."""
    held = stored(model.graph)
    found = [
        (weight, pattern.violations(values(held[weight.initializer], weight.initializer), weight.axis))
        for weight in split(model, pattern, keep)[0]
    ]
    return [(weight, groups) for weight, groups in found if groups]
