"""One matrix a channel group: the rows of every weight that reads its channels and will follow the pattern."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from pipelines.arrays import Array
from pipelines.errors import PipelineError
from pipelines.graph.groups import ChannelGroup, Place
from pipelines.graph.tensors import stored, values
from pipelines.graph.weights import Weight, split, weights_of
from pipelines.sparsity.pattern import NMPattern


@dataclass(frozen=True)
class Scored:
    """A weight that will follow the pattern, its input channels last: what each of its values is worth."""

    worth: Array  # [..., input channels], floats >= 0: |w| (of levels if quantised), or that times the importance
    axis: int  # of the input channels in the stored tensor


@dataclass(frozen=True)
class Stack:
    """What a search sees of a group. `lead` channels stand before the first position where a group of M begins."""

    rows: int
    size: int  # channels
    places: tuple[Place, ...]  # whose rows they are
    lead: int
    left_out: tuple[tuple[str, str], ...]  # weights that read the channels too, and why the search can't serve them

    @property
    def counted(self) -> tuple[str, ...]:
        """Weights, in graph order."""
        return tuple(dict.fromkeys(place.tensor for place in self.places))

    def matrix(self, scored: Mapping[str, Scored]) -> Array:
        """[rows, channels], floats >= 0."""
        return np.concatenate([_rows(place, scored[place.tensor], self.size) for place in self.places])

    def laid_out(self, order: Array, pattern: NMPattern) -> Array:
        """The permutation in which the groups of M of a searched order fall on the pattern's own.

        Where others' channels come first, the last channels of the order go to both ends, into groups of M that are
        shared with the neighbours.
        """
        if not self.lead:
            return order
        whole = max(0, len(order) - self.lead) // pattern.m * pattern.m
        ends = order[whole:]
        return np.concatenate([ends[: self.lead], order[:whole], ends[self.lead :]])


def scores(
    model: onnx.ModelProto, pattern: NMPattern, keep: Collection[str] = (), weighting: Mapping[str, Array] | None = None
) -> dict[str, Scored]:
    """Weight -> its scores, of every weight that the pattern applies to but those of the layers in `keep`.

    `weighting`: weight -> importance >= 0 of each input channel [channels], or [groups, channels of a group]; weights
    that it does not name count as they are. ValueError for a name that is no layer's or weight's, or a wrong shape;
    PipelineError names a layer whose weights are not finite.
    """
    layers, weighting = weights_of(model), weighting or {}
    if unknown := sorted(set(keep) - {layer.node for layer in layers}):
        raise ValueError(f"keep: the model has no layer {unknown[0]!r}")
    if unknown := sorted(set(weighting) - {layer.initializer for layer in layers}):
        raise ValueError(f"weighting: the model has no weight {unknown[0]!r}")
    held = stored(model.graph)
    found = {}
    for weight in split(model, pattern, keep)[0]:
        name = weight.initializer
        array = values(held[name], name)
        if not np.isfinite(array).all():
            raise PipelineError(
                f"{weight.node}: {name} holds values that are not finite", "give weights that are numbers"
            )
        worth = np.abs(np.moveaxis(array, weight.axis, -1).astype(np.float32 if array.itemsize < 8 else np.float64))
        if name in weighting:
            worth *= _importance(weight, worth.shape, weighting[name]).astype(worth.dtype)
        found[name] = Scored(np.ascontiguousarray(worth), weight.axis)
    return found


def _importance(weight: Weight, shape: tuple[int, ...], given: Array) -> Array:
    """Ready to be multiplied with a weight of that shape, its input channels last."""
    importance = np.asarray(given)
    if importance.shape not in ((shape[-1],), (weight.groups, shape[-1])):
        raise ValueError(
            f"weighting: {weight.initializer} has {shape[-1]} input channels, not {list(importance.shape)}"
        )
    if not (np.isfinite(importance).all() and (importance >= 0).all()):
        raise ValueError(f"weighting: that of {weight.initializer} holds values that are not finite or below 0")
    if importance.ndim == 1:
        return importance
    each_row = np.repeat(importance, shape[0] // weight.groups, axis=0)
    return each_row.reshape(shape[0], *[1] * (len(shape) - 2), shape[-1])


def stack(group: ChannelGroup, scored: Mapping[str, Scored], pattern: NMPattern) -> Stack | str:
    """What a search of the group counts, or why there is nothing to search for."""
    if group.size <= pattern.m:
        return f"its {group.size} channels are no more than a group of {pattern.m}"
    read = places_read(group, scored)
    if not read:
        return f"no layer that reads it follows {pattern}"
    left_out = {place: reason for place in read if (reason := _why_not(place, pattern))}
    by_lead: dict[int, list[Place]] = {}
    for place in read:
        if place not in left_out:
            by_lead.setdefault(-place.start % pattern.m, []).append(place)
    if not by_lead:
        return next(iter(left_out.values()))
    lead = max(by_lead, key=lambda one: (_worth(by_lead[one], scored, group.size) if len(by_lead) > 1 else 0.0, -one))
    for place in read:
        if place not in left_out and place not in by_lead[lead]:
            left_out[place] = (
                f"its channels begin {place.start % pattern.m} after a group of {pattern.m}, others' don't"
            )
    told = tuple(dict.fromkeys((place.tensor, reason) for place, reason in left_out.items()))
    rows = sum(_count(place, scored[place.tensor]) for place in by_lead[lead])
    return Stack(rows, group.size, tuple(by_lead[lead]), lead, told)


def _worth(places: Iterable[Place], scored: Mapping[str, Scored], size: int) -> float:
    return sum(float(_rows(place, scored[place.tensor], size).sum(dtype=np.float64)) for place in places)


def places_read(group: ChannelGroup, scored: Mapping[str, Scored]) -> list[Place]:
    """The group's places along the input channels of weights that follow the pattern; what two nodes read, once."""
    found = {
        (place.tensor, place.start, place.inner, place.rows): place
        for place in group.places
        if place.tensor in scored and place.axis == scored[place.tensor].axis
    }
    return list(found.values())


def _why_not(place: Place, pattern: NMPattern) -> str:
    if place.inner == 1:
        return ""
    if place.inner % pattern.m == 0 and place.start % pattern.m == 0:
        return f"each channel fills whole groups of {pattern.m} in {place.tensor}: their order changes nothing"
    return f"each channel is {place.inner} columns of {place.tensor}, which a search of columns would part"


def _count(place: Place, scored: Scored) -> int:
    first, last = place.rows or (0, len(scored.worth))
    return int((last - first) * math.prod(scored.worth.shape[1:-1]))


def _rows(place: Place, scored: Scored, size: int) -> Array:
    """[rows, channels]."""
    rows = scored.worth if place.rows is None else scored.worth[slice(*place.rows)]
    return rows[..., place.start : place.start + size].reshape(-1, size)
