"""One walk over a graph: what lies along every axis of every tensor, by one rule an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx

from pipelines.arrays import Array
from pipelines.graph.channels.folding import Dim, Shape, folded, known_tensors
from pipelines.graph.channels.parts import Algebra, Parts
from pipelines.graph.channels.shapes import Shapes
from pipelines.graph.tensors import is_elsewhere, stored
from pipelines.graph.weights import name_of

Axis = Parts | None  # None: of unknown length, and in fixed order
Axes = tuple[Axis, ...]
Role = Literal["producer", "consumer", "follower"]

IS_INPUT = "it is an input of the graph"
IS_OUTPUT = "it is an output of the graph"
POSITIONS = "positions in a picture or a sequence keep their order"
SINGLE = "it is cut into single channels"
UNKNOWN_LENGTH = "the length of an axis that it meets is not known"


class Unfollowed(Exception):
    """Channels can't be followed through a node; the message is the reason that a person reads."""


class Lost(Unfollowed):
    """What a node reads was lost before it."""


@dataclass(frozen=True)
class Block:
    """Rows of a grouped layer's weight, and what lies along axis 1 for these rows alone."""

    rows: tuple[int, int]
    parts: Parts


_OF_SHAPES = {"EyeLike", "Shape", "Size"}  # what they make of an input has nothing to do with its values

Rule = Callable[["Trace", onnx.NodeProto], None]


class Trace:
    """What is known so far. Rules read `axes`, join them, and `give` the axes of the node's outputs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.algebra = Algebra()
        self.graph = model.graph
        self.opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 1)
        self.stored = stored(model.graph)
        self.shapes = Shapes(model)
        self.known = known_tensors(self.stored)
        self.constant = set(self.stored)  # depends on no input of the graph
        self.roles: dict[tuple[str, int], tuple[Role, str]] = {}  # (tensor, axis) -> role, node
        self.blocks: dict[str, tuple[Block, ...]] = {}  # weights of grouped layers
        self._axes: dict[str, Axes] = {}
        self._lost: dict[str, str] = {}  # tensors of unknown rank
        self._asked: set[str] = set()
        self._steering: dict[str, None] = {}
        self._fed = _overridable(model)
        for value in model.graph.input:
            if value.name not in self.stored and self.shapes.get(value.name) is not None:
                self._axes[value.name] = self.fresh(value.name, IS_INPUT)
        for sparse in model.graph.sparse_initializer:
            name = sparse.values.name
            self.shapes[name] = tuple(sparse.dims)
            self._axes[name] = self.fresh(name, f"{name} is stored as a sparse tensor")

    def shape(self, name: str) -> Shape:
        """The tensor's shape; Unfollowed where its rank is unknown."""
        if (shape := self.shapes.get(name)) is None:
            raise Unfollowed(f"the shape of {name} is not known")
        return shape

    def axes(self, name: str) -> Axes:
        """What lies along each axis of a tensor: a stored one has variables of its own when it is first read."""
        self._asked.add(name)
        if name not in self._axes:
            if name not in self.stored:
                raise Lost(self._lost.get(name, f"the shape of {name} is not known"))
            reason = f"the values of {name} are in another file" if is_elsewhere(self.stored[name]) else ""
            self._axes[name] = self.fresh(name, reason or self._fed.get(name, ""))
        return self._axes[name]

    def steered(self, node: onnx.NodeProto, rule: Rule) -> None:
        """Runs a rule. An input whose axes it does not ask for can only act by its values: these keep their order."""
        self._asked.clear()
        rule(self, node)
        if node.op_type not in _OF_SHAPES:
            self._steering.update(dict.fromkeys(name for name in node.input if name and name not in self._asked))

    def finish(self) -> None:
        """Pins what leaves the graph, and what steers a node."""
        for value in self.graph.output:
            self.pin_all(value.name, IS_OUTPUT)
        for name in self._steering:
            self.pin_all(name, "its values say what a node does")

    def fresh(self, name: str, reason: str = "") -> Axes:
        """Axes of a tensor that owe nothing to another; pinned where there is a reason."""
        made = tuple(self._variable(dim) for dim in self.shape(name))
        if reason:
            for axis in made:
                self.pin(axis, reason)
        return made

    def _variable(self, dim: Dim) -> Axis:
        if not isinstance(dim, int):
            return None
        return ((self.algebra.fresh(dim), 1),) if dim else ()

    def fixed(self, dim: Dim, reason: str = POSITIONS) -> Axis:
        """An axis of that length in fixed order."""
        return self.algebra.fixed(dim, reason) if isinstance(dim, int) else None

    def give(self, name: str, axes: Sequence[Axis]) -> None:
        """Says what lies along the axes of a node's output."""
        if not name:
            return
        if (shape := self.shapes.get(name)) is None:
            self.shapes[name] = shape = tuple(None if axis is None else self.algebra.length(axis) for axis in axes)
        if len(shape) != len(axes):
            raise Unfollowed(f"{name} should have {len(axes)} axes and has {len(shape)}")
        for dim, axis in zip(shape, axes, strict=True):
            if isinstance(dim, int) and axis is not None and self.algebra.length(axis) != dim:
                raise Unfollowed(f"{name} should be {self.algebra.length(axis)} long where the file says {dim}")
        self._axes[name] = tuple(axes)

    def join(self, one: Axis, other: Axis, reason: str) -> None:
        """The two axes are reordered alike; `reason` pins what can't be."""
        if one is None or other is None:
            self.pin(one, UNKNOWN_LENGTH)
            self.pin(other, UNKNOWN_LENGTH)
        elif self.algebra.length(one) != self.algebra.length(other):
            raise Unfollowed(f"axes of {self.algebra.length(one)} and {self.algebra.length(other)} meet")
        else:
            self.algebra.join(one, other, reason)

    def pin(self, axis: Axis, reason: str) -> None:
        """The axis keeps its order."""
        if axis is not None:
            self.algebra.pin(axis, reason)

    def met(self) -> Iterator[tuple[str, Axes]]:
        """Every tensor whose axes are known, in the order in which the walk came by."""
        yield from self._axes.items()

    def mark(self, name: str, axis: int, role: Role, node: onnx.NodeProto) -> None:
        """Says what a weight's axis is to the layer that reads it; the first reader's word stays."""
        self.roles.setdefault((name, axis), (role, name_of(node)))

    def give_fixed(self, node: onnx.NodeProto, reason: str) -> None:
        """Every output of the node in fixed order."""
        for name in node.output:
            if (shape := self.shapes.get(name)) is None:
                self._axes.pop(name, None)
                self._lost[name] = reason
            else:
                self._axes[name] = tuple(self.fixed(dim, reason) for dim in shape)

    def pin_all(self, name: str, reason: str) -> None:
        """Every axis of a tensor keeps its order, where the tensor is one that was met."""
        if name in self._axes or name in self.stored:
            for axis in self.axes(name):
                self.pin(axis, reason)


