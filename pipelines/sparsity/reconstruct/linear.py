"""A convolution or matrix product as y[group] = matrix[group] @ columns[group] + bias."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view

from pipelines.arrays import Array
from pipelines.graph.sources import FLOATS
from pipelines.graph.tensors import stored
from pipelines.graph.weights import name_of


@dataclass(frozen=True)
class Linear:
    """A layer whose weight is stored and read by it alone.

    As `matrix` [G, K/G, D] its weight has the input channels last within each kernel position, so an N:M group is m
    consecutive columns, and no group crosses a multiple of `run`.
    """

    node: str
    op: str  # Conv, Gemm or MatMul
    source: str
    result: str
    weight: str
    bias: str  # stored vector of K; "" where it has none
    bias_follows: bool  # an Add after the layer holds it
    shape: tuple[int, ...]
    groups: int = 1
    transposed: bool = False  # [K, C], as Gemm's transB has it
    pads: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()

    @property
    def run(self) -> int:
        """Input channels that one output sees."""
        return self.shape[1] if self.op == "Conv" or self.transposed else self.shape[0]

    def matrix(self, weight: Array) -> Array:
        """[G, K/G, D] of a weight in the stored layout."""
        if self.op != "Conv":
            whole: Array = (weight if self.transposed else weight.T)[None]
            return whole
        rows: Array = np.moveaxis(weight, 1, -1).reshape(self.groups, self.shape[0] // self.groups, -1)
        return rows

    def stored(self, matrix: Array) -> Array:
        """The stored layout of such a matrix."""
        if self.op != "Conv":
            product: Array = matrix[0] if self.transposed else matrix[0].T
            return product
        weight: Array = np.moveaxis(matrix.reshape(self.shape[0], *self.shape[2:], self.shape[1]), -1, 1)
        return weight

    def columns(self, x: Array) -> Array:
        """[G, D, P] of the layer's input [1, C, ...] or [..., C], for P output positions."""
        if self.op != "Conv":
            return _of_product(x)
        dims = len(self.shape) - 2
        edges = list(zip(self.pads[:dims], self.pads[dims:], strict=True))
        padded = np.pad(x, [(0, 0), (0, 0), *edges]) if any(self.pads) else x
        reach = [step * (size - 1) + 1 for step, size in zip(self.dilations, self.shape[2:], strict=True)]
        windows = sliding_window_view(padded, reach, axis=tuple(range(2, 2 + dims)))
        steps = tuple(slice(None, None, step) for step in (*self.strides, *self.dilations))
        seen: Array = windows[(0, slice(None)) + steps]  # [C, positions..., kernel...]  # noqa: RUF005 - 3.10
        count = math.prod(seen.shape[1 : 1 + dims])
        flat = seen.reshape(self.groups, self.shape[1], count, -1)
        columns: Array = flat.transpose(0, 3, 1, 2).reshape(self.groups, -1, count)
        return columns

    def rows(self, y: Array) -> Array:
        """[G, K/G, P] of the layer's output."""
        if self.op != "Conv":
            return _of_product(y)
        rows: Array = y.reshape(self.groups, self.shape[0] // self.groups, -1)
        return rows


def _of_product(values: Array) -> Array:
    """[1, C, P] of [..., C]."""
    columns: Array = values.reshape(-1, values.shape[-1]).T[None]
    return columns


def linears_of(model: onnx.ModelProto) -> list[Linear]:
    """Every layer in that form, in graph order: what else there is can be masked, not corrected."""
    graph, held = model.graph, stored(model.graph)
    reads = Counter(_read(graph))
    following = {name: node for node in graph.node if node.op_type == "Add" for name in node.input}
    found = []
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        tensor = held.get(node.input[1])
        if tensor is None or reads[node.input[1]] != 1 or tensor.data_type not in FLOATS:
            continue
        shape = tuple(tensor.dims)
        options = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        form = _form(node.op_type, shape, options)
        if form is None:
            continue
        bias = node.input[2] if len(node.input) > 2 else ""
        after = following.get(node.output[0]) if not bias and reads[node.output[0]] == 1 else None
        if after is not None:
            bias = next(name for name in after.input if name != node.output[0])
        outputs = shape[0] if node.op_type == "Conv" or form.get("transposed") else shape[1]
        if bias and (bias not in held or tuple(held[bias].dims) not in ((outputs,), (1, outputs)) or reads[bias] != 1):
            if after is None:
                continue  # a bias that others read too, or that is computed
            after, bias = None, ""
        names = (name_of(node), node.op_type, node.input[0], node.output[0], node.input[1], bias)
        found.append(Linear(*names, bias_follows=after is not None, shape=shape, **form))
    return found


def _read(graph: onnx.GraphProto) -> Iterable[str]:
    """Every name that is read, once a reader; nested graphs included."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for one in node.attribute:
            for nested in [one.g] if one.HasField("g") else one.graphs:
                yield from _read(nested)


def _form(op: str, shape: tuple[int, ...], options: dict[str, Any]) -> dict[str, Any] | None:
    """The rest of Linear's fields; None where the node computes something else than matrix @ columns + bias."""
    if op == "MatMul":
        return {} if len(shape) == 2 else None
    if op == "Gemm":
        scaled = options.get("alpha", 1.0) != 1.0 or options.get("beta", 1.0) != 1.0
        return None if scaled or options.get("transA", 0) else {"transposed": bool(options.get("transB", 0))}
    if options.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    dims = len(shape) - 2
    return {
        "groups": int(options.get("group", 1)),
        "pads": tuple(options.get("pads", (0,) * 2 * dims)),
        "strides": tuple(options.get("strides", (1,) * dims)),
        "dilations": tuple(options.get("dilations", (1,) * dims)),
    }
