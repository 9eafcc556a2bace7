"""Graph pass: reordering the naive way, by a Gather in front of each layer, for comparison: it costs run time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count

import onnx
from onnx import helper, numpy_helper

from pipelines.arrays import Array
from pipelines.graph.groups import ChannelGroup
from pipelines.graph.reorder import Move, activations, by_tensor, moved, moves
from pipelines.graph.tensors import stored, values
from pipelines.graph.weights import attribute

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def with_gathers(
    model: onnx.ModelProto,
    groups: Sequence[ChannelGroup],
    permutations: Mapping[str, Array],
    weights: Mapping[str, Collection[str]],
) -> onnx.ModelProto:
    """A copy in which only the input channels of `weights` (group name -> weights) are in their group's order.

    Each layer of theirs reads its input through a Gather; layers that want the same order of the same tensor share one.
    Producers stay as they are, outputs stay equal. A weight that other nodes read too stays as it is.
    """
    groups = [group for group in groups if group.name in permutations]
    made = onnx.ModelProto()
    made.CopyFrom(model)
    held = stored(made.graph)
    direct = _only_weights(made.graph, held)
    chosen = {
        name: consumed
        for name, placed in by_tensor(groups).items()
        if name in direct
        and (consumed := [one for one in placed if one[1].role == "consumer" and name in weights.get(one[0], ())])
    }
    for name, placed in chosen.items():
        array = moved(values(held[name], name), moves(dict(enumerate(held[name].dims)), placed, permutations))
        held[name].CopyFrom(numpy_helper.from_array(array, held[name].name))
    spots, gathers = activations(groups), _Gathers(made.graph)
    for node in list(made.graph.node):
        for name, place in _operands(node, held):
            if name in chosen:
                taken = {group for group, _ in chosen[name]}
                here = [one for one in spots[node.input[place]] if one[0] in taken]
                axis = chosen[name][0][1].axis
                size = held[name].dims[axis] * (attribute(node, "group", 1) if node.op_type == "Conv" else 1)
                (move,) = moves({here[0][1].axis: size}, here, permutations)
                node.input[place] = gathers.of(node.input[place], move)
    gathers.insert()
    return made


class _Gathers:
    """The Gather nodes of a graph: one for each order of each tensor."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.stated = {value.name: value for value in (*graph.value_info, *graph.input)}
        self.names = {name for node in graph.node for name in node.output} | set(self.stated)
        self.names |= set(stored(graph))
        self.made: dict[tuple[str, bytes], onnx.NodeProto] = {}

    def of(self, tensor: str, move: Move) -> str:
        """The name of the tensor's reordered form."""
        key = (tensor, move.index.tobytes())
        if key not in self.made:
            name, order = self._new(f"{tensor}_reordered"), self._new(f"{tensor}_order")
            self.graph.initializer.append(numpy_helper.from_array(move.index, order))
            self.made[key] = helper.make_node("Gather", [tensor, order], [name], name=name, axis=move.axis)
            if tensor in self.stated:
                value = self.graph.value_info.add()
                value.CopyFrom(self.stated[tensor])
                value.name = name
        return str(self.made[key].output[0])

    def insert(self) -> None:
        """Each node in front of its first reader."""
        waiting = {node.output[0]: node for node in self.made.values()}
        nodes = []
        for node in self.graph.node:
            nodes += [waiting.pop(name) for name in dict.fromkeys(node.input) if name in waiting]
            nodes.append(node)
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def _new(self, wanted: str) -> str:
        name = next(one for nth in count() if (one := f"{wanted}_{nth}") not in self.names)
        self.names.add(name)
        return name


def _operands(node: onnx.NodeProto, held: Mapping[str, onnx.TensorProto]) -> Iterator[tuple[str, int]]:
    """The stored weight of a layer, and the place of the input that it is applied to."""
    if node.op_type in _LAYERS and node.domain in ("", "ai.onnx"):
        if node.input[1] in held:
            yield node.input[1], 0
        elif node.input[0] in held and node.op_type in ("Gemm", "MatMul"):
            yield node.input[0], 1


def _only_weights(graph: onnx.GraphProto, held: Mapping[str, onnx.TensorProto]) -> set[str]:
    """Stored tensors that are read as the weight of layers and as nothing else."""
    weights, others = set(), {value.name for value in graph.output}
    for node in graph.node:
        own = {name for name, _ in _operands(node, held)}
        weights |= own
        others |= {name for name in node.input if name not in own}
    return weights - others
