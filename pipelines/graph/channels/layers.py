"""Layers with weights, and products of two activations: what is summed over goes together, the rest is passed on."""

from __future__ import annotations

import onnx

from pipelines.graph.channels.elementwise import cut_otherwise, joined
from pipelines.graph.channels.folding import attributes
from pipelines.graph.channels.grouped import grouped
from pipelines.graph.channels.trace import POSITIONS, Axes, Axis, Rule, Trace, Unfollowed


def convolution(trace: Trace, node: onnx.NodeProto) -> None:
    """Conv: data [N, C, ...], weight [K, C/groups, ...], bias [K]; ConvTranspose: weight [C, K/groups, ...]."""
    data, weight = trace.axes(node.input[0]), trace.axes(node.input[1])
    groups = attributes(node).get("group", 1)
    for axis in (*data[2:], *weight[2:]):
        trace.pin(axis, POSITIONS)
    transposed = node.op_type == "ConvTranspose"
    if groups > 1:
        outputs: Axis = grouped(trace, node, groups, transposed)
    else:
        trace.join(data[1], weight[0 if transposed else 1], cut_otherwise(node))
        outputs = weight[1 if transposed else 0]
        trace.mark(node.input[1], 0, "consumer" if transposed else "producer", node)
        trace.mark(node.input[1], 1, "producer" if transposed else "consumer", node)
    if len(node.input) > 2 and node.input[2]:
        trace.join(outputs, trace.axes(node.input[2])[0], cut_otherwise(node))
    positions = [trace.fixed(dim) for dim in (trace.shapes.get(node.output[0]) or (None,) * len(data))[2:]]
    trace.give(node.output[0], (data[0], outputs, *positions))


def gemm(trace: Trace, node: onnx.NodeProto) -> None:
    """A [M, K] (or transposed) times B [K, N] (or transposed), and C broadcast to [M, N]."""
    its = attributes(node)
    a, b = trace.axes(node.input[0]), trace.axes(node.input[1])
    over_a, over_b = (0 if its.get("transA") else 1), (1 if its.get("transB") else 0)
    trace.join(a[over_a], b[over_b], cut_otherwise(node))
    if (weight := _weight(trace, node)) is not None:
        over = over_b if weight else over_a
        trace.mark(node.input[weight], over, "consumer", node)
        trace.mark(node.input[weight], 1 - over, "producer", node)
    made: Axes = (a[1 - over_a], b[1 - over_b])
    if len(node.input) > 2 and node.input[2]:
        made = joined(trace, node, [made, trace.axes(node.input[2])])
    trace.give(node.output[0], made)


def matmul(trace: Trace, node: onnx.NodeProto) -> None:
    """[..., M, K] times [..., K, N], batches broadcast; a vector has K only."""
    a, b = trace.axes(node.input[0]), trace.axes(node.input[1])
    over_b = 0 if len(b) == 1 else len(b) - 2
    trace.join(a[-1], b[over_b], cut_otherwise(node))
    if (weight := _weight(trace, node)) is not None:
        rank = len(b if weight else a)
        over = over_b if weight else rank - 1
        trace.mark(node.input[weight], over, "consumer", node)
        if rank > 1:
            trace.mark(node.input[weight], rank - 1 if weight else rank - 2, "producer", node)
    batches = joined(trace, node, [a[:-2], b[:-2]])
    trace.give(node.output[0], (*batches, *a[-2:-1], *(b[-1:] if len(b) > 1 else ())))


def einsum(trace: Trace, node: onnx.NodeProto) -> None:
    """Letters that operands share go together; an ellipsis and a letter twice in one operand are not followed."""
    equation = attributes(node)["equation"].decode().replace(" ", "")
    given, arrow, result = equation.partition("->")
    terms = given.split(",")
    if "." in equation or not arrow or any(len(set(term)) != len(term) for term in (*terms, result)):
        raise Unfollowed(f"the equation {equation} can't be followed")
    letters: dict[str, Axis] = {}
    for name, term in zip(node.input, terms, strict=True):
        for letter, axis in zip(term, trace.axes(name), strict=True):
            letters[letter] = joined(trace, node, [(letters[letter],), (axis,)])[0] if letter in letters else axis
    weight = _weight(trace, node) if len(terms) == 2 else None
    if weight is not None:
        for place, letter in enumerate(terms[weight]):
            if letter not in result:
                trace.mark(node.input[weight], place, "consumer", node)
            elif letter not in terms[1 - weight]:
                trace.mark(node.input[weight], place, "producer", node)
    trace.give(node.output[0], tuple(letters[letter] for letter in result))


def _weight(trace: Trace, node: onnx.NodeProto) -> int | None:
    """Which of two operands is the weight: the one that depends on no input of the graph."""
    constant = [name in trace.constant for name in node.input[:2]]
    if constant[1] and not constant[0]:
        return 1
    return 0 if constant[0] and not constant[1] else None


RULES: dict[str, Rule] = {
    "Conv": convolution,
    "ConvTranspose": convolution,
    "Einsum": einsum,
    "Gemm": gemm,
    "MatMul": matmul,
}
