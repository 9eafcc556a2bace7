"""What the layers of an ONNX graph hold and compute: elements of weights, multiply-accumulates for one picture."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx

from pipelines.graph.weights import Weight, name_of, weights_of


def macs_of(model: onnx.ModelProto) -> dict[str, int]:
    """Node name -> multiply-accumulates for one run; left out where the file does not state the shapes that it needs.

    A convolution's or product's: elements of its output times the length of each sum; a transposed convolution's:
    elements of its input times what each of them is multiplied with.
    """
    shapes = {
        value.name: tuple(one.dim_value for one in value.type.tensor_type.shape.dim)
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    nodes = {name_of(node): node for node in model.graph.node}
    counted = {}
    for weight in weights_of(model):
        node = nodes.get(weight.node)
        if node is None or not weight.shape:
            continue
        shape = shapes.get(node.input[0] if weight.op == "ConvTranspose" else node.output[0], ())
        if shape and all(shape):
            counted[weight.node] = math.prod(shape) * _factors(weight)
    return counted


def _factors(weight: Weight) -> int:
    if "Conv" in weight.op:
        return math.prod(weight.shape[1:])  # [K, C, R, S]: a sum's length; transposed, [C, K, R, S]: what C meets
    return weight.shape[weight.axis]


def elements_of(weights: Iterable[Weight]) -> int:
    """Elements that those weights store; one that several layers share counts once."""
    return sum({weight.initializer: math.prod(weight.shape) for weight in weights if weight.initializer}.values())
