"""Which weights of a layer to keep, and what they become: least squares under an N:M mask, in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np

from pipelines.arrays import Array
from pipelines.sparsity.pattern import NMPattern
from pipelines.sparsity.reconstruct.moments import Moments

# Both chosen on calibration pictures that were held out; see docs/accuracy.md for what others gave.
DAMPING = 1.0  # of the covariance's mean diagonal
TOWARDS_DENSE_ANSWER = 0.5  # of the target; the rest is what the dense weights make of the inputs as they are now

_CHOICES_UP_TO = 100  # C(8, 4) = 70; beyond it each weight is judged on its own


def normal_equations(matrix: Array, seen: Moments) -> tuple[Array, Array]:
    """(H [D, D], T [K, D]): the weights wanted are those that minimise w H w' - 2 t w' for each row w, t.

    The damping pulls towards the dense weights, not towards zero, so few pictures can't lead far from them.
    """
    size = len(seen.xx)
    damping = DAMPING * float(np.trace(seen.xx)) / size or 1.0  # a layer that sees constants keeps its weights
    answer = TOWARDS_DENSE_ANSWER * seen.yx + (1 - TOWARDS_DENSE_ANSWER) * (matrix @ seen.xx)
    return seen.xx + damping * np.eye(size), answer + damping * matrix


def obs_mask(matrix: Array, hessian: Array, pattern: NMPattern, run: int) -> Array:
    """True where kept: n of every m columns [K, D], each group judged after those before it were compensated for.

    SparseGPT (Frantar and Alistarh, 2023), but every choice P of a group is judged by its joint error
    w_P (B_PP)^-1 w_P', where B is the group's block of the inverse Hessian of the columns from it on. A group does not
    cross a multiple of `run`.
    """
    weight = matrix.astype(np.float64, copy=True)
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T  # upper[j:, j:]' upper[j:, j:] inverts hessian[j:, j:]
    mask = np.ones(matrix.shape, bool)
    for start in (place for first in range(0, matrix.shape[1], run) for place in range(first, first + run, pattern.m)):
        stop = min(start + pattern.m, start - start % run + run)
        block = upper[start:stop, start:stop]
        mask[:, start:stop] = kept = _choose(weight[:, start:stop], block.T @ block, pattern)
        for column in range(start, stop):
            gone = np.where(kept[:, column - start], 0.0, weight[:, column] / upper[column, column])
            weight[:, column:] -= np.outer(gone, upper[column, column:])
    return mask


def _choose(weight: Array, inverse: Array, pattern: NMPattern) -> Array:
    """Of each row of one group the n columns whose loss costs most."""
    size = weight.shape[1]
    drop = size - pattern.n
    if drop <= 0:
        return np.ones(weight.shape, bool)
    if math.comb(size, drop) > _CHOICES_UP_TO:
        return pattern.mask(weight / np.sqrt(np.diagonal(inverse)))
    choices = np.array(list(itertools.combinations(range(size), drop)))
    blocks = np.linalg.inv(inverse[choices[:, :, None], choices[:, None, :]])
    lost = weight[:, choices]  # [K, choices, drop]
    errors = np.einsum("kci,cij,kcj->kc", lost, blocks, lost)
    kept = np.ones(weight.shape, bool)
    np.put_along_axis(kept, choices[errors.argmin(1)], False, axis=1)
    return kept


def magnitude_mask(matrix: Array, pattern: NMPattern, run: int) -> Array:
    """True for the n largest of every m columns; a group does not cross a multiple of `run`."""
    kept: Array = pattern.mask(matrix.reshape(len(matrix), -1, run), axis=2).reshape(matrix.shape)
    return kept


def least_squares(mask: Array, hessian: Array, target: Array) -> Array:
    """Minimises w H w' - 2 t w' for each row under its mask, exactly; zero outside it."""
    solved = np.zeros(mask.shape)
    for row, (kept, wanted) in enumerate(zip(mask, target, strict=True)):
        places = np.flatnonzero(kept)
        solved[row, places] = np.linalg.solve(hessian[np.ix_(places, places)], wanted[places])
    return solved