def traced(model: onnx.ModelProto, rules: Mapping[str, Rule]) -> Trace:
    """The walk: each node by its rule. What no rule covers, or a rule gives up on, is pinned with a reason."""
    trace = Trace(model)
    for node in model.graph.node:
        _follow(trace, node, rules)
    trace.finish()
    return trace


def _follow(trace: Trace, node: onnx.NodeProto, rules: Mapping[str, Rule]) -> None:
    if node.output and node.output[0] in trace.stored:
        return
    if all(not name or name in trace.constant for name in node.input) and not _nested(node):
        trace.constant.update(node.output)
    trace.shapes.learn(node, trace.known)
    value = _folded(trace, node)
    if value is not None:
        trace.known[node.output[0]] = value
        trace.shapes[node.output[0]] = value.shape
    rule = rules.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    try:
        if _nested(node):
            raise Unfollowed(f"{name_of(node)} is a {node.op_type} with a graph inside")
        if rule is None:
            domain = f"{node.domain}." if node.domain else ""
            raise Unfollowed(f"{name_of(node)} is a {domain}{node.op_type}, through which channels can't be followed")
        trace.steered(node, rule)
    except (Unfollowed, IndexError, KeyError, TypeError, ValueError) as unfollowed:
        malformed = "it does not have the inputs and attributes that its operator asks for"
        reason = str(unfollowed) if isinstance(unfollowed, Unfollowed) else malformed
        if name_of(node) not in reason and not isinstance(unfollowed, Lost):
            reason = f"{name_of(node)} ({node.op_type}): {reason}"
        for name in names_read(node):
            trace.pin_all(name, reason)
        trace.give_fixed(node, reason)


def _folded(trace: Trace, node: onnx.NodeProto) -> Array | None:
    try:
        return folded(node, trace.known, trace.shapes)
    except Exception:  # a fault in the file: the value stays unknown, and what needs it is pinned
        return None


def _nested(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [graph for one in node.attribute for graph in ([one.g] if one.HasField("g") else list(one.graphs))]


def names_read(node: onnx.NodeProto) -> list[str]:
    """All that the node reads, in its nested graphs too; names of these graphs' own are among them."""
    names = list(node.input)
    for graph in _nested(node):
        names += [name for inner in graph.node for name in names_read(inner)]
        names += [value.name for value in graph.output]
    return names


def _overridable(model: onnx.ModelProto) -> dict[str, str]:
    """Stored tensors that whoever runs the graph may replace; before IR 4 every one had to be listed so."""
    if model.ir_version < 4:
        return {}
    return {value.name: "it may be fed: it is listed as an input of the graph" for value in model.graph.input}
