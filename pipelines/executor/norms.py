"""Normalisations, in their inference form."""

from __future__ import annotations

import numpy as np

from pipelines.arrays import Array
from pipelines.executor.operators import Call, operator


def _per_channel(values: Array, x: Array) -> Array:
    return values.reshape(-1, *[1] * (x.ndim - 2))


@operator("BatchNormalization")
def batch_norm(call: Call, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    """By the stored statistics."""
    if call.get("training_mode", 0) or any(call.node.output[1:]):
        raise call.refuse("in training mode")
    if not call.get("spatial", 1):
        raise call.refuse("with spatial=0")
    factor = scale / np.sqrt(var + call.get("epsilon", 1e-5))
    return x * _per_channel(factor, x) + _per_channel(bias - mean * factor, x)


@operator("InstanceNormalization")
def instance_norm(call: Call, x: Array, scale: Array, bias: Array) -> Array:
    """Over the positions of each channel of each picture."""
    axes = tuple(range(2, x.ndim))
    return _standardised(x, axes, call.get("epsilon", 1e-5)) * _per_channel(scale, x) + _per_channel(bias, x)


@operator("LayerNormalization")
def layer_norm(call: Call, x: Array, scale: Array, bias: Array | None = None) -> Array:
    """Over all axes from `axis` on."""
    if any(call.node.output[1:]):
        raise call.refuse("with its mean or deviation as an output")
    axes = tuple(range(call.get("axis", -1) % x.ndim, x.ndim))
    made = _standardised(x, axes, call.get("epsilon", 1e-5)) * scale
    return made if bias is None else made + bias


@operator("MeanVarianceNormalization")
def mean_variance(call: Call, x: Array) -> Array:
    """Over `axes`."""
    return _standardised(x, tuple(call.get("axes", (0, 2, 3))), 1e-9)


def _standardised(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = x - x.mean(axis=axes, keepdims=True)
    deviation = np.sqrt((centred * centred).mean(axis=axes, keepdims=True) + epsilon)
    made: Array = centred / deviation
    return made


@operator("LpNormalization")
def lp_norm(call: Call, x: Array) -> Array:
    """Divided by its norm along `axis`; a vector of zeros stays."""
    axis, p = call.get("axis", -1), call.get("p", 2)
    norm = np.linalg.norm(x, p, axis=axis, keepdims=True)
    made: Array = np.divide(x, norm, out=np.zeros_like(x), where=norm != 0)
    return made


@operator("LRN")
def local_response(call: Call, x: Array) -> Array:
    """Divided by a power of the squares' sum over `size` neighbouring channels."""
    size = int(call.get("size"))
    before = (size - 1) // 2
    channels = x.shape[1]
    squares = np.pad(x * x, [(0, 0), (before, size - 1 - before)] + [(0, 0)] * (x.ndim - 2))
    total = sum((squares[:, i : i + channels] for i in range(size)), np.zeros_like(x))
    scale = call.get("bias", 1.0) + call.get("alpha", 1e-4) / size * total
    made: Array = x / scale ** call.get("beta", 0.75)
    return made


@operator("Softmax", "LogSoftmax", "Hardmax")
def softmax(call: Call, x: Array) -> Array:
    """Along one axis; before opset 13 over all axes from `axis` (1) on, seen as one."""
    whole = call.opset < 13
    axis = call.get("axis", 1 if whole else -1) % max(x.ndim, 1)
    view = x.reshape(*x.shape[:axis], -1) if whole else np.moveaxis(x, axis, -1)
    made = _SOFT[call.node.op_type](view)
    return made.reshape(x.shape) if whole else np.moveaxis(made, -1, axis)


def _softmax(x: Array) -> Array:
    exponents = np.exp(x - x.max(-1, keepdims=True))
    made: Array = exponents / exponents.sum(-1, keepdims=True)
    return made


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(-1, keepdims=True)
    made: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return made


def _hardmax(x: Array) -> Array:
    made = np.zeros_like(x)
    np.put_along_axis(made, x.argmax(-1)[..., None], 1, axis=-1)
    return made


_SOFT = {"Softmax": _softmax, "LogSoftmax": _log_softmax, "Hardmax": _hardmax}
