"""Which nodes become one layer of the sparse executor: a product or convolution, its bias, an addend, and bounds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import onnx

from pipelines.arrays import Array
from pipelines.graph.weights import attribute, name_of

KINDS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Fused:
    """A layer with what follows it: y = clip(layer(x) + bias + addend, low, high)."""

    node: onnx.NodeProto  # the layer itself
    weight: str
    bias: str = ""
    addend: str = ""  # a computed tensor of the output's shape
    low: float = -np.inf
    high: float = np.inf
    output: str = ""
    last: int = 0  # place of the last node that it stands for

    @property
    def name(self) -> str:
        """The layer's."""
        return name_of(self.node)


def layers_of(graph: onnx.GraphProto, held: dict[str, Array]) -> list[Fused]:
    """Every layer whose weight is stored, in graph order; each node belongs to one layer at most."""
    readers = Counter(name for node in graph.node for name in node.input if name)
    readers.update(value.name for value in graph.output)
    reads = {name: place for place, node in enumerate(graph.node) for name in node.input}  # where it has one reader
    taken: set[int] = set()
    found = []
    for place, node in enumerate(graph.node):
        if (layer := _layer(node, place, held)) is None:
            continue
        while readers[layer.output] == 1 and (after := reads.get(layer.output)) is not None and after not in taken:
            grown = _grown(layer, graph.node[after], after, held)
            if grown is None:
                break
            taken.add(after)
            layer = grown
        found.append(layer)
    return found


def _layer(node: onnx.NodeProto, place: int, held: dict[str, Array]) -> Fused | None:
    if node.domain not in ("", "ai.onnx") or node.op_type not in KINDS or node.input[1] not in held:
        return None
    weight = held[node.input[1]]
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and bias not in held:
        return None
    plain = {one.name: one.f for one in node.attribute if one.name in ("alpha", "beta")}
    if node.op_type == "Gemm" and (attribute(node, "transA", 0) or any(value != 1 for value in plain.values())):
        return None
    if (
        node.op_type == "Gemm"
        and bias
        and held[bias].shape != (weight.shape[0 if attribute(node, "transB", 0) else 1],)
    ):
        return None
    if weight.ndim != (4 if node.op_type == "Conv" else 2) or weight.size == 0:
        return None
    return Fused(node=node, weight=node.input[1], bias=bias, output=node.output[0], last=place)


def _grown(layer: Fused, node: onnx.NodeProto, place: int, held: dict[str, Array]) -> Fused | None:
    """The layer with the node that reads it; None where the two can't be one."""
    bounded = layer.low > -np.inf or layer.high < np.inf
    if node.domain not in ("", "ai.onnx") or bounded:
        return None
    grown = replace(layer, output=node.output[0], last=place)
    if node.op_type == "Relu":
        return replace(grown, low=0.0)
    if node.op_type == "Clip":
        return _bounded(grown, node, held)
    if node.op_type == "Add" and len(set(node.input)) == 2:
        other = next(name for name in node.input if name != layer.output)
        if other in held:
            rows = held[layer.weight].shape[1]  # of a MatMul
            fits = layer.node.op_type == "MatMul" and held[other].shape == (rows,)
            return replace(grown, bias=other) if fits and not layer.bias and not layer.addend else None
        return None if layer.addend else replace(grown, addend=other)
    return None


def _bounded(grown: Fused, node: onnx.NodeProto, held: dict[str, Array]) -> Fused | None:
    bounds = {one.name: one.f for one in node.attribute}
    for name, place in (("min", 1), ("max", 2)):
        if len(node.input) > place and node.input[place]:
            if node.input[place] not in held:
                return None
            bounds[name] = float(held[node.input[place]])
    return replace(grown, low=bounds.get("min", -np.inf), high=bounds.get("max", np.inf))
