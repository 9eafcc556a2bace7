"""Operators over positions: pooling, resizing, and the exchange of positions and channels."""

from __future__ import annotations

import onnx

from pipelines.graph.channels.elementwise import cut_otherwise
from pipelines.graph.channels.folding import attributes
from pipelines.graph.channels.parts import scaled
from pipelines.graph.channels.trace import POSITIONS, Axis, Rule, Trace, Unfollowed
from pipelines.graph.weights import name_of


def _positions(trace: Trace, node: onnx.NodeProto, rank: int) -> list[Axis]:
    shape = trace.shapes.get(node.output[0]) or (None,) * rank
    return [trace.fixed(dim) for dim in shape[2:]]


def pool(trace: Trace, node: onnx.NodeProto) -> None:
    """Each channel by itself, over windows of positions."""
    axes = trace.axes(node.input[0])
    for axis in axes[2:]:
        trace.pin(axis, POSITIONS)
    made = (*axes[:2], *_positions(trace, node, len(axes)))
    if len(node.output) > 1 and node.output[1]:  # flat indices count the channels before
        trace.pin(axes[1], f"{name_of(node)} ({node.op_type}) gives the index of each maximum")
        trace.give(node.output[1], made)
    trace.give(node.output[0], made)


def global_pool(trace: Trace, node: onnx.NodeProto) -> None:
    """Each channel by itself, over all positions in any order."""
    axes = trace.axes(node.input[0])
    trace.give(node.output[0], (*axes[:2], *(trace.fixed(1) for _ in axes[2:])))


def resize(trace: Trace, node: onnx.NodeProto) -> None:
    """Resize, Upsample: an axis that keeps its length keeps its channels."""
    its = attributes(node)
    if its.get("coordinate_transformation_mode") == b"tf_crop_and_resize":
        raise Unfollowed("it crops")
    axes = trace.axes(node.input[0])
    made: list[Axis] = []
    for axis, before, after in zip(axes, trace.shape(node.input[0]), trace.shape(node.output[0]), strict=True):
        unchanged = before == after and before is not None
        if not unchanged:
            trace.pin(axis, POSITIONS)
        made.append(axis if unchanged else trace.fixed(after))
    trace.give(node.output[0], made)


def depth_to_space(trace: Trace, node: onnx.NodeProto) -> None:
    """Channels [b, b, C] (DCR) or [C, b, b] (CRD) become C channels and positions."""
    batch, channels, *positions = trace.axes(node.input[0])
    block = attributes(node)["blocksize"] ** 2
    if channels is None or trace.algebra.length(channels) % block:
        raise Unfollowed("its channels are not counted in the file, or do not divide into blocks")
    inner = attributes(node).get("mode", b"DCR") == b"CRD"
    made = ((trace.algebra.fresh(trace.algebra.length(channels) // block), 1),)
    trace.join(channels, scaled(made, block) if inner else made * block, cut_otherwise(node))
    for axis in positions:
        trace.pin(axis, POSITIONS)
    trace.give(node.output[0], (batch, made, *_positions(trace, node, 4)))


def space_to_depth(trace: Trace, node: onnx.NodeProto) -> None:
    """C channels and positions become channels [b, b, C]."""
    batch, channels, *positions = trace.axes(node.input[0])
    if channels is None:
        raise Unfollowed("its channels are not counted in the file")
    for axis in positions:
        trace.pin(axis, POSITIONS)
    made = channels * attributes(node)["blocksize"] ** 2
    trace.give(node.output[0], (batch, made, *_positions(trace, node, 4)))


RULES: dict[str, Rule] = {
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"), global_pool),
    **dict.fromkeys(("Resize", "Upsample"), resize),
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
