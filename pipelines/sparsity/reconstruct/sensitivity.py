"""Which layers to leave dense: what one sparse layer alone does to the answers, against the weights that it saves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from pipelines.arrays import Array
from pipelines.graph.cost import macs_of
from pipelines.graph.weights import split
from pipelines.inference import outputs_of
from pipelines.sparsity.pattern import NMPattern
from pipelines.sparsity.reconstruct.correct import Editor, Progress, correct, seen_in_order, solved_layer
from pipelines.sparsity.reconstruct.linear import linears_of


@dataclass(frozen=True)
class LayerSensitivity:
    """`divergence`: mean Kullback-Leibler divergence of the answers in nats where only this layer is sparse.

    `macs`: multiply-accumulates for one picture, None where the file does not state the shapes.
    """

    node: str
    weights: int
    macs: int | None
    divergence: float
    dense: bool


@dataclass(frozen=True)
class Sensitivity:
    """`layers` in graph order; the shares are of the layers that the pattern applies to."""

    budget: float
    layers: tuple[LayerSensitivity, ...]

    @property
    def dense(self) -> tuple[str, ...]:
        """Nodes left dense."""
        return tuple(one.node for one in self.layers if one.dense)

    @property
    def weights_share(self) -> float:
        """Of all weights, those at the pattern."""
        return _share([(one.weights, one.dense) for one in self.layers])

    @property
    def macs_share(self) -> float | None:
        """Of all multiply-accumulates, those at the pattern; None where some are not known."""
        known = [(one.macs, one.dense) for one in self.layers if one.macs is not None]
        return _share(known) if len(known) == len(self.layers) else None


def choose_dense(
    dense: onnx.ModelProto,
    pattern: NMPattern,
    images: Array,
    budget: float = 0.9,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sensitivity:
    """Leave those layers dense that hurt most for their size, as many as leave `budget` of the weights at N:M.

    Each layer is made sparse by itself, corrected as `correct` does by "obs" on every second of `images` and judged on
    the others: on its own pictures a corrected layer seems harmless. Crops that go round an even number of pictures
    share none between the two. ValueError for a budget that is not in (0, 1] or fewer than two images.
    """
    del seed  # nothing here is random
    if not 0 < budget <= 1:
        raise ValueError(f"budget: {budget} is not in (0, 1]")
    if len(images) < 2:
        raise ValueError(f"images: {len(images)}, fewer than two: one to fit and one to judge")
    found = divergences(dense, pattern, images[::2], images[1::2], progress)
    weights = split(dense, pattern)[0]
    sizes = [math.prod(weight.shape) for weight in weights]
    left = worst_that_fit([found[weight.node] for weight in weights], sizes, budget)
    macs = macs_of(dense)
    return Sensitivity(
        budget=budget,
        layers=tuple(
            LayerSensitivity(weight.node, size, macs.get(weight.node), found[weight.node], place in left)
            for place, (weight, size) in enumerate(zip(weights, sizes, strict=True))
        ),
    )


def divergences(
    dense: onnx.ModelProto, pattern: NMPattern, fitting: Array, judging: Array, progress: Progress | None = None
) -> dict[str, float]:
    """Node -> divergence of the answers with that layer alone sparse; by magnitude where it can't be corrected."""
    reference = outputs_of(dense.SerializeToString(), judging)[0]
    nodes = [weight.node for weight in split(dense, pattern)[0]]
    linears = [one for one in linears_of(dense) if one.node in nodes]
    found: dict[str, float] = {}

    def judge(node: str, alone: onnx.ModelProto) -> None:
        found[node] = divergence(reference, outputs_of(alone.SerializeToString(), judging)[0])
        if progress is not None:
            progress(node, len(found), len(nodes))

    for one, seen in seen_in_order(dense, dense, linears, fitting):
        alone = onnx.ModelProto()
        alone.CopyFrom(dense)
        Editor(alone).put(one, solved_layer(dense, one, seen, pattern, "obs"))
        judge(one.node, alone)
    for node in nodes:
        if node not in found:
            others = [other for other in nodes if other != node]
            judge(node, correct(dense, pattern, fitting, method="none", keep=others)[0])
    return found


def worst_that_fit(found: Sequence[float], sizes: Sequence[int], budget: float) -> set[int]:
    """Places to leave dense: in order of divergence over the root of size, each that leaves `budget` of all sparse."""
    room = (1 - budget) * sum(sizes)
    left: set[int] = set()
    for place in sorted(range(len(sizes)), key=lambda i: (-found[i] / math.sqrt(sizes[i]), i)):
        if sizes[place] <= room:
            left.add(place)
            room -= sizes[place]
    return left


def divergence(reference: Array, answers: Array) -> float:
    """Mean over pictures of KL(softmax(reference) || softmax(answers)) in nats, of scores [N, classes]."""
    p, q = _log_softmax(reference), _log_softmax(answers)
    return float((np.exp(p) * (p - q)).sum(1).mean())


def _log_softmax(scores: Array) -> Array:
    flat = scores.reshape(len(scores), -1).astype(np.float64)
    shifted = flat - flat.max(1, keepdims=True)
    logs: Array = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return logs


def _share(amounts: Sequence[tuple[int, bool]]) -> float:
    total = sum(amount for amount, _ in amounts)
    return sum(amount for amount, dense in amounts if not dense) / total if total else 0.0
