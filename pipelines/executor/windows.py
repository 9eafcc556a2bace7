"""Geometry that convolutions and pools share: pads, strides, dilations, and the strided views under a kernel."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.arrays import Array
from pipelines.executor.operators import Call


@dataclass(frozen=True)
class Window:
    """A sliding window over the spatial axes: all fields have one entry an axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]  # padding before and after
    end: tuple[int, ...]
    sizes: tuple[int, ...]  # of the output

    @property
    def reach(self) -> tuple[int, ...]:
        """Positions from the first to the last tap, both counted."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True))

    def padded_sizes(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Of an input with its padding, long enough for every window: ceil mode needs more than the pads."""
        last = [(n - 1) * s + r for n, s, r in zip(self.sizes, self.strides, self.reach, strict=True)]
        return tuple(max(b + n + e, z) for b, n, e, z in zip(self.begin, spatial, self.end, last, strict=True))

    def padded(self, x: Array, value: float) -> Array:
        """[..., spatial] with `value` around it."""
        spatial = x.shape[-len(self.kernel) :]
        sizes = zip(self.padded_sizes(spatial), self.begin, spatial, strict=True)
        pads = [(0, 0)] * (x.ndim - len(spatial)) + [(begin, size - begin - n) for size, begin, n in sizes]
        return np.pad(x, pads, constant_values=value) if any(map(any, pads)) else x

    def taps(self, padded: Array) -> Iterator[Array]:
        """For each place in the kernel, in order, the view [..., sizes] of what lies under it."""
        whole: tuple[Any, ...] = (slice(None),) * (padded.ndim - len(self.kernel))
        for tap in itertools.product(*map(range, self.kernel)):
            places: tuple[Any, ...] = tuple(
                slice(t * d, t * d + (n - 1) * s + 1, s)
                for t, d, s, n in zip(tap, self.dilations, self.strides, self.sizes, strict=True)
            )
            yield padded[whole + places]


def window(call: Call, spatial: Sequence[int], kernel: Sequence[int]) -> Window:
    """The window that the node's attributes describe over an input of that size."""
    rank = len(spatial)
    ones = [1] * rank
    strides, dilations = (tuple(map(int, call.get(name, ones))) for name in ("strides", "dilations"))
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    auto = call.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        sizes = [-(-size // stride) for size, stride in zip(spatial, strides, strict=True)]
        total = [max((n - 1) * s + r - size, 0) for n, s, r, size in zip(sizes, strides, reach, spatial, strict=True)]
        less, more = [one // 2 for one in total], [one - one // 2 for one in total]
        begin, end = (less, more) if auto == "SAME_UPPER" else (more, less)
    else:
        pads = [0] * (2 * rank) if auto == "VALID" else list(map(int, call.get("pads", [0] * (2 * rank))))
        begin, end = pads[:rank], pads[rank:]
        room = [size + b + e - r for size, b, e, r in zip(spatial, begin, end, reach, strict=True)]
        up = call.get("ceil_mode", 0)
        sizes = [(-(-one // s) if up else one // s) + 1 for one, s in zip(room, strides, strict=True)]
    if min(sizes) < 1:
        raise ValueError(f"a kernel of {list(kernel)} does not fit into {list(spatial)}")
    return Window(tuple(kernel), strides, dilations, tuple(begin), tuple(end), tuple(sizes))
