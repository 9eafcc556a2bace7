"""Graph pass: zeros by magnitude, N kept of every M along the input channels of every weight it applies to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from pipelines.errors import PipelineError
from pipelines.graph.tensors import stored, values
from pipelines.graph.weights import Weight, split
from pipelines.sparsity.pattern import NMPattern


@dataclass(frozen=True)
class MaskedLayer:
    """What the pass did to one weight; magnitudes are sums of |w|."""

    weight: Weight
    elements: int
    zeros: int
    retained_magnitude: float
    magnitude: float


def mask_magnitude(model: onnx.ModelProto, pattern: NMPattern) -> tuple[onnx.ModelProto, list[MaskedLayer]]:
    """A copy of the model with the pattern, and what changed. Only these tensors' bytes differ.

    PipelineError names a layer whose weights are not finite.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    eligible, _ = split(model, pattern)
    held = stored(made.graph)
    layers = []
    for weight in eligible:
        tensor = held[weight.initializer]
        dense = values(tensor, weight.initializer)
        if not np.isfinite(dense).all():
            raise PipelineError(
                f"{weight.node}: {weight.initializer} holds values that are not finite", "give weights that are numbers"
            )
        sparse = np.where(pattern.mask(dense, weight.axis), dense, np.zeros((), dense.dtype))
        tensor.CopyFrom(numpy_helper.from_array(sparse, tensor.name))
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
