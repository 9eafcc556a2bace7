"""A network that runs from compressed weights, in float32 on one CPU core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from pipelines.arrays import Array
from pipelines.executor.frames import NO_BORDER, Border, Frames
from pipelines.executor.fuse import Fused, layers_of
from pipelines.executor.layers import Convolution, Depthwise, Layer, MaxPool, Product
from pipelines.executor.operators import Call
from pipelines.executor.run import Plan
from pipelines.graph.tensors import values_of
from pipelines.graph.weights import attribute, name_of, split
from pipelines.native import load, why_missing
from pipelines.sparsity.compressed import CompressedNM, compress
from pipelines.sparsity.pattern import NMPattern

DOMAIN = "edgekiln"


@dataclass(frozen=True)
class LayerKind:
    """How a layer is run: `slots` kept of each four channels by the compiled kernel, 0 where its weights are whole."""

    node: str
    kernel: str  # "nm", "whole", "depthwise", "pool"; "numpy" where there is no compiled form of it
    slots: int
    weight_bytes: int  # that one run reads


class SparseNetwork:
    """The network of an ONNX file whose weights hold the pattern, kept in compressed form and run from it.

    A layer whose kept weights fit 1:4, 2:4 or 3:4 (1:2 and 2:8 do) runs in the compiled N:M kernel, any other is
    decompressed once and runs whole. Without compiled kernels all run in NumPy, and `announcement` says why.
    Not for two threads at once: buffers of activations are kept between runs.
    PipelineError for a graph that the executor can't run; ValueError for a weight that breaks the pattern.
    """

    def __init__(self, model: onnx.ModelProto, pattern: NMPattern) -> None:
        held = values_of(model)
        eligible, _ = split(model, pattern)
        sparse = [weight for weight in eligible if pattern.holds(held[weight.initializer], weight.axis)]
        self.compressed: dict[str, CompressedNM] = {
            weight.initializer: compress(held[weight.initializer], pattern, weight.axis) for weight in sparse
        }
        held |= {name: one.to_dense() for name, one in self.compressed.items()}
        self.announcement = "" if load() else f"no compiled kernels: {why_missing()}; running in NumPy"
        self._layers: dict[str, Layer] = {}
        self.kinds: list[LayerKind] = []
        for node in model.graph.node:  # exporters share a bias between layers so
            if node.op_type == "Identity" and node.input[0] in held:
                held[node.output[0]] = held[node.input[0]]
        graph = onnx.ModelProto()
        graph.CopyFrom(model)
        if not self.announcement:
            self._compile(graph, held)
        self._plan = Plan(graph, dtype=np.float32, weights=held)
        self._plan.load()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Name -> value of every output of the graph."""
        made = self._plan.run(feeds, self._on_node)
        return {name: np.array(value) for name, value in made.items()}  # buffers are used again

    def _on_node(self, node: onnx.NodeProto, given: Sequence[Array | None]) -> Sequence[Array] | None:
        layer = self._layers.get(node.output[0]) if node.output else None
        return None if layer is None else [layer(*(one for one in given if one is not None))]

    def _compile(self, model: onnx.ModelProto, held: dict[str, Array]) -> None:
        """Make the layers, and put one node in the place of all that each stands for."""
        opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 1)
        found = [layer for layer in layers_of(model.graph, held) if _supported(layer, held)]
        borders, frames = _borders(model.graph), Frames()
        for fused in found:
            call = Call.of(fused.node, opset, np.dtype(np.float32))
            weight, bias = held[fused.weight], held[fused.bias] if fused.bias else None
            border = borders.get(fused.output, NO_BORDER)
            self._layers[fused.output] = _layer(call, fused, weight, bias, border, frames)
            self.kinds.append(_kind(fused, self._layers[fused.output]))
        for node in model.graph.node:
            if node.op_type == "MaxPool" and _plain_pool(node):
                call = Call.of(node, opset, np.dtype(np.float32))
                self._layers[node.output[0]] = MaxPool(call, borders.get(node.output[0], NO_BORDER), frames)
        _replace(model.graph, found)


def _supported(fused: Fused, held: dict[str, Array]) -> bool:
    """True where a compiled kernel can run the layer."""
    if held[fused.weight].dtype.kind != "f":
        return False
    groups = attribute(fused.node, "group", 1)
    return fused.node.op_type != "Conv" or groups == 1 or held[fused.weight].shape[1] > 1 or _depthwise(fused, held)


def _depthwise(fused: Fused, held: dict[str, Array]) -> bool:
    weight = held[fused.weight]
    groups = attribute(fused.node, "group", 1)
    return fused.node.op_type == "Conv" and groups > 1 and weight.shape[1] == 1 and len(weight) == groups


def _layer(call: Call, fused: Fused, weight: Array, bias: Array | None, border: Border, frames: Frames) -> Layer:
    if fused.node.op_type == "Conv":
        kind = Depthwise if _depthwise(fused, {fused.weight: weight}) else Convolution
        return kind(call, fused, weight, bias, border, frames)
    transposed = fused.node.op_type == "Gemm" and attribute(fused.node, "transB", 0)
    return Product(fused, weight if transposed else np.ascontiguousarray(weight.T), bias)


def _kind(fused: Fused, layer: Layer) -> LayerKind:
    if isinstance(layer, (Convolution, Product)):
        slots = max(one.slots for one in layer.panels)
        return LayerKind(fused.name, "nm" if slots else "whole", slots, sum(one.nbytes for one in layer.panels))
    return LayerKind(fused.name, "depthwise", 0, 0)


def _plain_pool(node: onnx.NodeProto) -> bool:
    kernel = next((one.ints for one in node.attribute if one.name == "kernel_shape"), ())
    return len(kernel) == 2 and not any(node.output[1:]) and node.domain in ("", "ai.onnx")


def _borders(graph: onnx.GraphProto) -> dict[str, Border]:
    """Name -> the widest padding with which a convolution reads the tensor: its producer leaves room for it."""
    made: dict[str, Border] = {}
    for node in graph.node:
        pads = next((one.ints for one in node.attribute if one.name == "pads"), ())
        if node.op_type == "Conv" and len(pads) == 4:
            top, left, bottom, right = (max(int(one), 0) for one in pads)
            widest = zip(made.get(node.input[0], NO_BORDER), (top, bottom, left, right), strict=True)
            above, below, before, after = (max(pair) for pair in widest)
            made[node.input[0]] = (above, below, before, after)
    return made


def _replace(graph: onnx.GraphProto, found: Sequence[Fused]) -> None:
    """Each layer's last node becomes the layer; the nodes that it swallowed go (nothing else reads what they make)."""
    inside = {fused.last: fused for fused in found}
    nodes = []
    for place, node in enumerate(graph.node):
        if (fused := inside.get(place)) is not None:
            given = [fused.node.input[0], *([fused.addend] if fused.addend else [])]
            nodes.append(helper.make_node("Layer", given, [fused.output], name_of(fused.node), domain=DOMAIN))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
