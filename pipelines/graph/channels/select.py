"""Operators that take channels apart and put them together: Concat, Split, Slice, Gather, Pad, Expand, Tile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from pipelines.arrays import Array
from pipelines.graph.channels.elementwise import cut_otherwise
from pipelines.graph.channels.folding import Dim, attributes
from pipelines.graph.channels.parts import Parts, scaled
from pipelines.graph.channels.trace import SINGLE, Axis, Rule, Trace, Unfollowed
from pipelines.graph.weights import name_of

_MOST_RUNS = 64  # a Gather of more runs of neighbours than that is no selection of channel blocks


def concat(trace: Trace, node: onnx.NodeProto) -> None:
    """One operand behind the other along `axis`; the other axes go together."""
    operands = [trace.axes(name) for name in node.input]
    at = attributes(node).get("axis", 1) % len(operands[0])
    made = list(operands[0])
    for place in range(len(made)):
        if place == at:
            along = [axes[place] for axes in operands]
            made[place] = None if None in along else tuple(part for axis in along for part in axis or ())
            if made[place] is None:
                for axis in along:
                    trace.pin(axis, f"{name_of(node)} (Concat) puts it beside an axis of unknown length")
            continue
        for axes in operands[1:]:
            trace.join(made[place], axes[place], cut_otherwise(node))
    trace.give(node.output[0], made)


def split(trace: Trace, node: onnx.NodeProto) -> None:
    """Cuts along `axis`, where the outputs' lengths say."""
    axes = trace.axes(node.input[0])
    at = attributes(node).get("axis", 0) % len(axes)
    start = 0
    for name in node.output:
        length = trace.shape(name)[at]
        trace.give(name, (*axes[:at], _segment(trace, axes[at], start, length), *axes[at + 1 :]))
        start += length if isinstance(length, int) else 0


def _segment(trace: Trace, axis: Axis, start: int, length: Dim) -> Axis:
    if axis is None or not isinstance(length, int):
        trace.pin(axis, "it is cut where the file does not say")
        return trace.fixed(length)
    return trace.algebra.segment(axis, start, start + length)


def slice_(trace: Trace, node: onnx.NodeProto) -> None:
    """Starts, ends, axes and steps: attributes before opset 10, inputs since."""
    axes = list(trace.axes(node.input[0]))
    for place, bounds in _bounds(trace, node, len(axes)).items():
        dims = [trace.shape(name)[place] for name in (node.input[0], node.output[0])]
        axes[place] = _sliced(trace, node, axes[place], dims, bounds)
    trace.give(node.output[0], axes)


_Bounds = tuple[int | None, int | None, int | None]  # start, end, step; None where computed


def _bounds(trace: Trace, node: onnx.NodeProto, rank: int) -> dict[int, _Bounds]:
    its = attributes(node)
    names = [*node.input[1:], "", ""][:4]
    if "starts" in its:
        given = [its["starts"], its["ends"], its.get("axes"), None]
    else:
        given = [_listed(trace, name) for name in names]
        if names[2] and given[2] is None:
            raise Unfollowed("its axes are computed")
    count = next((len(one) for one in given if one is not None), 0)
    starts, ends, places, steps = given
    if steps is None and ("starts" in its or not names[3]):
        steps = [1] * count
    nothing = [None] * count
    made = zip(places or range(count), starts or nothing, ends or nothing, steps or nothing, strict=True)
    if not count:
        raise Unfollowed("its bounds are computed")
    return {place % rank: (start, end, step) for place, start, end, step in made}


def _listed(trace: Trace, name: str) -> list[int] | None:
    value = trace.known.get(name) if name else None
    return None if value is None else value.ravel().tolist()


def _sliced(trace: Trace, node: onnx.NodeProto, axis: Axis, dims: Sequence[Dim], bounds: _Bounds) -> Axis:
    before, after = dims
    if axis is None or not isinstance(before, int) or None in bounds:
        trace.pin(axis, f"{name_of(node)} (Slice) takes a part of it that the file does not say")
        return trace.fixed(after)
    return taken(trace, node, axis, np.arange(before)[slice(*bounds)])


def gather(trace: Trace, node: onnx.NodeProto) -> None:
    """Data [..., D, ...] at indices of any rank, whose axes take the place of `axis`."""
    axes = trace.axes(node.input[0])
    at = attributes(node).get("axis", 0) % len(axes)
    index = trace.known.get(node.input[1])
    along = axes[at]
    if index is not None and index.ndim < 2 and along is not None:
        chosen = taken(trace, node, along, index.ravel() % max(1, trace.algebra.length(along)))
        instead: tuple[Axis, ...] = (chosen,) * index.ndim
    else:
        trace.pin(along, f"{name_of(node)} (Gather) picks from it by number")
        instead = trace.axes(node.input[1])
        if node.input[0] in trace.constant and node.input[1] not in trace.constant:  # a table of embeddings
            for place in {*range(len(axes))} - {at}:
                trace.mark(node.input[0], place, "producer", node)
    trace.give(node.output[0], (*axes[:at], *instead, *axes[at + 1 :]))


