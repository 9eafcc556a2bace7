"""Does the network that runs from compressed weights compute what onnxruntime computes from the file?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from pipelines.arrays import Array
from pipelines.checks.finding import Finding, judged
from pipelines.errors import PipelineError, first_line
from pipelines.executor import evaluate
from pipelines.executor.network import SparseNetwork
from pipelines.inference import limit_for, outputs_of
from pipelines.sparsity.pattern import NMPattern

NAME = "compressed network equals the file"
_OWN_ERRORS = 4  # of onnxruntime's own distance from float64, where an output is too small for the common limit


def sparse_equals_dense(sparse: onnx.ModelProto, pattern: NMPattern, images: Array) -> Finding:
    """Over images [N, C, H, W]: weights that hold the pattern are compressed, and the network is run from those.

    Skipped where the executor or onnxruntime can't run the graph, with the reason; a failed one names the output,
    the picture and the place of the largest difference.
    """
    try:
        network = SparseNetwork(sparse, pattern)
        feed = _input(sparse)
        rows = [list(network.run({feed: image[None]}).values()) for image in images]
    except PipelineError as error:
        return Finding(name=NAME, status="skipped", detail=error.message)
    if not network.compressed:
        return Finding(name=NAME, status="skipped", detail=f"no weight holds {pattern}")
    found = [np.concatenate(column) for column in zip(*rows, strict=True)]
    try:
        wanted = outputs_of(sparse.SerializeToString(), images)
    except Exception as error:  # onnxruntime's errors have no base of their own
        return Finding(name=NAME, status="skipped", detail=f"the file does not run: {first_line(error)}")
    return _compared(network, sparse, images, found, wanted)


def _compared(
    network: SparseNetwork, sparse: onnx.ModelProto, images: Array, found: Sequence[Array], wanted: Sequence[Array]
) -> Finding:
    for output, left, right in zip(sparse.graph.output, found, wanted, strict=True):
        if left.shape != right.shape:
            return judged(NAME, False, f"{output.name} has the shape {list(left.shape)}, not {list(right.shape)}")
        if not np.isfinite(left).all():
            return judged(NAME, False, f"{output.name} holds values that are not finite")
    differences = [np.abs(left.astype(np.float64) - right) for left, right in zip(found, wanted, strict=True)]
    largest = [float(one.max(initial=0.0)) for one in differences]
    limits = [limit_for([one]) for one in wanted]
    if any(one > limit for one, limit in zip(largest, limits, strict=True)):
        own = _own_errors(sparse, images, wanted)
        limits = [max(limit, _OWN_ERRORS * error) for limit, error in zip(limits, own, strict=True)]
    worst = max(range(len(found)), key=lambda one: largest[one] / (limits[one] or 1.0))
    picture, *place = np.unravel_index(int(np.argmax(differences[worst])), differences[worst].shape)
    where = f"{sparse.graph.output[worst].name} {[int(one) for one in place]} of picture {picture}"
    by = "in NumPy" if network.announcement else "in compiled kernels"
    detail = f"largest difference {largest[worst]:.3g} at {where}, limit {limits[worst]:.3g}"
    return judged(
        NAME,
        all(one <= limit for one, limit in zip(largest, limits, strict=True)),
        f"{detail}; {len(network.compressed)} compressed weights, run {by}",
        value=largest[worst],
        limit=limits[worst],
    )


def _own_errors(sparse: onnx.ModelProto, images: Array, wanted: Sequence[Array]) -> list[float]:
    """How far onnxruntime's outputs lie from the file's own float64 answer."""
    feed = _input(sparse)
    rows = [list(evaluate(sparse, {feed: image[None]}).values()) for image in images]
    exact = [np.concatenate(column) for column in zip(*rows, strict=True)]
    return [float(np.abs(left - right).max(initial=0.0)) for left, right in zip(exact, wanted, strict=True)]


def _input(model: onnx.ModelProto) -> str:
    held = {one.name for one in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in held]
    if len(names) != 1:
        raise PipelineError(f"the model has {len(names)} inputs", "this pipeline feeds one picture to one input")
    return str(names[0])
