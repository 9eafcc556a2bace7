"""Memory of channels-last activations: [N, C, H, W] arrays whose channels lie together, with zeros around some."""

from __future__ import annotations

import math

import numpy as np

from pipelines.arrays import Array

Border = tuple[int, int, int, int]  # rows above and below, columns left and right
Copy = tuple[Array, Array]  # to, from: done before each run of a layer
NO_BORDER: Border = (0, 0, 0, 0)
LINE = 64  # bytes
_FEW = 4  # channels: cheaper to copy plane by plane


def address(array: Array) -> int:
    """Of its first element."""
    return int(array.__array_interface__["data"][0])


def strides_of(x: Array) -> tuple[int, int, int] | None:
    """Floats from one image, row and column to the next; None where its channels don't lie together."""
    image, channel, row, column = x.strides
    if (channel != 4 and x.shape[1] > 1) or image % 4 or row % 4 or column % 4:
        return None
    return image // 4, row // 4, column // 4


def copy(copies: tuple[Copy, ...]) -> None:
    """Do them."""
    for target, source in copies:
        if source.ndim == 4 and source.shape[1] <= _FEW:
            for channel in range(source.shape[1]):
                target[:, channel] = source[:, channel]
        else:
            target[...] = source


class Frames:
    """Every buffer that has zeros around it, so that a convolution may read them as its padding."""

    def __init__(self) -> None:
        self._inside: dict[int, tuple[Array, Border]] = {}  # by address; holding the array keeps it from being reused

    def make(self, shape: tuple[int, ...], border: Border) -> Array:
        """An array of that shape [N, C, H, W], channels-last, inside zeros."""
        above, below, left, right = border
        images, channels, height, width = shape
        whole = framed((images, channels, above + height + below, left + width + right), 0)
        made: Array = whole[:, :, above : above + height, left : left + width]
        self._inside[address(made)] = (made, border)
        return made

    def have(self, x: Array, needed: Border) -> bool:
        """True where `x` lies inside that many zeros, or needs none."""
        if max(needed) <= 0:
            return True
        known, border = self._inside.get(address(x), (None, NO_BORDER))
        if known is None or (known.shape, known.strides) != (x.shape, x.strides):
            return False
        return all(has >= wants for has, wants in zip(border, needed, strict=True))


def framed(shape: tuple[int, ...], fill: float) -> Array:
    """[N, C, H, W] of that value, channels-last."""
    images, channels, height, width = shape
    made = aligned((images, height, width, channels))
    made[...] = fill
    last: Array = made.transpose(0, 3, 1, 2)
    return last


def aligned(shape: tuple[int, ...]) -> Array:
    """float32 that begins at a line of the cache: a load of 16 lanes that crosses two lines takes twice as long."""
    room = np.empty(math.prod(shape) + LINE // 4, np.float32)
    first = -address(room) % LINE // 4
    made: Array = room[first : first + math.prod(shape)].reshape(shape)
    return made
