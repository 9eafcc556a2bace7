"""Graph passes: one operator's form for another that tools know better. Each node is changed by itself."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipelines.arrays import Array
from pipelines.graph.facts import Graph
from pipelines.graph.fix.base import Goal, all_names, copied, names_inside, new_name, replace_nodes, without_unread
from pipelines.graph.weights import name_of

CLIP_INPUTS = 11  # the opset in which Clip's bounds became inputs
SOFTMAX_AXIS = 13  # and that in which Softmax stopped flattening


def drop_identities(model: onnx.ModelProto, goal: Goal) -> tuple[onnx.ModelProto, list[str]]:
    """Identity, and Dropout, which does nothing in inference, are gone; a graph's output keeps its name."""
    del goal
    made = copied(model)
    graph = Graph(made)
    inside, outputs = names_inside(made.graph), set(graph.outputs)
    instead: dict[str, str] = {}
    gone: dict[int, list[onnx.NodeProto]] = {}
    for place, node in enumerate(made.graph.node):
        for at, name in enumerate(node.input):
            node.input[at] = instead.get(name, name)
        if not _hands_on(node, graph) or node.output[0] in outputs or node.output[0] in inside:
            continue
        instead[node.output[0]] = node.input[0]
        gone[place] = []
    told = [f"{name_of(made.graph.node[place])} is gone" for place in gone]
    replace_nodes(made.graph, gone)
    without_unread(made.graph)
    return made, told


def min_max_to_clip(model: onnx.ModelProto, goal: Goal) -> tuple[onnx.ModelProto, list[str]]:
    """Max with one stored number is Clip from below, Min is Clip from above; two behind each other are one.

    The first of two may be a Relu: ReLU6 is exported as Min(Relu(x), 6) at times.
    """
    del goal
    made = copied(model)
    graph, taken = Graph(made), all_names(made.graph)
    single = set(graph.outputs) | names_inside(made.graph)
    gone: dict[int, list[onnx.NodeProto]] = {}
    places = {id(node): place for place, node in enumerate(graph.nodes)}
    told = []
    for place, node in enumerate(graph.nodes):
        if place in gone or (own := _bound(node, graph)) is None:
            continue
        name, bounds, last = own[0], own[1], node
        readers = graph.consumers(node.output[0])
        if len(readers) == 1 and node.output[0] not in single and (more := _bound(readers[0], graph)) is not None:
            last, bounds = readers[0], _both(bounds, more[1])
            gone[place] = []
        if bounds[0] > bounds[1] or (last is node and node.op_type == "Relu"):
            gone.pop(place, None)
            continue  # Clip can't say that order; and a Relu alone is known everywhere
        gone[places[id(last)]] = [_clip(name, last, bounds, graph.opset, made.graph, taken)]
        told.append(f"{name_of(last)} is Clip {bounds[0]:g}..{bounds[1]:g}")
    replace_nodes(made.graph, gone)
    without_unread(made.graph)
    return made, told


def softmax_last(model: onnx.ModelProto, goal: Goal) -> tuple[onnx.ModelProto, list[str]]:
    """Softmax and LogSoftmax along another axis than the last: that axis is brought there and back."""
    del goal
    made = copied(model)
    graph, taken = Graph(made), all_names(made.graph)
    gone: dict[int, list[onnx.NodeProto]] = {}
    for place, node in enumerate(made.graph.node):
        shape = graph.static(node.input[0]) if node.op_type in ("Softmax", "LogSoftmax") else None
        if not shape:
            continue
        axis = graph.attribute(node, "axis", -1 if graph.opset >= SOFTMAX_AXIS else 1) % len(shape)
        if axis == len(shape) - 1:
            continue
        if graph.opset >= SOFTMAX_AXIS:
            order = list(range(len(shape)))
            order[axis], order[-1] = order[-1], order[axis]
            gone[place] = _around(node, "Transpose", {"perm": order}, {"perm": order}, len(shape) - 1, taken)
        else:  # it flattens: all from the axis on is one row
            ends = [np.array(one, np.int64) for one in ((prod(shape[:axis]), prod(shape[axis:])), shape)]
            gone[place] = _around(node, "Reshape", {}, {}, 1, taken)
            for reshape, end in zip((gone[place][0], gone[place][2]), ends, strict=True):
                reshape.input.append(_store(made.graph, end, f"{node.output[0]}_shape", taken))
    told = [f"{name_of(made.graph.node[place])} works along the last axis" for place in gone]
    replace_nodes(made.graph, gone)
    return made, told


