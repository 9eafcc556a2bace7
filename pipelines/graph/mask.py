"""Graph pass: zeros by magnitude, N kept of every M along the input channels of every weight it applies to."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from pipelines.arrays import Array
from pipelines.errors import PipelineError
from pipelines.graph.tensors import stored, values
from pipelines.graph.weights import Weight, split
from pipelines.sparsity.pattern import NMPattern


@dataclass(frozen=True)
class MaskedLayer:
    """What the pass did to one weight; magnitudes are sums of |w|, of |levels| where it is quantised."""

    weight: Weight
    elements: int
    zeros: int
    retained_magnitude: float
    magnitude: float


def mask_magnitude(
    model: onnx.ModelProto, pattern: NMPattern, keep: Collection[str] = ()
) -> tuple[onnx.ModelProto, list[MaskedLayer]]:
    """A copy of the model with the pattern, and what changed. Only these tensors' bytes differ.

    `keep`: node names of layers that stay dense. PipelineError names a layer whose weights are not finite.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    held = stored(made.graph)
    weights = split(model, pattern, keep)[0]
    for weight in weights:
        tensor = held[weight.initializer]
        dense = values(tensor, weight.initializer)
        if not np.isfinite(dense).all():
            raise PipelineError(
                f"{weight.node}: {weight.initializer} holds values that are not finite", "give weights that are numbers"
            )
        sparse = np.where(pattern.mask(dense, weight.axis), dense, np.zeros((), dense.dtype))
        tensor.CopyFrom(numpy_helper.from_array(sparse, tensor.name))
    return made, masked_layers(model, made, weights)


def masked_layers(dense: onnx.ModelProto, sparse: onnx.ModelProto, weights: Iterable[Weight]) -> list[MaskedLayer]:
    """What masking left of those weights: magnitudes are the dense network's, also where values were corrected."""
    before, after = stored(dense.graph), stored(sparse.graph)
    layers = []
    for weight in weights:
        name = weight.initializer
        values_before, kept = values(before[name], name), values(after[name], name) != 0
        layers.append(
            MaskedLayer(
                weight=weight,
                elements=kept.size,
                zeros=int(kept.size - np.count_nonzero(kept)),
                retained_magnitude=_magnitude(values_before[kept]),
                magnitude=_magnitude(values_before),
            )
        )
    return layers


def _magnitude(weight: Array) -> float:
    """Sum of |w|, in float64: |-128| fits no int8."""
    return float(np.abs(weight, dtype=np.float64).sum())
