"""Reductions: an axis that is summed over is lost, and its order never mattered."""

from __future__ import annotations

import onnx

from pipelines.graph.channels.folding import attributes
from pipelines.graph.channels.trace import Axis, Rule, Trace, Unfollowed
from pipelines.graph.weights import name_of


def given_axes(trace: Trace, node: onnx.NodeProto, rank: int, place: int = 1) -> set[int] | None:
    """The axes that an attribute or a later input names, counted from the front; None where none are named."""
    axes = attributes(node).get("axes")
    if axes is None and len(node.input) > place and node.input[place]:
        if (value := trace.known.get(node.input[place])) is None:
            raise Unfollowed("its axes are computed")
        axes = value.ravel().tolist()
    return None if axes is None else {axis % rank for axis in axes}


def reduction(trace: Trace, node: onnx.NodeProto) -> None:
    """ReduceSum and its kin; without axes all of them, or none where noop_with_empty_axes says so."""
    axes = trace.axes(node.input[0])
    gone = given_axes(trace, node, len(axes))
    if not gone:
        gone = set() if attributes(node).get("noop_with_empty_axes") else set(range(len(axes)))
    trace.give(node.output[0], _without(trace, node, axes, gone))


def arg_reduction(trace: Trace, node: onnx.NodeProto) -> None:
    """ArgMax, ArgMin: the answer is a position along the axis."""
    axes = trace.axes(node.input[0])
    axis = attributes(node).get("axis", 0) % len(axes)
    trace.pin(axes[axis], f"{name_of(node)} ({node.op_type}) gives positions along it")
    trace.give(node.output[0], _without(trace, node, axes, {axis}))


def top_k(trace: Trace, node: onnx.NodeProto) -> None:
    """TopK: values in an order of their own, and positions."""
    axes = list(trace.axes(node.input[0]))
    axis = attributes(node).get("axis", -1) % len(axes)
    reason = f"{name_of(node)} (TopK) gives positions along it"
    trace.pin(axes[axis], reason)
    axes[axis] = trace.fixed(trace.shape(node.output[0])[axis], reason)
    for name in node.output:
        trace.give(name, axes)


def _without(trace: Trace, node: onnx.NodeProto, axes: tuple[Axis, ...], gone: set[int]) -> list[Axis]:
    if attributes(node).get("keepdims", 1):
        return [trace.fixed(1) if place in gone else axis for place, axis in enumerate(axes)]
    return [axis for place, axis in enumerate(axes) if place not in gone]


_REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]

RULES: dict[str, Rule] = {
    **dict.fromkeys((f"Reduce{kind}" for kind in _REDUCTIONS), reduction),
    **dict.fromkeys(("ArgMax", "ArgMin"), arg_reduction),
    "TopK": top_k,
}
