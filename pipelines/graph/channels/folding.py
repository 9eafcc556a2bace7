"""The small integer tensors that a graph computes from shapes: targets of Slice, Pad, Gather and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipelines.arrays import Array
from pipelines.graph.tensors import is_elsewhere

Dim = int | str | None  # a number, a name that stands for one, or unknown
Shape = tuple[Dim, ...]
LARGEST = 4096  # elements; longer tensors tell a graph's shape only by accident
_DTYPES: dict[int, Any] = {
    onnx.TensorProto.INT64: np.int64,
    onnx.TensorProto.INT32: np.int32,
    onnx.TensorProto.BOOL: np.bool_,
    onnx.TensorProto.FLOAT: np.float32,  # some exporters compute sizes in floats
}
_LARGEST_FLOATS = 8  # elements


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Name -> value of a node's attributes."""
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def known_tensors(stored: Mapping[str, onnx.TensorProto]) -> dict[str, Array]:
    """The stored tensors that may be a shape or an index."""
    return {name: numpy_helper.to_array(tensor) for name, tensor in stored.items() if _may_be_size(tensor)}


def _may_be_size(tensor: onnx.TensorProto) -> bool:
    largest = _LARGEST_FLOATS if tensor.data_type == onnx.TensorProto.FLOAT else LARGEST
    return tensor.data_type in _DTYPES and not is_elsewhere(tensor) and prod(tensor.dims) <= largest


def folded(node: onnx.NodeProto, known: Mapping[str, Array], shapes: Mapping[str, Shape]) -> Array | None:
    """The node's only output where it follows from known tensors and shapes, else None."""
    if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    if node.op_type == "Shape":
        return _shape(node, shapes.get(node.input[0]))
    if node.op_type == "Constant":
        return _constant(node)
    compute = _COMPUTED.get(node.op_type)
    if compute is None or any(name and name not in known for name in node.input):
        return None
    its = attributes(node)
    if its.get("to", onnx.TensorProto.INT64) not in _DTYPES:
        return None
    made = np.asarray(compute([known[name] for name in node.input if name], its))
    return made if made.size <= LARGEST else None


def _shape(node: onnx.NodeProto, shape: Shape | None) -> Array | None:
    if shape is None:
        return None
    its = attributes(node)
    wanted = shape[its.get("start", 0) : its.get("end")]
    numbers = [dim for dim in wanted if isinstance(dim, int)]
    return np.asarray(numbers, np.int64) if len(numbers) == len(wanted) else None


def _constant(node: onnx.NodeProto) -> Array | None:
    its = attributes(node)
    return next((np.asarray(its[name]) for name in ("value_int", "value_ints") if name in its), None)


def _gather(given: Sequence[Array], its: dict[str, Any]) -> Array:
    return np.take(given[0], given[1].astype(np.int64), its.get("axis", 0))


def _concat(given: Sequence[Array], its: dict[str, Any]) -> Array:
    return np.concatenate(given, its.get("axis", 0))


def _unsqueeze(given: Sequence[Array], its: dict[str, Any]) -> Array:
    return np.expand_dims(given[0], tuple(its["axes"] if "axes" in its else given[1].tolist()))


def _squeeze(given: Sequence[Array], its: dict[str, Any]) -> Array:
    axes = its.get("axes", given[1].tolist() if len(given) > 1 else None)
    return np.squeeze(given[0], None if axes is None else tuple(axes))


def _slice(given: Sequence[Array], its: dict[str, Any]) -> Array:
    data, *rest = given
    starts, ends = (its["starts"], its["ends"]) if "starts" in its else (rest[0].tolist(), rest[1].tolist())
    axes = its.get("axes", rest[2].tolist() if len(rest) > 2 else range(len(starts)))
    steps = rest[3].tolist() if len(rest) > 3 else [1] * len(starts)
    index = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, None if step < 0 and end < -data.shape[axis] else end, step)
    return data[tuple(index)]


def _cast(given: Sequence[Array], its: dict[str, Any]) -> Array:
    return given[0].astype(_DTYPES[its["to"]])


def _divide(given: Sequence[Array], _its: dict[str, Any]) -> Array:
    if given[0].dtype.kind == "f":
        return given[0] / given[1]
    return np.asarray(np.fix(given[0] / given[1]), given[0].dtype)  # ONNX divides integers towards zero


def _modulo(given: Sequence[Array], its: dict[str, Any]) -> Array:
    made: Array = np.fmod(*given) if its.get("fmod") else np.mod(*given)
    return made


def _reshape(given: Sequence[Array], its: dict[str, Any]) -> Array:
    data, target = given
    copied = not its.get("allowzero")
    shape = [data.shape[at] if dim == 0 and copied else dim for at, dim in enumerate(target.tolist())]
    return data.reshape(shape)


def _expand(given: Sequence[Array], _its: dict[str, Any]) -> Array:
    data, target = given
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(target.tolist())))


def _constant_of_shape(given: Sequence[Array], its: dict[str, Any]) -> Array:
    value = numpy_helper.to_array(its["value"]) if "value" in its else np.zeros(1, np.float32)
    return np.broadcast_to(value, tuple(given[0]))


_COMPUTED: dict[str, Callable[[Sequence[Array], dict[str, Any]], Array]] = {
    "Gather": _gather,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Cast": _cast,
    "Div": _divide,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Mod": _modulo,
    "Reshape": _reshape,
    "Transpose": lambda given, its: np.transpose(given[0], its.get("perm")),
    "Add": lambda given, _: given[0] + given[1],
    "Equal": lambda given, _: given[0] == given[1],
    "Floor": lambda given, _: np.floor(given[0]),
    "Identity": lambda given, _: given[0],
    "Mul": lambda given, _: given[0] * given[1],
    "Range": lambda given, _: np.arange(*(one.item() for one in given)),
    "Sub": lambda given, _: given[0] - given[1],
    "Where": lambda given, _: np.where(*given),
}
