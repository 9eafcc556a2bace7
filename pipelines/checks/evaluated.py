"""A network evaluated in float64, every tensor inside kept as one number, and where two such evaluations part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from pipelines.arrays import Array
from pipelines.errors import PipelineError
from pipelines.executor import evaluate
from pipelines.graph.groups import Place
from pipelines.graph.reorder import moved, moves
from pipelines.graph.tensors import stored
from pipelines.graph.weights import name_of


@dataclass(frozen=True)
class Inside:
    """A tensor's projection on a random direction that only its size decides: one wrong channel moves it."""

    size: int
    projection: float
    rms: float


@dataclass(frozen=True)
class Evaluated:
    """Of one picture. `inside`: what layers read of each other, in the order of the other network's channels."""

    outputs: dict[str, Array]
    inside: dict[str, Inside]


def evaluated(
    model: onnx.ModelProto,
    image: Array,
    spots: Mapping[str, Sequence[tuple[str, Place]]] | None = None,
    permutations: Mapping[str, Array] | None = None,
) -> Evaluated:
    """`image` [1, C, H, W]. `spots`: tensor -> channels to put in the order of `permutations` before they are compared.

    PipelineError for an operator that the NumPy executor does not know.
    """
    held = stored(model.graph)
    names = [value.name for value in model.graph.input if value.name not in held]
    if len(names) != 1:
        raise PipelineError(f"the graph has {len(names)} inputs", "this pipeline feeds one picture to one input")
    inside: dict[str, Inside] = {}
    directions: dict[int, Array] = {}

    def look(node: onnx.NodeProto, given: Sequence[Array | None]) -> None:
        for name, value in zip(node.input, given, strict=True):
            if value is None or name in inside or name in held or value.dtype.kind != "f" or not value.size:
                continue
            if spots and name in spots:
                value = moved(value, moves(dict(enumerate(value.shape)), spots[name], permutations or {}))
            if value.size not in directions:
                directions[value.size] = np.random.default_rng(value.size).standard_normal(value.size)
            flat = value.reshape(-1)
            rms = float(np.linalg.norm(flat)) / flat.size**0.5
            inside[name] = Inside(flat.size, float(flat @ directions[flat.size]), rms)

    return Evaluated(evaluate(model, {names[0]: image}, on_node=look), inside)


def first_difference(model: onnx.ModelProto, wanted: Evaluated, found: Evaluated, limit: float) -> tuple[float, str]:
    """The largest relative difference of any tensor inside, and the first one beyond `limit`, "" where none is.

    Relative to the tensor, or to what its node reads where that is larger: what cancels leaves only rounding.
    """
    worst, first = 0.0, ""
    for node in model.graph.node:
        for name in node.output:
            if name not in wanted.inside:
                continue
            left, right = wanted.inside[name], found.inside.get(name)
            scale = max(wanted.inside[one].rms for one in (name, *node.input) if one in wanted.inside)
            if right is None or left.size != right.size:
                error = float("inf")
            elif left.projection == right.projection:
                error = 0.0
            else:
                error = abs(left.projection - right.projection) / (scale * left.size**0.5 or np.finfo(float).tiny)
            if not error <= worst:  # NaN is the worst of all
                worst = error
            if not first and not error <= limit:
                first = f"{name} of node {name_of(node)}"
    return worst, first
