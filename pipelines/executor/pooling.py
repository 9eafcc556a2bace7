"""Pools: over windows, and over all positions."""

from __future__ import annotations

import numpy as np

from pipelines.arrays import Array
from pipelines.executor.operators import Call, operator
from pipelines.executor.windows import window


@operator("MaxPool")
def max_pool(call: Call, x: Array) -> Array:
    """[N, C, spatial] -> [N, C, sizes]."""
    if len(call.node.output) > 1 and call.node.output[1]:
        raise call.refuse("with indices")
    shape = window(call, x.shape[2:], call.get("kernel_shape"))
    lowest = -np.inf if x.dtype.kind == "f" else float(np.iinfo(x.dtype).min)
    out: Array | None = None
    for view in shape.taps(shape.padded(x, lowest)):
        out = view.copy() if out is None else np.maximum(out, view, out=out)
    assert out is not None
    return out


@operator("AveragePool")
def average_pool(call: Call, x: Array) -> Array:
    """[N, C, spatial] -> [N, C, sizes]; a tap beyond the padding never counts, one in it does where asked for."""
    shape = window(call, x.shape[2:], call.get("kernel_shape"))
    padded = shape.padded(x, 0)
    counts = np.zeros(padded.shape[2:], x.dtype)
    within = zip(shape.begin, x.shape[2:], shape.end, strict=True)
    if call.get("count_include_pad", 0):
        counts[tuple(slice(0, begin + size + end) for begin, size, end in within)] = 1
    else:
        counts[tuple(slice(begin, begin + size) for begin, size, _ in within)] = 1
    total, count = np.zeros((*x.shape[:2], *shape.sizes), x.dtype), np.zeros(shape.sizes, x.dtype)
    for view, counted in zip(shape.taps(padded), shape.taps(counts), strict=True):
        total += view
        count += counted
    return total / count


@operator("GlobalAveragePool")
def global_average_pool(call: Call, x: Array) -> Array:
    """[N, C, spatial] -> [N, C, 1, ...]."""
    del call
    out: Array = x.mean(axis=tuple(range(2, x.ndim)), keepdims=True)
    return out


@operator("GlobalMaxPool")
def global_max_pool(call: Call, x: Array) -> Array:
    """[N, C, spatial] -> [N, C, 1, ...]."""
    del call
    out: Array = x.max(axis=tuple(range(2, x.ndim)), keepdims=True)
    return out
