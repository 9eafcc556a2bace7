"""The tensors that an ONNX model stores: its initializers, and what its Constant nodes hold."""

from __future__ import annotations

import hashlib
from typing import Any

import onnx
from onnx import numpy_helper

from pipelines.arrays import Array
from pipelines.errors import PipelineError, first_line


def stored(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Name -> the tensor inside `graph` itself (not of nested graphs): changing it changes the model."""
    held = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if _is_constant(node):
            held.update((node.output[0], one.t) for one in node.attribute if one.name == "value")
    return held


def is_elsewhere(tensor: onnx.TensorProto) -> bool:
    """True where its values are in another file, and were not loaded."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def values(tensor: onnx.TensorProto, name: str) -> Array:
    """Its values. PipelineError where they are not in the model, or are none of its shape and type."""
    if is_elsewhere(tensor):
        raise PipelineError(
            f"the values of {name} are in another file", "keep it beside the model, or store them in it"
        )
    try:
        array: Array = numpy_helper.to_array(tensor)
    except (TypeError, ValueError, KeyError) as error:
        raise PipelineError(f"{name} can't be read: {first_line(error)}", "export the model again") from error
    return array


def values_of(model: onnx.ModelProto) -> dict[str, Array]:
    """Name -> values, of every stored tensor."""
    return {name: values(tensor, name) for name, tensor in stored(model.graph).items()}


def changed_tensors(before: onnx.ModelProto, after: onnx.ModelProto) -> dict[str, str]:
    """Name -> sha256 of the values in `after`, of every tensor that is new there or whose bytes are others."""
    held = stored(before.graph)
    changed = {}
    for name, tensor in stored(after.graph).items():
        found = values(tensor, name)
        if name not in held or not same_bits(found, values(held[name], name)):
            changed[name] = fingerprint(found)
    return changed


def same_bits(left: Array, right: Array) -> bool:
    """Whether type, shape and every bit are the same: NaN equals itself, and -0.0 is not 0.0."""
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    return left.tobytes() == right.tobytes()


def fingerprint(array: Array) -> str:
    """Hex sha256 of type, shape and values."""
    told = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(told + array.tobytes()).hexdigest()


def without_tensors(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every stored tensor is empty: the rest of the model, without ever copying weights."""
    bare = onnx.ModelProto()
    _copy_fields(model, bare, "graph")
    _copy_fields(model.graph, bare.graph, "initializer", "node")
    for _ in model.graph.initializer:
        bare.graph.initializer.add()
    for node in model.graph.node:
        copy = bare.graph.node.add()
        _copy_fields(node, copy, "attribute")
        for one in node.attribute:
            value = copy.attribute.add()
            if _is_constant(node) and one.name == "value":
                _copy_fields(one, value, "t")
                value.t.SetInParent()  # there, and empty
            else:
                value.CopyFrom(one)
    return bare


def _is_constant(node: onnx.NodeProto) -> bool:
    return bool(node.op_type == "Constant" and node.domain in ("", "ai.onnx"))


def _copy_fields(source: Any, target: Any, *without: str) -> None:
    for field, value in source.ListFields():
        if field.name in without:
            continue
        if field.label == field.LABEL_REPEATED:
            getattr(target, field.name).extend(value)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)
