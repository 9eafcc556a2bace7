"""Normalisation operators with parameters: one a channel."""

from __future__ import annotations

import onnx

from pipelines.graph.channels.elementwise import cut_otherwise, joined
from pipelines.graph.channels.folding import attributes
from pipelines.graph.channels.trace import Axis, Rule, Trace, Unfollowed
from pipelines.graph.weights import name_of


def by_channel(trace: Trace, node: onnx.NodeProto) -> None:
    """BatchNormalization, InstanceNormalization: data [N, C, ...] and vectors [C]; running statistics come out too."""
    if trace.opset < 9 and attributes(node).get("spatial", 1) == 0:
        raise Unfollowed("it normalises every position by itself (spatial = 0)")
    axes = trace.axes(node.input[0])
    for name in node.input[1:]:
        trace.join(axes[1], trace.axes(name)[0], cut_otherwise(node))
    trace.give(node.output[0], axes)
    for name in node.output[1:]:
        trace.give(name, (axes[1],))


def layer_norm(trace: Trace, node: onnx.NodeProto) -> None:
    """LayerNormalization: scale and bias as long as the axes from `axis` on; mean and deviation lose these."""
    axes = trace.axes(node.input[0])
    first = attributes(node).get("axis", -1) % len(axes)
    trace.give(node.output[0], joined(trace, node, [axes, *(trace.axes(name) for name in node.input[1:] if name)]))
    ones: list[Axis] = [trace.fixed(1)] * (len(axes) - first)
    for name in node.output[1:]:
        trace.give(name, (*axes[:first], *ones))


def group_norm(trace: Trace, node: onnx.NodeProto) -> None:
    """GroupNormalization: channels stay within their group; scale and bias, one a channel, or one a group before 21."""
    axes = trace.axes(node.input[0])
    groups = attributes(node)["num_groups"]
    if (channels := axes[1]) is None:
        raise Unfollowed("its channels are not counted in the file")
    length = trace.algebra.length(channels)
    if length % groups:
        raise Unfollowed(f"{length} channels in {groups} groups")
    step = length // groups
    inside = [part for at in range(0, length, step) for part in trace.algebra.segment(channels, at, at + step)]
    for name in node.input[1:]:
        (scale,) = trace.axes(name)
        if trace.shape(name) == (length,):
            trace.join(tuple(inside), scale, cut_otherwise(node))
        else:
            trace.pin(scale, f"{name_of(node)} has one a group")
    trace.give(node.output[0], (axes[0], tuple(inside), *axes[2:]))


def local_response(trace: Trace, node: onnx.NodeProto) -> None:
    """LRN: each channel is divided by its neighbours' energy."""
    axes = trace.axes(node.input[0])
    trace.pin(axes[1], f"{name_of(node)} (LRN) mixes neighbouring channels")
    trace.give(node.output[0], axes)


RULES: dict[str, Rule] = {
    "BatchNormalization": by_channel,
    "GroupNormalization": group_norm,
    "InstanceNormalization": by_channel,
    "LRN": local_response,
    "LayerNormalization": layer_norm,
}