def short_indices(model: onnx.ModelProto, goal: Goal) -> tuple[onnx.ModelProto, list[str]]:
    """Stored indices of Gather and GatherElements are int32 where they fit; ONNX takes both."""
    del goal
    made = copied(model)
    graph, taken = Graph(made), all_names(made.graph)
    told = []
    for node in made.graph.node:
        if node.op_type not in ("Gather", "GatherElements"):
            continue
        value = graph.value(node.input[1])
        if value is None or value.dtype != np.int64 or not _fits(value):
            continue
        node.input[1] = _store(made.graph, value.astype(np.int32), f"{node.input[1]}_int32", taken)
        told.append(f"{name_of(node)} has int32 indices")
    without_unread(made.graph)
    return made, told


def _hands_on(node: onnx.NodeProto, graph: Graph) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type != "Dropout" or any(graph.consumers(name) for name in node.output[1:]):
        return False
    if len(node.output) > 1 and node.output[1] in graph.outputs:
        return False
    if not (training := graph.given(node, 2)):
        return True
    value = graph.value(training)
    return value is not None and not value.any()


def _bound(node: onnx.NodeProto, graph: Graph) -> tuple[str, tuple[float, float]] | None:
    """What a node clips and to which bounds; None for one that does not clip to stored float32 numbers."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("Min", "Max", "Relu"):
        return None
    if node.op_type == "Relu":
        return (node.input[0], (0.0, float("inf"))) if _single(node.input[0], graph) else None
    stored = [name for name in node.input if graph.is_stored(name)]
    others = [name for name in node.input if not graph.is_stored(name)]
    if len(stored) != 1 or len(others) != 1 or not _single(others[0], graph):
        return None
    value, shape = graph.value(stored[0]), graph.shape(others[0])
    if value is None or value.size != 1 or shape is None or value.ndim > len(shape):
        return None
    number = float(value.ravel()[0])
    if np.isnan(number):
        return None
    return others[0], ((number, float("inf")) if node.op_type == "Max" else (float("-inf"), number))


def _single(name: str, graph: Graph) -> bool:
    return graph.dtype(name) == "float32"


def _both(first: tuple[float, float], then: tuple[float, float]) -> tuple[float, float]:
    """The bounds of one clipping behind another; crossed where the second leaves one value of the first."""
    return max(first[0], then[0]), min(first[1], then[1])


def _clip(
    name: str,
    last: onnx.NodeProto,
    bounds: tuple[float, float],
    opset: int,
    graph: onnx.GraphProto,
    taken: set[str],
) -> onnx.NodeProto:
    low, high = (None if np.isinf(one) else one for one in bounds)
    if opset < CLIP_INPUTS:
        stated = {key: one for key, one in (("min", low), ("max", high)) if one is not None}
        return helper.make_node("Clip", [name], [last.output[0]], name=last.name, **stated)
    inputs = [name]
    for key, one in (("min", low), ("max", high)):
        inputs.append("" if one is None else _store(graph, np.array(one, np.float32), f"{last.output[0]}_{key}", taken))
    while not inputs[-1]:
        inputs.pop()
    return helper.make_node("Clip", inputs, [last.output[0]], name=last.name)


def _around(
    node: onnx.NodeProto, op: str, before: dict[str, list[int]], after: dict[str, list[int]], axis: int, taken: set[str]
) -> list[onnx.NodeProto]:
    """`op`, the node along that axis, `op` again."""
    there, back = (new_name(f"{node.output[0]}_{word}", taken) for word in ("there", "back"))
    inner = onnx.NodeProto.FromString(node.SerializeToString())
    del inner.attribute[:]
    inner.attribute.append(helper.make_attribute("axis", axis))
    inner.input[0], inner.output[0] = there, back
    return [
        helper.make_node(op, [node.input[0]], [there], name=new_name(f"{there}_node", taken), **before),
        inner,
        helper.make_node(op, [back], [node.output[0]], name=new_name(f"{back}_node", taken), **after),
    ]


def _store(graph: onnx.GraphProto, array: Array, name: str, taken: set[str]) -> str:
    free = new_name(name, taken)
    graph.initializer.append(numpy_helper.from_array(array, free))
    return free


def _fits(value: Array) -> bool:
    bounds = np.iinfo(np.int32)
    return bool(value.size == 0 or (value.min() >= bounds.min and value.max() <= bounds.max))
