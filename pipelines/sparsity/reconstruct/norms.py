"""What layers see, from the norm layers' own statistics: correction without any picture.

A batch norm's output has the mean `bias` and the deviation |scale| of each channel over the training pictures; taken as
normal and independent, as in Nagel et al., "Data-free quantization" (2019), they are followed to the next layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx

from pipelines.arrays import Array
from pipelines.graph.tensors import stored, values, values_of
from pipelines.sparsity.reconstruct.linear import Linear
from pipelines.sparsity.reconstruct.moments import Moments

_UNCHANGED = ("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Pad", "GlobalAveragePool", "AveragePool")


@dataclass(frozen=True)
class Channels:
    """Mean and variance of each channel of a tensor."""

    mean: Array
    variance: Array


def channels_of(model: onnx.ModelProto) -> dict[str, Channels]:
    """Tensor -> its channels, wherever they follow from norms: a chain of activations, sums, pads and mean pooling.

    Pooling is taken to keep the variance, which is too large; its effect on a correction is a scale that cancels.
    """
    held = values_of(model)
    known: dict[str, Channels] = {}
    for node in model.graph.node:
        found = _after(node, known, held)
        if found is not None:
            known[node.output[0]] = found
    return known


def _after(node: onnx.NodeProto, known: dict[str, Channels], held: dict[str, Array]) -> Channels | None:
    if node.op_type == "BatchNormalization" and all(name in held for name in node.input[1:3]):
        scale, bias = (held[name].astype(np.float64) for name in node.input[1:3])
        return Channels(bias, scale**2)
    inputs = [known[name] for name in node.input if name in known]
    if not inputs:
        return None
    if node.op_type in ("Relu", "Clip"):
        low, high = _limits(node, held)
        return clipped(inputs[0], low, high)
    if node.op_type == "Add" and len(inputs) == 2:
        return Channels(inputs[0].mean + inputs[1].mean, inputs[0].variance + inputs[1].variance)
    return inputs[0] if node.op_type in _UNCHANGED else None


def _limits(node: onnx.NodeProto, held: dict[str, Array]) -> tuple[float, float]:
    if node.op_type == "Relu":
        return 0.0, math.inf
    given = [float(held[name]) if name in held else None for name in node.input[1:3]]
    low, high = (*given, None, None)[:2]
    return (-math.inf if low is None else low), (math.inf if high is None else high)


def clipped(given: Channels, low: float, high: float) -> Channels:
    """Of a normal variable held between two limits, exactly."""
    mean, deviation = given.mean, np.sqrt(np.maximum(given.variance, 1e-30))
    a, b = (low - mean) / deviation, (high - mean) / deviation
    below, above = _normal_cdf(a), 1 - _normal_cdf(b)
    inside = 1 - below - above
    da, db = _normal_density(a), _normal_density(b)
    first = da - db  # integral of z over the inside
    second = inside + _times(a, da) - _times(b, db)  # of z squared
    edge_low, edge_high = (0.0 if math.isinf(one) else one for one in (low, high))
    expected = mean * inside + deviation * first + edge_low * below + edge_high * above
    squared = mean**2 * inside + 2 * mean * deviation * first + deviation**2 * second
    squared += edge_low**2 * below + edge_high**2 * above
    return Channels(expected, np.maximum(squared - expected**2, 0.0))


def moments_of(one: Linear, model: onnx.ModelProto, seen: Channels) -> list[Moments]:
    """The layer's moments, one for each group, with inputs independent of each other and no error before it."""
    held = stored(model.graph)
    made = []
    matrix = one.matrix(values(held[one.weight], one.weight)).astype(np.float64)
    biased = one.bias and not one.bias_follows
    bias = (
        values(held[one.bias], one.bias).astype(np.float64) if biased else np.zeros(matrix.shape[0] * matrix.shape[1])
    )
    for group, (rows, added) in enumerate(zip(matrix, bias.reshape(len(matrix), -1), strict=True)):
        taken = slice(group * one.run, (group + 1) * one.run)
        repeats = rows.shape[1] // one.run
        mean, variance = (np.tile(array[taken], repeats) for array in (seen.mean, seen.variance))
        xx = np.diag(variance)
        made.append(Moments(mean, rows @ mean + added, xx, rows @ xx, (rows**2) @ variance))
    return made


def _times(place: Array, density: Array) -> Array:
    """Their product; 0 at infinity."""
    return np.where(np.isinf(place), 0.0, place) * density


def _normal_density(x: Array) -> Array:
    density: Array = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return density


def _normal_cdf(x: Array) -> Array:
    return np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in x.tolist()])
