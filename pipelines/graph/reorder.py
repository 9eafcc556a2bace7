"""Graph pass: the channels of groups in another order, in every stored tensor that holds them; outputs stay equal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from pipelines.arrays import Array
from pipelines.graph.groups import ChannelGroup, Place
from pipelines.graph.tensors import stored, values

# those that NumPy holds as they are; bfloat16 and the small floats would come back as another type
_HELD_BY_NUMPY = {
    getattr(onnx.TensorProto, name)
    for name in (
        *("FLOAT", "FLOAT16", "DOUBLE", "BOOL"),
        *("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
    )
}


@dataclass(frozen=True)
class Move:
    """`index[i]` is the position along `axis` that moves to position i, for the rows [first, last) of axis 0 or all."""

    axis: int
    rows: tuple[int, int] | None
    index: Array  # int64[dimension]


def reorder(
    model: onnx.ModelProto, groups: Iterable[ChannelGroup], permutations: Mapping[str, Array]
) -> onnx.ModelProto:
    """A copy whose groups follow `permutations` (group name -> old channel of each new position).

    Only the bytes of tensors that hold those channels differ. ValueError for a name that no permutable group has, and
    for what is no permutation of its channels.
    """
    chosen = _checked(groups, permutations)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    held = stored(made.graph)
    for name, placed in by_tensor(chosen).items():
        tensor = held[name]
        array = moved(values(tensor, name), moves(dict(enumerate(tensor.dims)), placed, permutations))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return made


def why_fixed(group: ChannelGroup, held: Mapping[str, onnx.TensorProto]) -> str:
    """Why its channels can't be reordered in the file; "" where they can."""
    if group.reason:
        return group.reason
    for place in group.places:
        kind = held[place.tensor].data_type
        if kind not in _HELD_BY_NUMPY:
            return f"{place.tensor} is {onnx.TensorProto.DataType.Name(kind)}, which NumPy does not hold"
    return ""


def by_tensor(groups: Iterable[ChannelGroup]) -> dict[str, list[tuple[str, Place]]]:
    """Tensor -> (group name, place) of all its channels, in the groups' order."""
    found: dict[str, list[tuple[str, Place]]] = {}
    for group in groups:
        for place in group.places:
            found.setdefault(place.tensor, []).append((group.name, place))
    return found


def activations(groups: Iterable[ChannelGroup]) -> dict[str, list[tuple[str, Place]]]:
    """The same of computed tensors and the graph's inputs."""
    found: dict[str, list[tuple[str, Place]]] = {}
    for group in groups:
        for spot in group.activations:
            place = Place(spot.tensor, spot.axis, spot.start, spot.inner, None, "follower", "")
            found.setdefault(spot.tensor, []).append((group.name, place))
    return found


def moves(
    sizes: Mapping[int, int], placed: Iterable[tuple[str, Place]], permutations: Mapping[str, Array]
) -> tuple[Move, ...]:
    """One a stretch of a tensor, all groups of an axis in it; `sizes`: axis -> dimension."""
    found: dict[tuple[int, tuple[int, int] | None], Array] = {}
    for name, place in placed:
        index = found.setdefault((place.axis, place.rows), np.arange(sizes[place.axis]))
        positions = positions_of(place, np.arange(len(permutations[name])))
        # stated, not composed: a place that two nodes read is moved once
        index[positions] = positions_of(place, np.asarray(permutations[name]))
    return tuple(Move(axis, rows, index) for (axis, rows), index in found.items())


def positions_of(place: Place, channels: Array) -> Array:
    """Where these channels lie along the place's axis, in their order."""
    return (place.start + channels[:, None] * place.inner + np.arange(place.inner)).reshape(-1)


def moved(array: Array, made: Sequence[Move]) -> Array:
    """The array, reordered; the moves of its axes don't depend on each other's order."""
    for move in made:
        if move.rows is None:
            array = np.take(array, move.index, move.axis)
        else:
            first, last = move.rows
            parts = [array[:first], np.take(array[first:last], move.index, move.axis), array[last:]]
            array = np.concatenate(parts)
    return array


def _checked(groups: Iterable[ChannelGroup], permutations: Mapping[str, Array]) -> list[ChannelGroup]:
    by_name = {group.name: group for group in groups}
    for name, permutation in permutations.items():
        if name not in by_name:
            raise ValueError(f"permutations: the model has no channel group {name!r}")
        if reason := by_name[name].reason:
            raise ValueError(f"permutations: {name} can't be reordered: {reason}")
        order, size = np.asarray(permutation), by_name[name].size
        if order.shape != (size,) or order.dtype.kind not in "iu" or (np.sort(order) != np.arange(size)).any():
            raise ValueError(f"permutations: that of {name} is no order of its {size} channels")
    return [by_name[name] for name in by_name if name in permutations]