def taken(trace: Trace, node: onnx.NodeProto, axis: Parts, index: Array) -> Axis:
    """What lies along an axis after a choice of positions: runs of neighbours, or every n-th of all."""
    borders = np.flatnonzero(np.diff(index) != 1) + 1
    if len(borders) < _MOST_RUNS:
        runs = np.split(index, borders) if len(index) else []
        return tuple(part for run in runs for part in trace.algebra.segment(axis, int(run[0]), int(run[-1]) + 1))
    if not trace.algebra.is_free(axis):
        return trace.fixed(len(index), trace.algebra.why(axis) or SINGLE)
    step, length = int(index[1] - index[0]), trace.algebra.length(axis)
    if step > 1 and index[0] < step and len(index) * step == length and (np.diff(index) == step).all():
        made = ((trace.algebra.fresh(len(index)), 1),)
        trace.join(axis, scaled(made, step), cut_otherwise(node))
        return made
    reason = f"{name_of(node)} ({node.op_type}) takes single channels of it"
    trace.pin(axis, reason)
    return trace.fixed(len(index), reason)


def pad(trace: Trace, node: onnx.NodeProto) -> None:
    """Pads before and after each axis: the attribute before opset 11, an input since; axes may be named since 18."""
    axes = list(trace.axes(node.input[0]))
    its = attributes(node)
    pads = its["pads"] if "pads" in its else _known(trace, node.input[1])
    places = _known(trace, node.input[3]) if len(node.input) > 3 and node.input[3] else range(len(axes))
    constant = its.get("mode", b"constant") == b"constant"
    for number, place in enumerate(places):
        before, after = pads[number], pads[number + len(places)]
        if (before, after) != (0, 0):
            dim = trace.shape(node.output[0])[place]
            axes[place] = _padded(trace, node, axes[place], (before, after) if constant else None, dim)
    trace.give(node.output[0], axes)


def _padded(trace: Trace, node: onnx.NodeProto, axis: Axis, pads: tuple[int, int] | None, dim: Dim) -> Axis:
    """Equal values before and after may be in any order; copies of what is inside (pads None) may not."""
    if axis is None or not trace.algebra.is_free(axis):
        return trace.fixed(dim, (trace.algebra.why(axis) if axis else "") or SINGLE)
    if pads is None:
        reason = f"{name_of(node)} (Pad) copies channels"
        trace.pin(axis, reason)
        return trace.fixed(dim, reason)
    length = trace.algebra.length(axis)
    kept = trace.algebra.segment(axis, max(0, -pads[0]), length - max(0, -pads[1]))
    before, after = (((trace.algebra.fresh(count), 1),) if count > 0 else () for count in pads)
    return (*before, *kept, *after)


def _known(trace: Trace, name: str) -> list[int]:
    if (value := _listed(trace, name)) is None:
        raise Unfollowed(f"{name} is computed")
    return value


def expand(trace: Trace, node: onnx.NodeProto) -> None:
    """Axes of length 1 are repeated; what is repeated has a fixed order."""
    axes, shape = trace.axes(node.input[0]), trace.shape(node.output[0])
    made: list[Axis] = [trace.fixed(dim) for dim in shape]
    for place in range(-len(axes), 0):
        axis = axes[place]
        if axis is not None and trace.algebra.length(axis) != 1:
            made[place] = axis
    trace.give(node.output[0], made)


def tile(trace: Trace, node: onnx.NodeProto) -> None:
    """Each axis, some times over."""
    made: list[Axis] = []
    for axis, dim in zip(trace.axes(node.input[0]), trace.shape(node.output[0]), strict=True):
        length = 0 if axis is None else trace.algebra.length(axis)
        if axis is None or not isinstance(dim, int) or length == 0:
            trace.pin(axis, "it is repeated how often the file does not say")
            made.append(trace.fixed(dim))
        else:
            made.append(trace.fixed(dim) if length == 1 else axis * (dim // length))
    trace.give(node.output[0], made)


RULES: dict[str, Rule] = {
    "Concat": concat,
    "Expand": expand,
    "Gather": gather,
    "Pad": pad,
    "Slice": slice_,
    "Split": split,
    "Tile": tile,
}
