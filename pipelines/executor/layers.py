"""Layers that run in the compiled kernels. Activations are [N, C, H, W] arrays whose memory is channels-last.

A layer keeps its buffers: its output is overwritten by its next call, and two threads can't share it. Arguments of a
kernel are worked out once for an input and used again as long as the same array comes in, as it does from a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.arrays import Array
from pipelines.executor.frames import Border, Copy, Frames, address, aligned, copy, framed, strides_of
from pipelines.executor.fuse import Fused
from pipelines.executor.kernels import kernel, whole_numbers
from pipelines.executor.operators import Call
from pipelines.executor.panels import LANES, pack
from pipelines.executor.windows import Window, window

_ORIGIN = np.zeros(1, np.int64)
Strides = tuple[int, int, int]


@dataclass(frozen=True)
class Bound:
    """A layer's calls for one input and addend; `held` keeps alive what the arguments point to."""

    x: Array
    addend: Array | None
    y: Array
    calls: Sequence[Sequence[Any]]
    copies: tuple[Copy, ...]
    held: Sequence[Array]


class Layer:
    """Binds arguments, copies what a kernel can't read in place, calls it."""

    adds = False  # the kernel itself adds an addend of the output's shape

    def __init__(self, name: str, fused: Fused | None) -> None:
        self._run = kernel(name)
        self._low, self._high = (fused.low, fused.high) if fused is not None else (-np.inf, np.inf)
        self._bound: Bound | None = None
        self._memory: dict[tuple[Any, ...], Array] = {}

    def memory(self, what: str, shape: tuple[int, ...], make: Callable[[tuple[int, ...]], Array]) -> Array:
        """An array of the layer's own, the same one for the same shape."""
        if (what, shape) not in self._memory:
            self._memory[what, shape] = make(shape)
        return self._memory[what, shape]

    def padded(self, frames: Frames, x: Array, shape: Window, fill: float) -> tuple[int, Strides, tuple[Copy, ...]]:
        """Address of the first element of `x` with its padding, the strides there, and the copy to do before."""
        sizes = shape.padded_sizes(x.shape[2:])
        top, left = shape.begin
        bottom, right = (p - b - n for p, b, n in zip(sizes, shape.begin, x.shape[2:], strict=True))
        needed, strides = (top, bottom, left, right), strides_of(x)
        if strides is not None and (frames.have(x, needed) if fill == 0 else max(needed) <= 0):
            return address(x) - 4 * (top * strides[1] + left * strides[2]), strides, ()
        whole = self.memory("padded", (*x.shape[:2], *sizes), lambda size: framed(size, fill))
        inner = whole[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        return address(whole), strides_of(whole) or (0, 0, 0), ((inner, x),)

    def slide(
        self, frames: Frames, x: Array, shape: Window, y: Array, fill: float
    ) -> tuple[int, tuple[Copy, ...], Array, Array]:
        """For a window on each channel: the first address, the copy to do before, sizes, and offsets of the taps."""
        start, (image, row, column), copies = self.padded(frames, x, shape, fill)
        offsets, _ = _taps(shape, row, column, 1, False)
        steps = (image, row * shape.strides[0], column * shape.strides[1])
        sizes = whole_numbers((x.shape[0], *shape.sizes), steps, strides_of(y) or (), x.shape[1], len(offsets))
        return start, copies, sizes, offsets

    def beside(self, addend: Array | None, y: Array) -> tuple[Array | None, Strides, tuple[Copy, ...]]:
        """The addend as the kernel can read it; None where there is none, or one that is broadcast."""
        if addend is None or addend.shape != y.shape:
            return None, (0, 0, 0), ()
        if (strides := strides_of(addend)) is not None:
            return addend, strides, ()
        made = self.memory("addend", addend.shape, lambda size: framed(size, 0))
        return made, strides_of(made) or (0, 0, 0), ((made, addend),)

    def __call__(self, x: Array, addend: Array | None = None) -> Array:
        """The output; it is overwritten by the next call."""
        bound = self._bound
        if bound is None or bound.x is not x or bound.addend is not addend:
            bound = self._bound = self.bind(x, addend)
        copy(bound.copies)
        for arguments in bound.calls:
            self._run(*arguments)
        if self._whole(bound.y, addend):
            return bound.y
        made: Array = np.clip(bound.y + addend, self._low, self._high)
        return made

    def bind(self, x: Array, addend: Array | None) -> Bound:
        """What to call for these arrays."""
        raise NotImplementedError

    def bounds(self, y: Array, addend: Array | None) -> tuple[float, float]:
        """What the kernel clips to: nothing where something is still to be added."""
        return (self._low, self._high) if self._whole(y, addend) else (-np.inf, np.inf)

    def _whole(self, y: Array, addend: Array | None) -> bool:
        """True where nothing is left to add after the kernel: none adds what is broadcast."""
        return addend is None or (self.adds and addend.shape == y.shape)


class Convolution(Layer):
    """Conv over two axes, compressed or whole, grouped or not; with bias, addend and bounds."""

    adds = True

    def __init__(
        self, call: Call, fused: Fused, weight: Array, bias: Array | None, border: Border, frames: Frames
    ) -> None:
        super().__init__("edgekiln_nm_conv", fused)
        self._call, self._frames, self._kernel_shape = call, frames, weight.shape[2:]
        self._make = lambda size: frames.make(size, border)
        groups = int(call.get("group", 1))
        self._filters, self._channels = weight.shape[0] // groups, weight.shape[1]
        self.panels = [pack(group) for group in weight.reshape(groups, self._filters, self._channels, -1)]
        self._biases = [_rounded(bias, self._filters, group) for group in range(groups)]

    def bind(self, x: Array, addend: Array | None) -> Bound:
        """x [N, C, H, W] -> [N, K, sizes]."""
        groups = len(self.panels)
        if x.shape[1] != self._channels * groups:
            raise ValueError(f"{x.shape[1]} channels, the weight takes {self._channels * groups}")
        shape = window(self._call, x.shape[2:], self._kernel_shape)
        y = self.memory("y", (x.shape[0], self._filters * groups, *shape.sizes), self._make)
        start, (image, row, column), copies = self.padded(self._frames, x, shape, 0)
        together = groups == 1 and column == self._channels
        offsets, depth = _taps(shape, row, column, self._channels, together)
        added, added_strides, more = self.beside(addend, y)
        places = (x.shape[0], *shape.sizes, image, row * shape.strides[0], column * shape.strides[1])
        calls, held = [], [offsets, *([] if added is None else [added])]
        for group, (panels, bias) in enumerate(zip(self.panels, self._biases, strict=True)):
            rest = (self._filters, len(offsets), depth, panels.slots)
            sizes = whole_numbers(places, strides_of(y) or (), added_strides, rest)
            held.append(sizes)
            filters = 4 * group * self._filters
            calls.append(
                (
                    address(sizes),
                    address(offsets),
                    start + 4 * group * self._channels,
                    address(panels.values),
                    address(panels.control),
                    address(bias),
                    None if added is None else address(added) + filters,
                    *self.bounds(y, addend),
                    address(y) + filters,
                )
            )
        return Bound(x, addend, y, calls, (*copies, *more), held)


class Depthwise(Layer):
    """Conv with one filter a channel; with bias and bounds."""

    def __init__(
        self, call: Call, fused: Fused, weight: Array, bias: Array | None, border: Border, frames: Frames
    ) -> None:
        super().__init__("edgekiln_depthwise", fused)
        self._call, self._frames, self._kernel_shape = call, frames, weight.shape[2:]
        self._make = lambda size: frames.make(size, border)
        self._values = aligned((weight[0].size, len(weight)))
        self._values[...] = weight.reshape(len(weight), -1).T
        self._bias = _rounded(bias, len(weight), 0)

    def bind(self, x: Array, addend: Array | None) -> Bound:
        """x [N, C, H, W] -> [N, C, sizes]."""
        if x.shape[1] != self._values.shape[1]:
            raise ValueError(f"{x.shape[1]} channels, the weight takes {self._values.shape[1]}")
        shape = window(self._call, x.shape[2:], self._kernel_shape)
        y = self.memory("y", (*x.shape[:2], *shape.sizes), self._make)
        start, copies, sizes, offsets = self.slide(self._frames, x, shape, y, 0)
        weights = (address(self._values), address(self._bias))
        call = (address(sizes), address(offsets), start, *weights, *self.bounds(y, addend), address(y))
        return Bound(x, addend, y, [call], copies, [sizes, offsets])


class MaxPool(Layer):
    """MaxPool over two axes."""

    def __init__(self, call: Call, border: Border, frames: Frames) -> None:
        super().__init__("edgekiln_max_pool", None)
        self._call, self._frames = call, frames
        self._make = lambda size: frames.make(size, border)

    def bind(self, x: Array, addend: Array | None) -> Bound:
        """x [N, C, H, W] -> [N, C, sizes]."""
        shape = window(self._call, x.shape[2:], self._call.get("kernel_shape"))
        y = self.memory("y", (*x.shape[:2], *shape.sizes), self._make)
        start, copies, sizes, offsets = self.slide(self._frames, x, shape, y, -np.inf)
        call = (address(sizes), address(offsets), start, address(y))
        return Bound(x, addend, y, [call], copies, [sizes, offsets])


class Product(Layer):
    """Gemm or MatMul with a stored right side, its weight as [rows, channels]: every row of x is a position."""

    adds = True

    def __init__(self, fused: Fused, weight: Array, bias: Array | None) -> None:
        super().__init__("edgekiln_nm_conv", fused)
        self.panels = [pack(weight[:, :, None])]
        self._bias = _rounded(bias, len(weight), 0)

    def bind(self, x: Array, addend: Array | None) -> Bound:
        """x [..., channels] -> [..., rows]."""
        panels = self.panels[0]
        if x.shape[-1] != panels.depth:
            raise ValueError(f"{x.shape[-1]} channels, the weight takes {panels.depth}")
        y = self.memory("y", (*x.shape[:-1], panels.rows), aligned)
        flat, copies = self._contiguous("x", x)
        added, more = (None, ()) if addend is None or addend.shape != y.shape else self._contiguous("addend", addend)
        line, positions = (0, 0, panels.rows), x.size // panels.depth
        rest = (panels.rows, 1, panels.depth, panels.slots)
        sizes = whole_numbers((1, 1, positions, 0, 0, panels.depth), line, line, rest)
        weights = (address(panels.values), address(panels.control), address(self._bias))
        other = None if added is None else address(added)
        call = (address(sizes), address(_ORIGIN), address(flat), *weights, other, *self.bounds(y, addend), address(y))
        return Bound(x, addend, y, [call], (*copies, *more), [sizes, flat, *([] if added is None else [added])])

    def _contiguous(self, what: str, x: Array) -> tuple[Array, tuple[Copy, ...]]:
        if x.flags.c_contiguous:
            return x, ()
        made = self.memory(what, x.shape, aligned)
        return made, ((made, x),)


def _rounded(bias: Array | None, rows: int, group: int) -> Array:
    made = aligned((-(-rows // LANES) * LANES,))
    made[...] = 0
    if bias is not None:
        made[:rows] = bias[group * rows : (group + 1) * rows]
    return made


def _taps(shape: Window, row: int, column: int, channels: int, together: bool) -> tuple[Array, int]:
    """Offsets of the taps in floats, and how many floats each reads: a row of the kernel at once where it lies so."""
    height, width = shape.kernel
    rows = np.arange(height, dtype=np.int64) * shape.dilations[0] * row
    if together and (shape.dilations[1] == 1 or width == 1):
        return rows, width * channels
    columns = np.arange(width, dtype=np.int64) * shape.dilations[1] * column
    return (rows[:, None] + columns).ravel(), channels
