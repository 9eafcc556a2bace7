"""How far does the sparse network's answer lie from the dense one's, and from the truth where it is known?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.arrays import Array
from pipelines.contract import Fact


@dataclass(frozen=True)
class Agreement:
    """Over N pictures. Undefined values are None: top-1 where the output is no [N, classes], all where not finite."""

    top1: float | None
    cosine: float | None
    cosine_centred: float | None  # after the mean output over the pictures is taken off both
    max_abs_diff: float | None

    def facts(self) -> dict[str, Fact]:
        """Under the names of the table."""
        return {
            "agreement_top1": self.top1,
            "cosine": self.cosine,
            "cosine_centred": self.cosine_centred,
            "sparse_max_abs_diff": self.max_abs_diff,
        }


def agreement(dense: Array, sparse: Array) -> Agreement:
    """Of two outputs [N, ...]."""
    left, right = (one.reshape(len(one), -1).astype(np.float64) for one in (dense, sparse))
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return Agreement(top1=None, cosine=None, cosine_centred=None, max_abs_diff=None)
    classes = dense.ndim == 2 and dense.shape[1] > 1
    ranks = classes and bool((left.max(1) > left.min(1)).all())  # equal scores rank nothing
    return Agreement(
        top1=float((left.argmax(1) == right.argmax(1)).mean()) if ranks else None,
        cosine=_mean_cosine(left, right),
        cosine_centred=_mean_cosine(left - left.mean(0), right - right.mean(0)) if len(left) > 1 else None,
        max_abs_diff=float(np.abs(left - right).max()),
    )


def _mean_cosine(left: Array, right: Array) -> float | None:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    if not (lengths > 0).all():
        return None  # an output of zeros points nowhere
    return float(((left * right).sum(1) / lengths).mean())


def top_classes(output: Array, count: int = 5) -> list[list[int]]:
    """The `count` best classes of each picture, best first; ties to the lower class."""
    order = np.argsort(-output.astype(np.float64), axis=1, kind="stable")
    return [[int(one) for one in row[:count]] for row in order]


def hits(best: Sequence[Sequence[int]], labels: Sequence[int | None], within: int) -> int:
    """How many labelled pictures have their label among the best `within`."""
    return sum(label in row[:within] for row, label in zip(best, labels, strict=True) if label is not None)
