"""Correcting one layer, given what it sees now and what it should answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipelines.arrays import Array
from pipelines.sparsity.pattern import NMPattern
from pipelines.sparsity.reconstruct.moments import Moments, error_of, scales, shifts
from pipelines.sparsity.reconstruct.solve import least_squares, magnitude_mask, normal_equations, obs_mask

Method = Literal["match", "obs"]


@dataclass(frozen=True)
class Solved:
    """`matrix` [G, K/G, D]; `shift` [K], of outputs without a bias; `error` as a share of the wanted variance."""

    matrix: Array
    shift: Array
    error: float


def solve_layer(matrix: Array, seen: Sequence[Moments], pattern: NMPattern | None, run: int, method: Method) -> Solved:
    """The weights under the pattern (None: as dense as they are) whose outputs have the wanted mean and deviation.

    match: by magnitude, and only scaled. obs: chosen and adjusted by least squares first. A layer that stays dense is
    only scaled: least squares there did not help (docs/accuracy.md).
    """
    rows = [_of_group(one, moments, pattern, run, method) for one, moments in zip(matrix, seen, strict=True)]
    scaled = [one * scales(one, moments)[:, None] for one, moments in zip(rows, seen, strict=True)]
    wanted = sum(float(one.y_variance.sum()) for one in seen)
    error = sum(error_of(one, moments) for one, moments in zip(scaled, seen, strict=True))
    return Solved(
        matrix=np.stack(scaled),
        shift=np.concatenate([shifts(one, moments) for one, moments in zip(scaled, seen, strict=True)]),
        error=error / wanted if wanted else 0.0,
    )


def _of_group(dense: Array, seen: Moments, pattern: NMPattern | None, run: int, method: Method) -> Array:
    if pattern is None:
        return dense
    if method == "match":
        return np.where(magnitude_mask(dense, pattern, run), dense, 0.0)
    hessian, target = normal_equations(dense, seen)
    mask = obs_mask(np.linalg.solve(hessian, target.T).T, hessian, pattern, run)
    return least_squares(mask, hessian, target)
