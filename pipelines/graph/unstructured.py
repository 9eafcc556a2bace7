"""Graph pass: the smallest weights of each layer become zero, up to a share of them, wherever they stand."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import numpy_helper

from pipelines.arrays import Array
from pipelines.errors import PipelineError
from pipelines.graph.tensors import stored, values


def unstructured(model: onnx.ModelProto, share: float, layers: Collection[str]) -> onnx.ModelProto:
    """A copy in which `share` of each named weight is zero, by magnitude; ties go to the lowest index.

    `layers`: names of stored tensors. ValueError for a share outside [0, 1]; PipelineError names a weight that is
    not stored, or not finite.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share} is not between 0 and 1")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    held = stored(made.graph)
    for name in layers:
        if name not in held:
            raise PipelineError(f"{name} is no stored weight of this network")
        dense = values(held[name], name)
        if not np.isfinite(dense).all():
            raise PipelineError(f"{name} holds values that are not finite", "give weights that are numbers")
        sparse = np.where(kept(dense, share), dense, np.zeros((), dense.dtype))
        held[name].CopyFrom(numpy_helper.from_array(sparse, held[name].name))
    return made


def kept(weight: Array, share: float) -> Array:
    """True where kept, bool of the weight's shape: round(share * size) of the smallest are not."""
    magnitude = np.abs(weight, dtype=np.float64).ravel()  # |-128| fits no int8
    order = np.argsort(-magnitude, kind="stable")
    mask: Array = np.zeros(weight.shape, bool)
    mask.reshape(-1)[order[: magnitude.size - round(share * magnitude.size)]] = True
    return mask
