"""The shape of every tensor, without the weights being copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

import onnx
from onnx import numpy_helper

from pipelines.arrays import Array
from pipelines.graph.channels.folding import LARGEST, Dim, Shape
from pipelines.graph.tensors import stored


class Shapes(dict[str, Shape]):
    """Name -> shape: what the file states, and what onnx's inference adds; a tensor of unknown rank is missing."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        held = stored(model.graph)
        self._opsets = list(model.opset_import)
        self._ir_version = model.ir_version
        self._dtypes = {name: tensor.data_type for name, tensor in held.items()}
        self._take(value for values in _values(model.graph) for value in values)
        self.update((name, tuple(tensor.dims)) for name, tensor in held.items())
        if not all(self.is_static(name) for node in model.graph.node for name in node.output if name):
            for values in _values(_inferred(model, held).graph):
                self._take(value for value in values if value.name not in held)

    def is_static(self, name: str) -> bool:
        """Whether every length is a number."""
        return name in self and all(isinstance(dim, int) for dim in self[name])

    def learn(self, node: onnx.NodeProto, known: Mapping[str, Array]) -> None:
        """The node's outputs from its inputs, where the inference of the whole graph left them open.

        It does not compute with shapes; `known` holds small tensors that were computed meanwhile.
        """
        given = [name for name in dict.fromkeys(node.input) if name]
        if all(self.is_static(name) for name in node.output if name):
            return
        if not all(self.is_static(name) and name in self._dtypes for name in given):
            return
        graph = onnx.GraphProto(name="one")
        graph.node.add().CopyFrom(node)
        graph.initializer.extend(numpy_helper.from_array(known[name], name) for name in given if name in known)
        for name in given:
            graph.input.add().CopyFrom(onnx.helper.make_tensor_value_info(name, self._dtypes[name], self[name]))
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
        one = onnx.ModelProto(ir_version=self._ir_version, opset_import=self._opsets, graph=graph)
        self._take(_infer(one).graph.output)

    def _take(self, values: Iterable[onnx.ValueInfoProto]) -> None:
        for value in values:
            its = value.type.tensor_type
            if its.elem_type:
                self._dtypes[value.name] = its.elem_type
            if its.HasField("shape") and not self.is_static(value.name):
                self[value.name] = tuple(_dim(dim) for dim in its.shape.dim)


def _values(graph: onnx.GraphProto) -> tuple[Iterable[onnx.ValueInfoProto], ...]:
    return graph.input, graph.value_info, graph.output


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.dim_value > 0:  # some exporters write 0 or -1 for what is not known
        return int(dim.dim_value)
    return str(dim.dim_param) if dim.dim_param else None


def _inferred(model: onnx.ModelProto, held: Mapping[str, onnx.TensorProto]) -> onnx.ModelProto:
    """The model as far as its shapes follow from its nodes: large tensors lend theirs and stay behind."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    bare.graph.name = model.graph.name
    for node in model.graph.node:
        if node.op_type == "Constant" and (tensor := held.get(node.output[0])) is not None and _is_large(tensor):
            bare.graph.initializer.add().CopyFrom(_emptied(tensor, node.output[0]))
        else:
            bare.graph.node.add().CopyFrom(node)
    for tensor in model.graph.initializer:
        bare.graph.initializer.add().CopyFrom(_emptied(tensor, tensor.name) if _is_large(tensor) else tensor)
    bare.graph.input.extend(model.graph.input)
    bare.graph.output.extend(model.graph.output)
    bare.graph.value_info.extend(model.graph.value_info)
    return _infer(bare)


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # a node that inference refuses, in whichever class of errors: shapes stay unknown
        return model


def _is_large(tensor: onnx.TensorProto) -> bool:
    return bool(prod(tensor.dims) > LARGEST)


def _emptied(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    return onnx.TensorProto(name=name, data_type=tensor.data_type, dims=tensor.dims)
