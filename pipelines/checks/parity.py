"""Does a converted file compute what its ONNX file does? Exit codes prove nothing; these numbers decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.arrays import Array
from pipelines.checks.agreement import Agreement, agreement
from pipelines.errors import PipelineError


def parity(reference: Sequence[Array], made: Sequence[Array]) -> Agreement:
    """Of all outputs, each [N, ...], over the same N pictures: top-1 of the first, the rest over all of them.

    PipelineError where they don't have the same shapes.
    """
    shapes = [[one.shape for one in side] for side in (reference, made)]
    if shapes[0] != shapes[1]:
        raise PipelineError(f"its outputs have shapes {_told(shapes[1])}, the ONNX file's {_told(shapes[0])}")
    first = agreement(reference[0], made[0])
    if len(reference) == 1:
        return first
    whole = agreement(*(np.concatenate([one.reshape(len(one), -1) for one in side], 1) for side in (reference, made)))
    return Agreement(first.top1, whole.cosine, whole.cosine_centred, whole.max_abs_diff)


def shortfall(found: Agreement, floor: float) -> str:
    """Why it is not the same network; "" where it is.

    The centred cosine decides: a plain one is above 0.99 for garbage too where outputs share a large mean.
    """
    if found.max_abs_diff is None:
        return "its outputs are not finite"
    if found.cosine_centred is None:
        return "its outputs are the same for every picture"
    if not found.cosine_centred >= floor:
        return f"centred cosine to onnxruntime {found.cosine_centred:.4f}, at least {floor:g} is asked"
    return ""


def _told(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)
