"""Who shares each channel dimension of an ONNX graph, and whether its channels may be reordered."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count

import onnx

from pipelines.graph.channels.parts import Algebra, Parts
from pipelines.graph.channels.rules import RULES
from pipelines.graph.channels.trace import SINGLE, Role, Trace, names_read, traced
from pipelines.graph.channels.weights import blocks_of_stored, roles_of_stored
from pipelines.graph.weights import name_of


@dataclass(frozen=True)
class Place:
    """Where a group's channels lie in a stored tensor (an initializer, or what a Constant node holds).

    Channel c is at positions start + c * inner .. start + (c + 1) * inner of `axis`; for the rows [first, last) of
    axis 0 only, where `rows` says so (a grouped convolution). `role`: a producer is an axis of output channels of a
    weight, a consumer one of input channels, a follower all else that goes with the channels (bias, norm, slope).
    """

    tensor: str
    axis: int
    start: int
    inner: int
    rows: tuple[int, int] | None
    role: Role
    node: str  # the layer, or the first node that reads the tensor


@dataclass(frozen=True)
class Spot:
    """Where a group's channels lie in a computed tensor or an input of the graph; positions as in `Place`."""

    tensor: str
    axis: int
    start: int
    inner: int


@dataclass(frozen=True)
class ChannelGroup:
    """All that must be reordered together. `reason` is why it can't be, "" where it can.

    A group may lie several times along one axis: attention heads of one layer share one order.
    """

    name: str
    size: int
    places: tuple[Place, ...]
    activations: tuple[Spot, ...]
    reason: str

    @property
    def permutable(self) -> bool:
        """Whether any order of its channels leaves the outputs as they are, once all its places follow."""
        return not self.reason


def channel_groups(model: onnx.ModelProto) -> tuple[ChannelGroup, ...]:
    """Every group of two or more channels that a layer's weight makes or reads, in graph order.

    Follows the graph alone, weights are not read. Each position along an axis of a tensor belongs to one group at
    most. What can't be followed (an unknown operator, a nested graph, an unknown length) pins the groups that it meets.
    Neighbouring channels that are each tied to another place, and so keep theirs, are one group with that reason.
    """
    trace = traced(model, RULES)
    places: dict[int, list[Place]] = {}
    alone: list[Place] = []
    for place, variable in _places(trace):
        if trace.algebra.size[variable] > 1:
            places.setdefault(variable, []).append(place)
        elif place.role != "follower":
            alone.append(place)
    spots: dict[int, list[Spot]] = {}
    for name, axes in trace.met():
        if name not in trace.stored:
            for number, axis in enumerate(axes):
                for variable, start, inner in _runs(trace.algebra, axis or ()):
                    spots.setdefault(variable, []).append(Spot(name, number, start, inner))
    named: dict[str, ChannelGroup] = {}
    for variable, its in places.items():
        if any(place.role != "follower" for place in its):
            size, reason = trace.algebra.size[variable], trace.algebra.reason[variable]
            name = _unused(_name(its, size, trace), named)
            named[name] = ChannelGroup(name, size, tuple(its), tuple(spots.get(variable, ())), reason)
    for place, size in _neighbours(alone):
        name = _unused(_name([place], size, trace), named)
        named[name] = ChannelGroup(name, size, (place,), (), SINGLE)
    return tuple(named.values())


def _neighbours(alone: Sequence[Place]) -> Iterator[tuple[Place, int]]:
    """Runs of two or more single channels side by side: the first one's place, and how many."""
    run = 0
    for number, place in enumerate(alone):
        behind = replace(place, start=place.start + place.inner)
        if number + 1 == len(alone) or alone[number + 1] != behind:
            if number > run:
                yield alone[run], number - run + 1
            run = number + 1


def _runs(algebra: Algebra, parts: Parts) -> Iterator[tuple[int, int, int]]:
    """Variable, start and inner of each part along an axis."""
    start = 0
    for variable, inner in algebra.resolved(parts):
        yield variable, start, inner
        start += algebra.size[variable] * inner


def _places(trace: Trace) -> Iterator[tuple[Place, int]]:
    """Every place in a stored tensor, with the variable that lies there."""
    roles, blocks = roles_of_stored(trace), blocks_of_stored(trace)
    readers: dict[str, str] = {}
    for node in trace.graph.node:
        for name in names_read(node):
            readers.setdefault(name, name_of(node))
    for name, axes in trace.met():
        if name not in trace.stored:
            continue
        for number, axis in enumerate(axes):
            along: list[tuple[tuple[int, int] | None, Parts]] = [(None, axis or ())]
            if number == 1 and name in blocks:
                along = [(block.rows, block.parts) for block in blocks[name]]
            role, node = roles.get((name, number), ("follower", readers[name]))
            for rows, parts in along:
                for variable, start, inner in _runs(trace.algebra, parts):
                    yield Place(name, number, start, inner, rows, role, node), variable


def _name(places: Sequence[Place], size: int, trace: Trace) -> str:
    """The first layer that makes the channels, or else the first that reads them; and which, where not all."""
    first = min((one for one in places if one.role != "follower"), key=lambda one: one.role != "producer")
    kind = "" if first.role == "producer" else "inputs of "
    length = trace.shape(first.tensor)[first.axis]
    part = f"[{first.start}:{first.start + size * first.inner}]" if size * first.inner != length else ""
    rows = f" of rows [{first.rows[0]}:{first.rows[1]}]" if first.rows else ""
    return f"{kind}{first.node}{part}{rows}"


def _unused(name: str, taken: Container[str]) -> str:
    """The name, numbered where another group has it."""
    return next(one for one in chain((name,), (f"{name} #{number}" for number in count(2))) if one not in taken)
