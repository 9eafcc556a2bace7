"""Graph pass: zeros by magnitude, N kept of every M along the input channels of every weight it applies to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from pipelines.graph.weights import Weight, split, values_of
from pipelines.sparsity.pattern import NMPattern


@dataclass(frozen=True)
class MaskedLayer:
    """What the pass did to one weight; the share is of the sum of |w|."""

    weight: Weight
    elements: int
    zeros: int
    retained_magnitude: float
    magnitude: float


def mask_magnitude(model: onnx.ModelProto, pattern: NMPattern) -> tuple[onnx.ModelProto, list[MaskedLayer]]:
    """A copy of the model with the pattern, and what changed. Only these initializers' bytes differ."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    values = values_of(model)
    eligible, _ = split(model, pattern)
    held = {one.name: one for one in made.graph.initializer}
    layers = []
    for weight in eligible:
        dense = values[weight.initializer]
        sparse = np.where(pattern.mask(dense, weight.axis), dense, np.zeros((), dense.dtype))
        held[weight.initializer].CopyFrom(numpy_helper.from_array(sparse, weight.initializer))
        layers.append(
            MaskedLayer(
                weight=weight,
                elements=dense.size,
                zeros=int(sparse.size - np.count_nonzero(sparse)),
                retained_magnitude=float(np.abs(sparse).sum(dtype=np.float64)),
                magnitude=float(np.abs(dense).sum(dtype=np.float64)),
            )
        )
    return made, layers
