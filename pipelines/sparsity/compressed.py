"""N:M weights without their zeros: kept values, and where in its group each lies (specification, section 9.3).

Logical, row-major order: what NVIDIA's sparse matrix units want is the same two bits an index, reordered for the
registers of one instruction; that last step belongs to a vendor's library and differs from unit to unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.arrays import Array
from pipelines.sparsity.pattern import NMPattern

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class CompressedNM:
    """A weight of `shape` whose groups of m along `axis` keep n values each.

    `values` [other axes of the weight, groups, n] has the weight's dtype; a group with fewer than n nonzeros holds
    zeros at its lowest free places, so that indices are distinct and ascending. `metadata` is uint8: the indices,
    ceil(log2 m) bits each, one after the other in the order of `values`, the first in the lowest bits.
    """

    pattern: NMPattern
    shape: tuple[int, ...]
    axis: int
    values: Array
    metadata: Array

    @property
    def indices(self) -> Array:
        """uint8 (uint16 where m > 256 and so on), the shape of `values`: each value's place in its group, 0 to m-1."""
        places: Array = _unpacked(self.metadata, self.values.size, _bits(self.pattern)).reshape(self.values.shape)
        return places

    @property
    def nbytes(self) -> int:
        """Bytes of values and metadata."""
        return int(self.values.nbytes + self.metadata.nbytes)

    def to_dense(self) -> Array:
        """The weight. Equal to the one compressed in every bit, but that -0.0 may come back as 0.0."""
        *outer, groups, _ = self.values.shape
        dense = np.zeros((*outer, groups, self.pattern.m), self.values.dtype)
        np.put_along_axis(dense, self.indices.astype(np.int64), self.values, axis=-1)
        flat = dense.reshape(*outer, groups * self.pattern.m)[..., : self.shape[self.axis]]
        return np.ascontiguousarray(np.moveaxis(flat, -1, self.axis))


def compress(weight: Array, pattern: NMPattern, axis: int = 1) -> CompressedNM:
    """The weight in compressed form; a ragged last group counts as zero-padded.

    ValueError for a weight that breaks the pattern, naming the first group that does, or for a wrong axis or dtype.
    """
    if broken := pattern.violations(weight, axis):
        first = broken[0]
        place = f"group {first.group} of row {list(first.index)} keeps {first.nonzeros} of {pattern.m}"
        raise ValueError(f"weight: {place}, and {len(broken) - 1} more groups break {pattern}")
    dense = np.asarray(weight)
    groups = _groups(dense, pattern.m, axis)
    kept = _kept(groups.reshape(-1, pattern.m), pattern.n)
    return CompressedNM(
        pattern=pattern,
        shape=dense.shape,
        axis=axis % dense.ndim,
        values=groups.reshape(-1)[kept].reshape(*groups.shape[:-1], pattern.n),
        metadata=_packed(kept % pattern.m, _bits(pattern)),
    )


@dataclass(frozen=True)
class CompressedSize:
    """Bytes of one layer's weight, dense and compressed; both are equal for a layer without the pattern."""

    initializer: str
    dense_bytes: int
    values_bytes: int
    metadata_bytes: int

    @property
    def compressed_bytes(self) -> int:
        """Values and metadata."""
        return self.values_bytes + self.metadata_bytes


@dataclass(frozen=True)
class ModelSize:
    """Bytes of all stored tensors of a model: compressed layers, and what stays dense (biases, norms, kept layers)."""

    layers: tuple[CompressedSize, ...]
    other_bytes: int

    @property
    def dense_bytes(self) -> int:
        """All stored tensors as they are."""
        return self.other_bytes + sum(layer.dense_bytes for layer in self.layers)

    @property
    def compressed_bytes(self) -> int:
        """With the layers compressed."""
        return self.other_bytes + sum(layer.compressed_bytes for layer in self.layers)


def compressed_size(shape: Sequence[int], axis: int, pattern: NMPattern, itemsize: int) -> tuple[int, int]:
    """Bytes of values and of metadata that `compress` makes of any weight of that shape: the pattern alone decides."""
    rows = math.prod(shape) // shape[axis] if shape[axis] else 0
    groups = rows * -(-shape[axis] // pattern.m)
    return groups * pattern.n * itemsize, -(-groups * pattern.index_bits // 8)


def compressed_bytes(model: onnx.ModelProto, pattern: NMPattern) -> ModelSize:
    """What the model's stored tensors take with every weight compressed that the pattern applies to, and holds in."""
    from pipelines.graph.tensors import values_of
    from pipelines.graph.weights import split

    held = values_of(model)
    layers = []
    for weight in split(model, pattern)[0]:
        dense = held[weight.initializer]
        if pattern.holds(dense, weight.axis):
            kept, metadata = compressed_size(dense.shape, weight.axis, pattern, dense.itemsize)
            layers.append(CompressedSize(weight.initializer, dense.nbytes, kept, metadata))
            del held[weight.initializer]
    return ModelSize(tuple(layers), sum(array.nbytes for array in held.values()))


def _bits(pattern: NMPattern) -> int:
    return pattern.index_bits // pattern.n


def _groups(dense: Array, m: int, axis: int) -> Array:
    """[other axes, groups, m], padded with zeros."""
    last = np.moveaxis(dense, axis, -1)
    if ragged := -last.shape[-1] % m:
        last = np.concatenate([last, np.zeros((*last.shape[:-1], ragged), last.dtype)], axis=-1)
    return last.reshape(*last.shape[:-1], last.shape[-1] // m, m)


def _kept(groups: Array, n: int) -> Array:
    """Flat places in [groups, m] of n elements each: its nonzeros, and its lowest zeros where they are fewer."""
    taken = groups != 0
    counts = np.count_nonzero(taken, axis=-1)
    short = np.flatnonzero(counts < n)
    free = ~taken[short]
    taken[short] |= free & (np.cumsum(free, axis=-1) <= (n - counts[short])[:, None])
    return np.flatnonzero(taken)


def _packed(places: Array, bits: int) -> Array:
    """uint8: `bits` bits of each place, low bits first."""
    dtype = np.min_scalar_type((1 << bits) - 1)
    flat = places.ravel().astype(dtype)[:, None] >> np.arange(bits, dtype=dtype) & dtype.type(1)
    return np.packbits(flat.astype(np.uint8, copy=False).ravel(), bitorder="little")


def _unpacked(packed: Array, count: int, bits: int) -> Array:
    dtype = np.min_scalar_type((1 << bits) - 1)
    flat = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    places = np.zeros(count, dtype)
    for bit in range(bits):
        places |= flat[:, bit].astype(dtype, copy=False) << dtype.type(bit)
    return places
