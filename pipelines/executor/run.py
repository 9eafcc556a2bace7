"""Evaluation of a graph, node by node; a tensor is let go after its last reader."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from pipelines.arrays import Array
from pipelines.errors import PipelineError, first_line
from pipelines.executor import (  # noqa: F401 - each fills the table
    convolution,
    elementwise,
    indexing,
    norms,
    pooling,
    products,
    quantization,
    reductions,
    resize,
    shaping,
)
from pipelines.executor.operators import OPERATORS, Call
from pipelines.graph.tensors import stored, values
from pipelines.graph.weights import name_of

OnNode = Callable[[onnx.NodeProto, Sequence[Array | None]], Sequence[Array] | None]


def evaluate(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    *,
    dtype: npt.DTypeLike = np.float64,
    wanted: Sequence[str] | None = None,
    weights: Mapping[str, Array] | None = None,
    on_node: OnNode | None = None,
) -> dict[str, Array]:
    """Name -> value of the graph's outputs, or of the tensors `wanted`, as ONNX (opset 7 to 17) defines its operators.

    Every float tensor is held as `dtype`; whole numbers stay what they are. `weights` replaces stored tensors by name.
    `on_node(node, inputs)` may give a node's outputs itself, or None. Only nodes that `wanted` needs are run.
    ValueError for a feed that is missing; PipelineError for an operator that is not known here, or a faulty graph.
    """
    return Plan(model, dtype=dtype, wanted=wanted, weights=weights, fed=feeds).run(feeds, on_node)


@dataclass(frozen=True)
class _Step:
    """A node, decoded; `last` are the tensors that nothing reads after it."""

    node: onnx.NodeProto
    call: Call
    last: tuple[str, ...]

    def computed(self, given: Sequence[Array | None]) -> Sequence[Array]:
        """What NumPy makes of the inputs. PipelineError for an operator that is not known here."""
        node = self.node
        function = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if function is None:
            kind = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
            raise PipelineError(f"{name_of(node)}: the operator {kind} is not known to the NumPy executor")
        made = function(self.call, *given)
        return made if isinstance(made, tuple) else (made,)


class Plan:
    """What `evaluate` finds out before it computes, for graphs that are run more than once."""

    def __init__(
        self,
        model: onnx.ModelProto,
        *,
        dtype: npt.DTypeLike = np.float64,
        wanted: Sequence[str] | None = None,
        weights: Mapping[str, Array] | None = None,
        fed: Collection[str] = (),
    ) -> None:
        graph = model.graph
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.wanted = [value.name for value in graph.output] if wanted is None else list(wanted)
        self._held: dict[str, Any] = {**stored(graph), **(weights or {})}
        self._feeds = [value.name for value in graph.input if value.name not in self._held]
        opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 1)
        nodes = _needed(graph, set(self.wanted), {*self._held, *self._feeds, *fed})
        kept, steps = set(self.wanted), []
        for node in reversed(nodes):
            last = {name for name in node.input if name} - kept
            kept |= last
            unread = [name for name in node.output if name and name not in kept]
            steps.append(_Step(node, Call.of(node, opset, self.dtype), (*sorted(last), *unread)))
        self._steps = steps[::-1]

    def load(self) -> None:
        """Read every stored tensor that a run needs now: later runs find it as an array of `dtype`."""
        read = {name for step in self._steps for name in step.node.input} | set(self.wanted)
        self._held = {name: self._read(self._held[name], name) for name in self._held.keys() & read}

    def run(self, feeds: Mapping[str, Array], on_node: OnNode | None = None) -> dict[str, Array]:
        """As `evaluate` says."""
        if missing := [name for name in self._feeds if name not in feeds]:
            raise ValueError(f"feeds: {missing[0]} is missing")
        held = {**self._held, **{name: self._read(value, name) for name, value in feeds.items()}}
        with np.errstate(all="ignore"):  # infinities are the file's own
            for step in self._steps:
                given = [self._value(held, name, step.node) if name else None for name in step.node.input]
                held.update(zip(step.node.output, self._computed(step, given, on_node), strict=False))
                for name in step.last:
                    held.pop(name, None)
            return {name: self._value(held, name, None) for name in self.wanted}

    def _computed(self, step: _Step, given: Sequence[Array | None], on_node: OnNode | None) -> Sequence[Array]:
        try:
            if on_node is not None and (made := on_node(step.node, given)) is not None:
                return made
            return [_as(np.asarray(one), self.dtype) for one in step.computed(given)]
        except (ValueError, IndexError, TypeError) as error:
            shapes = [None if one is None else list(one.shape) for one in given]
            what = f"{name_of(step.node)}: {step.node.op_type} fails on inputs of shapes {shapes}"
            raise PipelineError(f"{what}: {first_line(error)}") from error

    def _read(self, found: Any, name: str) -> Array:
        """With floats as `dtype`."""
        return _as(values(found, name) if isinstance(found, onnx.TensorProto) else np.asarray(found), self.dtype)

    def _value(self, held: dict[str, Any], name: str, node: onnx.NodeProto | None) -> Array:
        """A tensor; a stored one is read where it is used, so that a graph that is run once holds one at a time."""
        found = held.get(name)
        if found is None:
            reader = f"{name_of(node)} reads {name}" if node is not None else name
            raise PipelineError(f"{reader}, which nothing in the graph makes")
        if not isinstance(found, np.ndarray):
            found = held[name] = self._read(found, name)
        return found


def _needed(graph: onnx.GraphProto, wanted: set[str], held: set[str]) -> list[onnx.NodeProto]:
    """The nodes that make `wanted`, in graph order."""
    open_names, nodes = wanted - held, []
    for node in reversed(graph.node):
        if open_names.intersection(node.output) and not held.issuperset(node.output):
            nodes.append(node)
            open_names.update(name for name in node.input if name and name not in held)
    return nodes[::-1]


def _as(array: Array, dtype: np.dtype[Any]) -> Array:
    return array.astype(dtype) if array.dtype.kind == "f" and array.dtype != dtype else array
