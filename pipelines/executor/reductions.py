"""Reductions over axes, and what finds places along one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.arrays import Array
from pipelines.executor.operators import Call, axes_of, operator


def _log_sum_exp(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    top = x.max(axis=axis, keepdims=True)
    made: Array = np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top
    return made if keepdims else made.squeeze(axis)


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceMean": np.mean,
    "ReduceSum": np.sum,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceL1": lambda x, **how: np.abs(x).sum(**how),
    "ReduceL2": lambda x, **how: np.sqrt((x * x).sum(**how)),
    "ReduceSumSquare": lambda x, **how: (x * x).sum(**how),
    "ReduceLogSum": lambda x, **how: np.log(x.sum(**how)),
    "ReduceLogSumExp": _log_sum_exp,
}


@operator(*_REDUCTIONS)
def reduce(call: Call, x: Array, axes: Array | None = None) -> Array:
    """Over `axes`, or all; whole numbers stay of their type."""
    over = axes_of(call, axes)
    if not over and call.get("noop_with_empty_axes", 0):
        return x
    axis = tuple(over) if over else tuple(range(x.ndim))
    made = _REDUCTIONS[call.node.op_type](x, axis=axis, keepdims=bool(call.get("keepdims", 1)))
    return np.asarray(made).astype(x.dtype)


@operator("ArgMax", "ArgMin")
def arg_extreme(call: Call, x: Array) -> Array:
    """int64; of equal values the first, or the last where asked for."""
    axis, find = call.get("axis", 0), np.argmax if call.node.op_type == "ArgMax" else np.argmin
    if call.get("select_last_index", 0):
        found = x.shape[axis] - 1 - find(np.flip(x, axis), axis=axis)
    else:
        found = find(x, axis=axis)
    made = np.asarray(found, np.int64)
    return np.expand_dims(made, axis) if call.get("keepdims", 1) else made


@operator("TopK")
def top_k(call: Call, x: Array, k: Array | None = None) -> tuple[Array, Array]:
    """Values and int64 places, best first; of equal values the lowest place first."""
    axis = call.get("axis", -1)
    count = int(call.get("k") if k is None else np.ravel(k)[0])
    keys = -x.astype(np.int64) if x.dtype.kind == "u" else -x
    order = np.argsort(keys if call.get("largest", 1) else x, axis=axis, kind="stable")
    places = np.take(order, np.arange(count), axis=axis)
    return np.take_along_axis(x, places, axis=axis), places.astype(np.int64)


@operator("CumSum")
def cum_sum(call: Call, x: Array, axis: Array) -> Array:
    """Running sum, from the end where `reverse`, without the element itself where `exclusive`."""
    place = int(np.ravel(axis)[0])
    line = np.flip(x, place) if call.get("reverse", 0) else x
    total = np.cumsum(line, axis=place, dtype=x.dtype)
    if call.get("exclusive", 0):
        total = total - line
    return np.flip(total, place) if call.get("reverse", 0) else total
