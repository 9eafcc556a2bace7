"""Graph pass: names of plain characters, and not too long."""

from __future__ import annotations

import re

import onnx

from pipelines.graph.facts import all_nodes
from pipelines.graph.fix.base import Goal, all_names, copied, new_name

_PLAIN = re.compile(r"[ -~]*")
ROOM = 8  # characters left for the number that tells two shortened names apart


def is_plain(name: str, length: int | None = None) -> bool:
    """Whether it has printable ASCII characters only, and no more than `length` of them."""
    return _PLAIN.fullmatch(name) is not None and (length is None or len(name) <= length)


def plain_names(model: onnx.ModelProto, goal: Goal) -> tuple[onnx.ModelProto, list[str]]:
    """Other characters become `_`, long names lose their beginning; inputs and outputs of the graph too."""
    made = copied(model)
    names = all_names(made.graph)
    taken = {name for name in names if is_plain(name, goal.name_length)}
    instead = {name: new_name(_plain(name, goal.name_length), taken) for name in sorted(names - taken)}
    if instead:
        _rename(made.graph, instead)
    return made, [f"{name!a} is {other}" for name, other in instead.items()]


def _plain(name: str, length: int | None) -> str:
    plain = re.sub(r"[^ -~]+", "_", name)
    if length is None or len(plain) <= length:
        return plain
    return plain[-(length - ROOM) :]


def _rename(graph: onnx.GraphProto, instead: dict[str, str]) -> None:
    """In the graph and in those nested in it: a nested graph's own names are made anew alike."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = instead.get(value.name, value.name)
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = instead.get(annotation.tensor_name, annotation.tensor_name)
    for node in all_nodes(graph):
        node.name = instead.get(node.name, node.name)
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = instead.get(name, name)
        for one in node.attribute:
            for nested in [one.g] if one.HasField("g") else one.graphs:
                for value in (*nested.input, *nested.output, *nested.value_info, *nested.initializer):
                    value.name = instead.get(value.name, value.name)
