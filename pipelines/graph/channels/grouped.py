"""Grouped and depthwise layers: each group reads its own segment of the channels with its own rows of the weight."""

from __future__ import annotations

import onnx

from pipelines.graph.channels.elementwise import cut_otherwise
from pipelines.graph.channels.parts import Parts, scaled
from pipelines.graph.channels.trace import Block, Trace, Unfollowed


def grouped(trace: Trace, node: onnx.NodeProto, groups: int, transposed: bool) -> Parts:
    """Joins data [N, C, ...] with a weight of `groups` > 1 groups; returns what lies along the output channels.

    Conv: weight [K, C/groups, ...], of which rows g * K/groups .. read segment g of the inputs. ConvTranspose:
    weight [C, K/groups, ...], of which rows g * C/groups .. write segment g of the outputs. With one input channel a
    group (depthwise) the groups themselves can be reordered; else the channels inside each group.
    """
    data, (rows, inside) = trace.axes(node.input[0])[1], trace.axes(node.input[1])[:2]
    if data is None or rows is None or inside is None:
        raise Unfollowed("its channels are not counted in the file")
    channels, height, width = (trace.algebra.length(one) for one in (data, rows, inside))
    if height % groups or channels != (height if transposed else width * groups):
        raise Unfollowed(f"a weight of {height} x {width} in {groups} groups does not fit {channels} channels")
    if channels == groups:
        return _depthwise(trace, node, transposed, (data, rows, inside))
    blocks = _blocks(trace, node.input[1], groups, (height, width))
    per_row = tuple(part for block in blocks for part in block.parts)
    per_group = height // groups
    segments = [trace.algebra.segment(rows, at, at + per_group) for at in range(0, height, per_group)]
    trace.mark(node.input[1], 0, "consumer" if transposed else "producer", node)
    trace.mark(node.input[1], 1, "producer" if transposed else "consumer", node)
    outputs = tuple(part for segment in segments for part in segment)
    if transposed:
        outputs, per_row = per_row, outputs
    trace.join(data, per_row, cut_otherwise(node))
    return outputs


def _depthwise(trace: Trace, node: onnx.NodeProto, transposed: bool, axes: tuple[Parts, Parts, Parts]) -> Parts:
    """Channel c makes outputs c * multiplier .. : the input's channels are the output's."""
    data, rows, inside = axes
    trace.mark(node.input[1], 0, "producer", node)
    trace.pin(inside, "it is the multiplier of a depthwise layer")
    if transposed:
        trace.join(data, rows, cut_otherwise(node))
        return scaled(data, trace.algebra.length(inside))
    multiplier = trace.algebra.length(rows) // trace.algebra.length(data)
    trace.join(scaled(data, multiplier), rows, cut_otherwise(node))
    return rows


def _blocks(trace: Trace, weight: str, groups: int, size: tuple[int, int]) -> tuple[Block, ...]:
    """Axis 1 of a weight once a group: its own variable each, shared by all layers that read the weight alike."""
    height, width = size
    step = height // groups
    known = trace.blocks.setdefault(
        weight,
        tuple(Block((at, at + step), ((trace.algebra.fresh(width), 1),)) for at in range(0, height, step)),
    )
    if len(known) != groups:
        raise Unfollowed(f"{weight} is read in {groups} groups here and in {len(known)} elsewhere")
    return known
