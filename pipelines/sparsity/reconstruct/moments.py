"""What a layer sees and what it should answer, over all pictures: first and second moments, in float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipelines.arrays import Array


@dataclass(frozen=True)
class Moments:
    """Of one group over all positions of all pictures: means and covariances of the columns x and the wanted rows y."""

    x_mean: Array  # [D]
    y_mean: Array  # [K]
    xx: Array  # [D, D]
    yx: Array  # [K, D]
    y_variance: Array  # [K]


def moments(pairs: Iterable[tuple[Array, Array]]) -> list[Moments]:
    """One for each group, of (columns [G, D, P], rows [G, K, P]) of each picture. ValueError for no pictures."""
    sums: list[Array] = []
    count = 0
    for one in pairs:
        x, y = (array.astype(np.float64) for array in one)
        more = [x.sum(-1), y.sum(-1), x @ x.swapaxes(1, 2), y @ x.swapaxes(1, 2), (y * y).sum(-1)]
        sums = [held + new for held, new in zip(sums, more, strict=True)] if sums else more
        count += x.shape[-1]
    if not count:
        raise ValueError("pairs: no pictures")
    return [_of_group(*(one[group] / count for one in sums)) for group in range(len(sums[0]))]


def _of_group(x_mean: Array, y_mean: Array, xx: Array, yx: Array, yy: Array) -> Moments:
    return Moments(
        x_mean=x_mean,
        y_mean=y_mean,
        xx=xx - np.outer(x_mean, x_mean),
        yx=yx - np.outer(y_mean, x_mean),
        y_variance=np.maximum(yy - y_mean**2, 0.0),
    )


def scales(matrix: Array, seen: Moments) -> Array:
    """Factor for each row, so that its output deviates as much as wanted; 1 where one of the two does not vary."""
    variance = ((matrix @ seen.xx) * matrix).sum(1)
    floor = 1e-12 * float(seen.y_variance.max(initial=0.0))
    moves = (variance > floor) & (seen.y_variance > floor)
    return np.sqrt(np.where(moves, seen.y_variance, 1.0) / np.where(moves, variance, 1.0))


def shifts(matrix: Array, seen: Moments) -> Array:
    """What to add to each row's output, so that its mean is as wanted."""
    shift: Array = seen.y_mean - matrix @ seen.x_mean
    return shift


def error_of(matrix: Array, seen: Moments) -> float:
    """Mean squared error of the rows' outputs, summed over them, once their means are as wanted."""
    squared = ((matrix @ seen.xx) * matrix).sum() - 2 * (matrix * seen.yx).sum() + seen.y_variance.sum()
    return max(float(squared), 0.0)
