"""Weights in the order in which the compiled kernels read them (pipelines/native/nm_matmul.c)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.arrays import Array
from pipelines.executor.frames import aligned
from pipelines.sparsity.compressed import compress
from pipelines.sparsity.pattern import NMPattern

LANES = 16  # output channels in a block
BLOCKS = (4, 2, 1)  # in a panel


@dataclass(frozen=True)
class Panels:
    """`slots` kept of each four input channels, 0 where the weights are whole. `values` float32, `control` uint32."""

    rows: int
    taps: int
    depth: int  # input channels: of one tap
    slots: int
    values: Array
    control: Array

    @property
    def nbytes(self) -> int:
        """What one pass over the weights reads."""
        return int(self.values.nbytes + self.control.nbytes)


def slots_for(weight: Array) -> int:
    """The fewest slots of a group of four channels (axis 1) that hold every weight; 0 where that saves nothing."""
    return next((n for n in (1, 2, 3) if weight.shape[1] % 4 == 0 and NMPattern(n, 4).holds(weight, 1)), 0)


def pack(weight: Array) -> Panels:
    """From [rows, channels, taps]: compressed where each four channels allow it, whole otherwise."""
    rows, channels, taps = weight.shape
    slots = slots_for(weight)
    if slots:
        held = compress(weight.astype(np.float32), NMPattern(slots, 4), 1)  # values [rows, taps, groups, slots]
        values = _panels(held.values.reshape(rows, -1), slots)
        places = _panels(held.indices.reshape(rows, -1), slots)
        control = np.concatenate([_two_bits(panel).ravel() for panel in places])
    else:
        values = _panels(weight.astype(np.float32).transpose(0, 2, 1).reshape(rows, -1), 1)
        control = np.zeros(0, np.uint32)
    flat = aligned((-(-rows // LANES) * LANES * taps * (channels // 4 * slots if slots else channels),))
    np.concatenate([panel.ravel() for panel in values], out=flat)
    return Panels(rows, taps, channels, slots, flat, control)


def _two_bits(panel: Array) -> Array:
    """uint32 without the last axis: two bits of each of its 16 places, the first lowest."""
    packed = np.zeros(panel.shape[:-1], np.uint32)
    for lane in range(LANES):
        packed |= panel[..., lane].astype(np.uint32) << np.uint32(2 * lane)
    return packed


def _panels(steps: Array, slots: int) -> Iterator[Array]:
    """From [rows, steps * slots]: [steps, slots, blocks of the panel, 16] of one panel after the other."""
    blocks = -(-len(steps) // LANES)
    padded = np.zeros((blocks * LANES, steps.shape[1]), steps.dtype)
    padded[: len(steps)] = steps
    first = 0
    while first < blocks:
        count = next(size for size in BLOCKS if size <= blocks - first)
        panel = padded[first * LANES : (first + count) * LANES].reshape(count, LANES, -1, slots)
        yield panel.transpose(2, 3, 0, 1)
        first += count
