"""Resize and Upsample, axis by axis: each is a product with a small matrix of interpolation weights."""

from __future__ import annotations

import numpy as np

from pipelines.arrays import Array
from pipelines.executor.operators import Call, operator, whole_numbers


@operator("Upsample")
def upsample(call: Call, x: Array, scales: Array | None = None) -> Array:
    """The older Resize: places are x / scale, nearest ones rounded down."""
    factors = call.get("scales") if scales is None else np.ravel(scales)
    return _resized(call, x, [float(one) for one in factors], None)


@operator("Resize")
def resize(
    call: Call, x: Array, second: Array | None = None, third: Array | None = None, fourth: Array | None = None
) -> Array:
    """By scales or to sizes, with every coordinate transformation and rounding up to opset 17 but the crop."""
    scales, sizes = (second, None) if call.opset < 11 else (third, fourth)
    for name, plain in (("antialias", 0), ("keep_aspect_ratio_policy", "stretch"), ("axes", None)):
        if call.get(name, plain) != plain:
            raise call.refuse(f"with {name}")
    if sizes is not None and sizes.size:
        lengths = whole_numbers(sizes)
        return _resized(call, x, [n / size for n, size in zip(lengths, x.shape, strict=True)], lengths)
    if scales is None:
        raise ValueError("neither scales nor sizes")
    return _resized(call, x, [float(one) for one in np.ravel(scales)], None)


def _resized(call: Call, x: Array, scales: list[float], lengths: list[int] | None) -> Array:
    for axis, scale in enumerate(scales):
        length = lengths[axis] if lengths is not None else int(np.floor(x.shape[axis] * scale))
        if length != x.shape[axis] or scale != 1:
            weights = _weights(call, x.shape[axis], length, scale).astype(x.dtype)
            x = np.moveaxis(np.moveaxis(x, axis, -1) @ weights.T, -1, axis)
    return x


def _weights(call: Call, size: int, length: int, scale: float) -> Array:
    """float64 [length, size]: what each output place takes from each input place."""
    places = _places(call, size, length, scale)
    mode = call.get("mode", "nearest")
    if mode == "nearest":
        return _spread(_nearest(call, places, scale)[:, None], np.ones((length, 1)), size, False)
    if mode == "linear":
        places = np.clip(places, 0, size - 1)
        taken = _around(places, 0, 2)
        weights = np.maximum(0, 1 - np.abs(places[:, None] - taken))
    elif mode == "cubic":
        taken = _around(places, -1, 3)
        weights = _cubic(np.abs(places[:, None] - taken), call.get("cubic_coeff_a", -0.75))
    else:
        raise call.refuse(f"in mode {mode}")
    return _spread(taken, weights, size, bool(call.get("exclude_outside", 0)))


def _around(places: Array, first: int, stop: int) -> Array:
    """int64 [places, stop - first]: the input places around each."""
    return np.floor(places).astype(np.int64)[:, None] + np.arange(first, stop)


def _places(call: Call, size: int, length: int, scale: float) -> Array:
    """Where each output place lies on the input's axis."""
    place = np.arange(length, dtype=np.float64)
    kind = call.get("coordinate_transformation_mode", "half_pixel" if call.opset >= 11 else "asymmetric")
    if call.node.op_type == "Upsample" or call.opset < 11 or kind == "asymmetric":
        return place / scale
    if kind == "half_pixel" or (kind == "pytorch_half_pixel" and length > 1):
        return (place + 0.5) / scale - 0.5
    if kind == "pytorch_half_pixel":
        return np.zeros(1)
    if kind == "align_corners":
        return place * (size - 1) / (length - 1) if length > 1 else np.zeros(1)
    if kind == "tf_half_pixel_for_nn":
        return (place + 0.5) / scale
    raise call.refuse(f"with {kind}")


def _nearest(call: Call, places: Array, scale: float) -> Array:
    kind = call.get("nearest_mode", "round_prefer_floor")
    if call.node.op_type == "Upsample" or call.opset < 11:
        kind = "ceil" if scale < 1 else "floor"  # no text says it; runtimes do it
    rounding = {"round_prefer_floor": lambda x: np.ceil(x - 0.5), "round_prefer_ceil": lambda x: np.floor(x + 0.5)}
    rounding |= {"floor": np.floor, "ceil": np.ceil}
    if kind not in rounding:
        raise call.refuse(f"with {kind}")
    return np.asarray(rounding[kind](places)).astype(np.int64)


def _cubic(distance: Array, a: float) -> Array:
    """Keys' kernel, 1981."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def _spread(taken: Array, weights: Array, size: int, exclude_outside: bool) -> Array:
    """Rows of weights put at their input places; a place beyond the edge is the edge's, or is left out."""
    if exclude_outside:
        weights = np.where((taken >= 0) & (taken < size), weights, 0)
        weights = weights / weights.sum(-1, keepdims=True)
    made = np.zeros((len(taken), size))
    rows = np.broadcast_to(np.arange(len(taken))[:, None], taken.shape)
    np.add.at(made, (rows, np.clip(taken, 0, size - 1)), weights)
    return made
