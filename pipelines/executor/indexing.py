"""Operators that pick elements by index, or put them there."""

from __future__ import annotations

import numpy as np

from pipelines.arrays import Array
from pipelines.executor.operators import Call, operator, whole_numbers


@operator("Slice")
def slice_(
    call: Call,
    x: Array,
    starts: Array | None = None,
    ends: Array | None = None,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Array:
    """Bounds are inputs since opset 10; beyond the end they are cut."""
    first = call.get("starts") if starts is None else whole_numbers(starts)
    last = call.get("ends") if ends is None else whole_numbers(ends)
    over = call.get("axes", range(len(first))) if axes is None else whole_numbers(axes)
    step = [1] * len(first) if steps is None else whole_numbers(steps)
    picks = [slice(None)] * x.ndim
    for axis, begin, end, by in zip(over, first, last, step, strict=True):
        size = x.shape[axis]
        below = by < 0 and end < -size  # counted from the end it lies before the first element
        picks[axis] = slice(begin, None if below else end, by)
    return x[tuple(picks)]


@operator("Gather")
def gather(call: Call, x: Array, indices: Array) -> Array:
    """Whole slices along `axis`; negative indices count from the end."""
    return np.take(x, indices, axis=call.get("axis", 0))


@operator("GatherElements")
def gather_elements(call: Call, x: Array, indices: Array) -> Array:
    """One element an index, along `axis`."""
    axis = call.get("axis", 0) % x.ndim
    places = [np.arange(size).reshape(-1, *[1] * (x.ndim - 1 - i)) for i, size in enumerate(indices.shape)]
    places[axis] = indices
    return x[tuple(places)]


@operator("GatherND")
def gather_nd(call: Call, x: Array, indices: Array) -> Array:
    """The last axis of `indices` holds coordinates."""
    if call.get("batch_dims", 0):
        raise call.refuse("with batch_dims")
    made: Array = x[tuple(np.moveaxis(indices, -1, 0))]
    return made


@operator("ScatterND")
def scatter_nd(call: Call, x: Array, indices: Array, updates: Array) -> Array:
    """A copy with the updates put at the coordinates."""
    if call.get("reduction", "none") != "none":
        raise call.refuse("with a reduction")
    made: Array = x.copy()
    made[tuple(np.moveaxis(indices, -1, 0))] = updates
    return made


@operator("ScatterElements")
def scatter_elements(call: Call, x: Array, indices: Array, updates: Array) -> Array:
    """A copy with one update an index, along `axis`."""
    if call.get("reduction", "none") != "none":
        raise call.refuse("with a reduction")
    made: Array = x.copy()
    axis = call.get("axis", 0) % x.ndim
    places = [np.arange(size).reshape(-1, *[1] * (x.ndim - 1 - i)) for i, size in enumerate(indices.shape)]
    places[axis] = indices
    made[tuple(places)] = updates
    return made


@operator("NonZero")
def non_zero(call: Call, x: Array) -> Array:
    """int64 [axes, found]."""
    del call
    return np.asarray(np.nonzero(x), np.int64)


@operator("OneHot")
def one_hot(call: Call, indices: Array, depth: Array, values: Array) -> Array:
    """`values` is [off, on]; an index out of range is off everywhere."""
    count = int(np.ravel(depth)[0])
    wanted = np.asarray(indices).astype(np.int64)[..., None]
    hot = np.where(wanted < 0, wanted + count, wanted) == np.arange(count)
    return np.moveaxis(np.where(hot, values[1], values[0]), -1, call.get("axis", -1))


@operator("Range")
def range_(call: Call, start: Array, limit: Array, delta: Array) -> Array:
    """Of the start's type."""
    del call
    return np.arange(start.item(), limit.item(), delta.item()).astype(start.dtype)


@operator("Trilu")
def trilu(call: Call, x: Array, k: Array | None = None) -> Array:
    """The upper or lower triangle of each matrix."""
    offset = 0 if k is None else int(np.ravel(k)[0])
    return np.triu(x, offset) if call.get("upper", 1) else np.tril(x, offset)
