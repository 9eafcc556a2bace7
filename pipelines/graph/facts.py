"""What can be said of an ONNX graph's tensors without running it: shapes, types, stored values, who makes and reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
from onnx import helper

from pipelines.arrays import Array
from pipelines.graph.tensors import is_elsewhere, stored, values
from pipelines.graph.weights import name_of

Shape = tuple[int | None, ...]
_TYPES = {"FLOAT": "float32", "DOUBLE": "float64"}  # others are called as numpy calls them, in capitals
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


class Graph:
    """The main graph of a model. Undefined answers are None: a rule that can't be decided is no finding by itself.

    Shapes are those that the file states, and what onnx's inference adds to them.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: tuple[onnx.NodeProto, ...] = tuple(model.graph.node)
        self.opset = opset_of(model)
        self._stored = stored(model.graph)
        self._values: dict[str, Array] = {}
        held = {tensor.name for tensor in model.graph.initializer}
        self.inputs = tuple(one.name for one in model.graph.input if one.name not in held)
        self.outputs = tuple(one.name for one in model.graph.output)
        self._types = {name: _of_tensor(tensor) for name, tensor in self._stored.items()}
        for value in _inferred(model):
            self._types.setdefault(value.name, _of_value(value))
        self._made_by = {name: node for node in self.nodes for name in node.output if name}
        self._read_by: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._read_by.setdefault(name, []).append(node)
        self._fixed = set(self._stored)
        for node in self.nodes:  # in topological order, as ONNX demands
            if _is_pure(node) and all(name in self._fixed or not name for name in node.input):
                self._fixed.update(node.output)

    def shape(self, name: str) -> Shape | None:
        """The tensor's shape, None for a size that is not known; None where not even the rank is."""
        return self._types.get(name, (None, ""))[0]

    def static(self, name: str) -> tuple[int, ...] | None:
        """The tensor's shape where all of it is known."""
        shape = self.shape(name)
        return None if shape is None or None in shape else tuple(int(size or 0) for size in shape)

    def dtype(self, name: str) -> str:
        """float32, int64, ... as numpy calls it; "" where it is not known."""
        return self._types.get(name, (None, ""))[1]

    def is_stored(self, name: str) -> bool:
        """Whether the file holds its values: an initializer, or what a Constant node gives."""
        return name in self._stored

    def is_fixed(self, name: str) -> bool:
        """Whether it is stored, or computed from stored tensors alone."""
        return name in self._fixed

    def value(self, name: str) -> Array | None:
        """The stored values. None where there are none in this file. PipelineError where they can't be read."""
        if name not in self._stored or is_elsewhere(self._stored[name]):
            return None
        if name not in self._values:
            self._values[name] = values(self._stored[name], name)
        return self._values[name]

    def stored_names(self) -> tuple[str, ...]:
        """Every stored tensor."""
        return tuple(self._stored)

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes it; None for inputs and initializers."""
        return self._made_by.get(name)

    def consumers(self, name: str) -> tuple[onnx.NodeProto, ...]:
        """The nodes of the main graph that read it."""
        return tuple(self._read_by.get(name, ()))

    @staticmethod
    def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
        """An attribute's value: int, float, str, list, TensorProto; the default where it is not there."""
        found = next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else found

    @staticmethod
    def called(node: onnx.NodeProto) -> str:
        """What a person finds the node by."""
        return name_of(node)

    @staticmethod
    def given(node: onnx.NodeProto, place: int) -> str:
        """The name of that input; "" where it is left out."""
        return str(node.input[place]) if len(node.input) > place else ""


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators; 1 where the file states none."""
    return next((int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx")), 1)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of nested graphs after the one that holds them."""
    for node in graph.node:
        yield node
        for one in node.attribute:
            for nested in [one.g] if one.HasField("g") else one.graphs:
                yield from all_nodes(nested)


def dtype_name(number: int) -> str:
    """onnx.TensorProto's number of a type, as numpy calls it; "" for 0, undefined."""
    if not number:
        return ""
    name = str(onnx.TensorProto.DataType.Name(number))
    return _TYPES.get(name, name.lower())


def _inferred(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What the file states first, then what inference finds; weights are not copied for it where they need not be."""
    stated = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    try:
        found = onnx.shape_inference.infer_shapes(model)
    except Exception:  # the checker names the fault; what is stated still stands
        return [value for value in stated if _of_value(value)[0] is not None]
    return [value for value in (*stated, *found.graph.value_info, *found.graph.output) if _is_static(value)] + [
        *found.graph.value_info,
        *found.graph.output,
        *stated,
    ]


def _is_static(value: onnx.ValueInfoProto) -> bool:
    shape = _of_value(value)[0]
    return shape is not None and None not in shape


def _of_value(value: onnx.ValueInfoProto) -> tuple[Shape | None, str]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None, dtype_name(tensor.elem_type)
    shape = tuple(int(dim.dim_value) if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return shape, dtype_name(tensor.elem_type)


def _of_tensor(tensor: onnx.TensorProto) -> tuple[Shape | None, str]:
    return tuple(int(size) for size in tensor.dims), dtype_name(tensor.data_type)


def _is_pure(node: onnx.NodeProto) -> bool:
    """Whether the same inputs give the same outputs, and nothing else is read."""
    nests = any(one.HasField("g") or len(one.graphs) for one in node.attribute)
    return node.domain in ("", "ai.onnx") and node.op_type not in _RANDOM and not nests
