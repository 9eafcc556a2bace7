"""2:4 on the sparse tensor cores of an NVIDIA GPU, by torch's own semi-structured tensors: asked for, never implied."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.arrays import Array
from pipelines.errors import first_line
from pipelines.sparsity.pattern import NMPattern

if TYPE_CHECKING:
    from pipelines.contract import Status

AMPERE = (8, 0)
_RUNS = 50
_PATTERN = NMPattern(2, 4)


@dataclass(frozen=True)
class GpuProduct:
    """A layer's product on the GPU, or why there is none. Times are of one product, in milliseconds."""

    status: Status  # "ok" or "skipped"
    reason: str = ""
    device: str = ""
    outputs: Array | None = None  # float32 [batch, rows]
    sparse_ms: float | None = None
    dense_ms: float | None = None


def run_on_gpu(weight: Array, x: Array) -> GpuProduct:
    """x [batch, channels] @ weight [rows, channels].T in float16, the weight as a semi-structured sparse tensor.

    Skipped with its reason without an NVIDIA GPU of Ampere or later, with a torch that has no such tensors, or for a
    shape that they don't take. ValueError for a weight that breaks 2:4, or shapes that don't fit.
    """
    if weight.ndim != 2 or x.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"x: {list(x.shape)} is no batch for a weight of {list(weight.shape)}")
    if not _PATTERN.holds(weight, 1):
        raise ValueError(f"weight: breaks {_PATTERN}")
    if reason := why_not():
        return GpuProduct("skipped", reason)
    import torch

    dense = torch.from_numpy(np.ascontiguousarray(weight)).half().cuda()
    batch = torch.from_numpy(np.ascontiguousarray(x)).half().cuda()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls its own feature a prototype
            sparse = torch.sparse.to_sparse_semi_structured(dense)
            outputs = torch.nn.functional.linear(batch, sparse)
    except (RuntimeError, NotImplementedError, ValueError) as error:  # the unit's rules on shapes and alignment
        return GpuProduct("skipped", f"torch refuses the shape: {first_line(error)}")
    return GpuProduct(
        "ok",
        device=torch.cuda.get_device_name(),
        outputs=outputs.float().cpu().numpy(),
        sparse_ms=_milliseconds(batch, sparse),
        dense_ms=_milliseconds(batch, dense),
    )


def why_not() -> str:
    """Why no product can run on sparse tensor cores here; "" where one can."""
    import torch

    if not torch.cuda.is_available():
        return "no NVIDIA GPU that torch can use"
    capability = torch.cuda.get_device_capability()
    if capability < AMPERE:
        return f"{torch.cuda.get_device_name()} is older than Ampere: it has no sparse tensor cores"
    if not hasattr(torch.sparse, "to_sparse_semi_structured"):
        return f"torch {torch.__version__} has no to_sparse_semi_structured (2.1 has)"
    return ""


def _milliseconds(batch: object, weight: object) -> float:
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for run in range(_RUNS + 3):  # the first ones choose an algorithm
        if run == 3:
            start.record()
        torch.nn.functional.linear(batch, weight)
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / _RUNS
