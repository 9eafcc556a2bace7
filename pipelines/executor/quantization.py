"""Quantised values, as QDQ graphs hold them."""

from __future__ import annotations

import numpy as np

from pipelines.arrays import Array
from pipelines.executor.operators import Call, operator


def _along(call: Call, values: Array, x: Array) -> Array:
    """One value for the tensor, or one for each place of `axis`."""
    if values.size == 1:
        return values.reshape(())
    axis = call.get("axis", 1) % x.ndim
    return values.reshape(-1, *[1] * (x.ndim - 1 - axis))


@operator("QuantizeLinear")
def quantize(call: Call, x: Array, scale: Array, zero: Array | None = None) -> Array:
    """round(x / scale) + zero, halves to even, saturated; uint8 where no zero point says otherwise."""
    held = np.zeros((), np.uint8) if zero is None else zero
    limits = np.iinfo(held.dtype)
    levels = np.rint(x / _along(call, scale, x)) + _along(call, held, x).astype(call.dtype)
    made: Array = np.clip(levels, limits.min, limits.max).astype(held.dtype)
    return made


@operator("DequantizeLinear")
def dequantize(call: Call, x: Array, scale: Array, zero: Array | None = None) -> Array:
    """(x - zero) * scale."""
    levels = x.astype(call.dtype)
    if zero is not None:
        levels = levels - _along(call, zero, x).astype(call.dtype)
    return levels * _along(call, scale, x)


@operator("DynamicQuantizeLinear")
def dynamic_quantize(call: Call, x: Array) -> tuple[Array, Array, Array]:
    """uint8 over the tensor's own range, its scale and zero point."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.asarray((high - low) / 255 or 1.0, call.dtype)
    zero = np.rint(np.clip(-low / scale, 0, 255)).astype(np.uint8)
    return np.clip(np.rint(x / scale) + zero.astype(call.dtype), 0, 255).astype(np.uint8), scale, zero
