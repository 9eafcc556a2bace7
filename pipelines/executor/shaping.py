"""Operators that move elements and compute none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipelines.arrays import Array
from pipelines.executor.operators import Call, axes_of, operator, whole_numbers


@operator("Constant")
def constant(call: Call) -> Array:
    """Its value, in any of the forms that hold numbers."""
    ((name, value),) = call.attributes.items()
    if name == "value":
        made: Array = numpy_helper.to_array(value)
        return made
    if name not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise call.refuse(f"with {name}")
    return np.asarray(value, call.dtype if "float" in name else np.int64)


@operator("ConstantOfShape")
def constant_of_shape(call: Call, shape: Array) -> Array:
    """Filled with `value`, 0.0 by default."""
    value = call.get("value")
    filler = np.zeros(1, call.dtype) if value is None else numpy_helper.to_array(value)
    return np.full(whole_numbers(shape), filler.ravel()[0], filler.dtype)


@operator("Shape")
def shape_of(call: Call, x: Array) -> Array:
    """int64; a part of it since opset 15."""
    return np.asarray(x.shape[slice(call.get("start", 0), call.get("end"))], np.int64)


@operator("Size")
def size_of(call: Call, x: Array) -> Array:
    """int64."""
    del call
    return np.asarray(x.size, np.int64)


@operator("Reshape")
def reshape(call: Call, x: Array, shape: Array) -> Array:
    """0 copies the input's size unless allowzero, -1 is what is left."""
    wanted = whole_numbers(shape)
    if not call.get("allowzero", 0):
        wanted = [x.shape[place] if size == 0 else size for place, size in enumerate(wanted)]
    return x.reshape(wanted)


@operator("Flatten")
def flatten(call: Call, x: Array) -> Array:
    """To two axes, cut before `axis`."""
    axis = call.get("axis", 1)
    return x.reshape(math.prod(x.shape[: axis % x.ndim if axis < 0 else axis]), -1)


@operator("Transpose")
def transpose(call: Call, x: Array) -> Array:
    """By `perm`, or reversed."""
    made: Array = x.transpose(call.get("perm"))
    return made


@operator("Squeeze")
def squeeze(call: Call, x: Array, axes: Array | None = None) -> Array:
    """Without those axes of size 1, or all of them."""
    gone = axes_of(call, axes)
    return x.squeeze(None if gone is None else tuple(gone))


@operator("Unsqueeze")
def unsqueeze(call: Call, x: Array, axes: Array | None = None) -> Array:
    """Axes are places in the output."""
    return np.expand_dims(x, tuple(axes_of(call, axes) or ()))


@operator("Concat")
def concat(call: Call, *inputs: Array) -> Array:
    """Along `axis`."""
    return np.concatenate(inputs, axis=call.get("axis", 1))


@operator("Split")
def split(call: Call, x: Array, sizes: Array | None = None) -> tuple[Array, ...]:
    """By sizes that are stated, or into equal parts (the last may be smaller)."""
    axis = call.get("axis", 0)
    stated = call.get("split") if sizes is None else whole_numbers(sizes)
    if stated is None:
        each = -(-x.shape[axis] // len(call.node.output))
        cuts = [each * i for i in range(1, len(call.node.output))]
    else:
        if sum(stated) != x.shape[axis]:
            raise ValueError(f"parts of {list(stated)} from {x.shape[axis]}")
        cuts = np.cumsum(stated)[:-1].tolist()
    return tuple(np.split(x, cuts, axis=axis))


@operator("Expand")
def expand(call: Call, x: Array, shape: Array) -> Array:
    """Broadcast both ways."""
    del call
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(whole_numbers(shape))))


@operator("Tile")
def tile(call: Call, x: Array, repeats: Array) -> Array:
    """Whole copies along each axis."""
    del call
    return np.tile(x, whole_numbers(repeats))


@operator("Pad")
def pad(
    call: Call, x: Array, pads: Array | None = None, value: Array | None = None, axes: Array | None = None
) -> Array:
    """Negative pads cut. Pads are an input since opset 11."""
    places = range(x.ndim) if axes is None else [axis % x.ndim for axis in whole_numbers(axes)]
    given = call.get("pads") if pads is None else whole_numbers(pads)
    around = [(0, 0)] * x.ndim
    for place, axis in enumerate(places):
        around[axis] = (given[place], given[place + len(given) // 2])
    cut = x[tuple(slice(max(-a, 0), size - max(-b, 0)) for (a, b), size in zip(around, x.shape, strict=True))]
    grown = [(max(a, 0), max(b, 0)) for a, b in around]
    mode: Any = call.get("mode", "constant")
    if mode != "constant":
        return np.pad(cut, grown, mode=mode)
    filler = call.get("value", 0.0) if value is None else np.ravel(value)[0]
    return np.pad(cut, grown, constant_values=np.asarray(filler).astype(x.dtype))


@operator("Cast")
def cast(call: Call, x: Array) -> Array:
    """To whole numbers and bool as ONNX says; every float type is the evaluation's own."""
    target = call.get("to")
    if target in (onnx.TensorProto.STRING, onnx.TensorProto.BFLOAT16):
        raise call.refuse(f"to {onnx.TensorProto.DataType.Name(target)}")
    dtype = np.dtype(helper.mapping.TENSOR_TYPE_TO_NP_TYPE[target])
    return x.astype(call.dtype if dtype.kind == "f" else dtype)


@operator("CastLike")
def cast_like(call: Call, x: Array, like: Array) -> Array:
    """To the other's type."""
    del call
    return x.astype(like.dtype)


@operator("DepthToSpace")
def depth_to_space(call: Call, x: Array) -> Array:
    """[N, C, H, W] -> [N, C/b/b, H*b, W*b]."""
    n, c, h, w = x.shape
    b = call.get("blocksize")
    if call.get("mode", "DCR") == "DCR":
        parts = x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    made: Array = parts.reshape(n, c // (b * b), h * b, w * b)
    return made


@operator("SpaceToDepth")
def space_to_depth(call: Call, x: Array) -> Array:
    """[N, C, H, W] -> [N, C*b*b, H/b, W/b]."""
    n, c, h, w = x.shape
    b = call.get("blocksize")
    made: Array = (
        x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)
    )
    return made
