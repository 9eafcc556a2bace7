"""Conv by im2col and a matrix product, or tap by tap where it is depthwise; ConvTranspose by its scatter form."""

from __future__ import annotations

import math

import numpy as np

from pipelines.arrays import Array
from pipelines.executor.operators import Call, operator
from pipelines.executor.windows import Window, window

COLUMN_BYTES = 64 << 20  # of an im2col block: a whole layer of VGG would take hundreds of MiB


@operator("Conv")
def conv(call: Call, x: Array, w: Array, b: Array | None = None) -> Array:
    """x [N, C, spatial], w [K, C/g, kernel], b [K] -> [N, K, sizes]."""
    groups = int(call.get("group", 1))
    if x.shape[1] != w.shape[1] * groups:
        raise ValueError(f"{x.shape[1]} channels, the weight takes {w.shape[1] * groups}")
    shape = window(call, x.shape[2:], w.shape[2:])
    padded = shape.padded(x, 0)
    out = _depthwise(padded, w, shape) if w.shape[1] == 1 and groups > 1 else _columns(padded, w, shape, groups)
    return out if b is None else out + b.reshape(-1, *[1] * (x.ndim - 2))


def _depthwise(padded: Array, w: Array, shape: Window) -> Array:
    batch, groups = padded.shape[:2]
    filters = w.reshape(groups, -1, math.prod(shape.kernel), *[1] * len(shape.sizes))
    out = np.zeros((batch, groups, filters.shape[1], *shape.sizes), padded.dtype)
    for place, view in enumerate(shape.taps(padded)):
        out += filters[:, :, place] * view[:, :, None]
    return out.reshape(batch, -1, *shape.sizes)


def _columns(padded: Array, w: Array, shape: Window, groups: int) -> Array:
    batch, channels = padded.shape[:2]
    rows = w.reshape(groups, w.shape[0] // groups, -1)  # [g, K/g, C/g * kernel]
    views = list(shape.taps(padded))  # each [N, C, sizes]
    out = np.empty((batch, w.shape[0], *shape.sizes), padded.dtype)
    line = channels * math.prod(shape.kernel) * math.prod(shape.sizes[1:]) * padded.itemsize
    step = max(1, COLUMN_BYTES // line)
    for image in range(batch):
        for first in range(0, shape.sizes[0], step):
            block = out[image, :, first : first + step]
            columns = np.stack([view[image, :, first : first + step] for view in views], axis=1)
            block[...] = (rows @ columns.reshape(groups, rows.shape[2], -1)).reshape(block.shape)
    return out


@operator("ConvTranspose")
def conv_transpose(call: Call, x: Array, w: Array, b: Array | None = None) -> Array:
    """x [N, C, spatial], w [C, K/g, kernel], b [K] -> [N, K, sizes]."""
    groups, rank = int(call.get("group", 1)), x.ndim - 2
    ones = [1] * rank
    strides, dilations = (tuple(map(int, call.get(name, ones))) for name in ("strides", "dilations"))
    extra = list(map(int, call.get("output_padding", [0] * rank)))
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, w.shape[2:], strict=True)]
    full = [s * (n - 1) + r for s, n, r in zip(strides, x.shape[2:], reach, strict=True)]
    begin, sizes = _transposed_sizes(call, x.shape[2:], full, strides, extra)
    batch, channels, places = x.shape[0], x.shape[1] // groups, math.prod(x.shape[2:])
    weight = w.reshape(groups, channels, -1).transpose(0, 2, 1)  # [g, K/g * kernel, C/g]
    columns = weight @ x.reshape(batch, groups, channels, places)
    columns = columns.reshape(batch, w.shape[1] * groups, -1, *x.shape[2:])
    length = [max(f, b0 + n) for f, b0, n in zip(full, begin, sizes, strict=True)]
    canvas = np.zeros((batch, w.shape[1] * groups, *length), x.dtype)
    scatter = Window(w.shape[2:], strides, dilations, (0,) * rank, (0,) * rank, x.shape[2:])
    for place, view in enumerate(scatter.taps(canvas)):
        view += columns[:, :, place]
    inside = (slice(None), slice(None), *(slice(b0, b0 + n) for b0, n in zip(begin, sizes, strict=True)))
    out = canvas[inside]
    return out if b is None else out + b.reshape(-1, *ones)


def _transposed_sizes(
    call: Call, spatial: tuple[int, ...], full: list[int], strides: tuple[int, ...], extra: list[int]
) -> tuple[list[int], list[int]]:
    """Where the output begins in the full canvas, and its sizes."""
    rank = len(spatial)
    auto = call.get("auto_pad", "NOTSET")
    sizes = call.get("output_shape")
    if sizes is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        sizes = [n * s for n, s in zip(spatial, strides, strict=True)]
    if sizes is None:
        pads = [0] * (2 * rank) if auto == "VALID" else list(map(int, call.get("pads", [0] * (2 * rank))))
        made = [f + e - pads[i] - pads[i + rank] for i, (f, e) in enumerate(zip(full, extra, strict=True))]
        return pads[:rank], made
    total = [max(f + e - int(n), 0) for f, e, n in zip(full, extra, sizes[-rank:], strict=True)]
    begin = [one // 2 if auto == "SAME_UPPER" else one - one // 2 for one in total]
    return begin, [int(one) for one in sizes[-rank:]]
