"""What the passes share: what they work towards, and small surgery on a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx

from pipelines.graph.facts import all_nodes


@dataclass(frozen=True)
class Goal:
    """What the fixed network must be. `input_shape` None: not known, the file's own shape stays."""

    opset: tuple[int, int]  # lowest and highest
    ir_version: int  # highest
    input_shape: tuple[int, ...] | None = None
    name_length: int | None = None


Pass = Callable[[onnx.ModelProto, Goal], tuple[onnx.ModelProto, list[str]]]


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that a pass may change."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def names_read(graph: onnx.GraphProto) -> set[str]:
    """Every name that a node or an output reads, in nested graphs too."""
    read = {value.name for value in graph.output}
    for node in all_nodes(graph):
        read.update(node.input)
        for one in node.attribute:
            for nested in [one.g] if one.HasField("g") else one.graphs:
                read.update(value.name for value in nested.output)
    return read - {""}


def names_inside(graph: onnx.GraphProto) -> set[str]:
    """Names that nested graphs read, whether they are their own or the outer graph's."""
    read: set[str] = set()
    for node in graph.node:
        for one in node.attribute:
            for nested in [one.g] if one.HasField("g") else one.graphs:
                read |= names_read(nested)
    return read


def all_names(graph: onnx.GraphProto) -> set[str]:
    """Every name of a tensor or a node, nested graphs' nodes included."""
    values = (*graph.input, *graph.output, *graph.value_info)
    taken = {value.name for value in values} | {tensor.name for tensor in graph.initializer}
    for node in all_nodes(graph):
        taken |= {node.name, *node.input, *node.output}
    return taken - {""}


def new_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, with a number behind it where that is taken; it is then taken."""
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    taken.add(name)
    return name


def replace_nodes(graph: onnx.GraphProto, replacements: Mapping[int, list[onnx.NodeProto]]) -> None:
    """Put these nodes where the node at that place stood; none removes it."""
    kept = [one for place, node in enumerate(graph.node) for one in replacements.get(place, [node])]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(nodes)


def without_unread(graph: onnx.GraphProto) -> None:
    """Take out initializers that nobody reads, and shapes of tensors that are no more."""
    read = names_read(graph)
    made = {name for node in graph.node for name in node.output}
    tensors = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in read]
    shapes = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in graph.value_info if v.name in made]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(tensors)
    graph.value_info.extend(shapes)
