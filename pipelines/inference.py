"""Running an ONNX file in onnxruntime, one picture at a time, as a chip would."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from pipelines.arrays import Array, load_arrays, save_arrays
from pipelines.errors import PipelineError

# in 1.14 it takes away an output that it fused: Sigmoid's, where the graph gives that beside x * sigmoid(x)
BROKEN_OPTIMIZERS = ("QuickGeluFusion",)


def session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """A CPU session; OMP_NUM_THREADS bounds its threads as it does torch's."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or 0)
    options.log_severity_level = 3
    # its plan of the first run lets nodes that nobody reads overwrite others from the second on (seen up to 1.17)
    options.enable_mem_pattern = False
    source = model if isinstance(model, bytes) else str(model)
    without = list(BROKEN_OPTIMIZERS)
    return onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"], disabled_optimizers=without)


def outputs_of(model: Path | bytes, images: Array, progress: Callable[[int, int], None] | None = None) -> list[Array]:
    """Every output of the model over images [N, C, H, W], each as [N, ...]."""
    running = session(model)
    inputs = running.get_inputs()
    if len(inputs) != 1:
        raise PipelineError(f"the model has {len(inputs)} inputs", "this pipeline feeds one picture to one input")
    rows = []
    for place, image in enumerate(images):
        rows.append(running.run(None, {inputs[0].name: image[None]}))
        if progress is not None:
            progress(place + 1, len(images))
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def median_ms(models: Sequence[Path], runs: int = 30) -> list[float]:
    """Median wall time of one run of each model, in milliseconds; they take turns, so that a busy machine slows all.

    Fed with one picture of the shape that the file states, seeded noise.
    """
    running = [session(model) for model in models]
    given = running[0].get_inputs()[0]
    image = np.random.default_rng(0).standard_normal(given.shape).astype(np.float32)
    taken_ms: list[list[float]] = [[] for _ in models]
    for _ in range(runs + 1):
        for one, times in zip(running, taken_ms, strict=True):
            began = time.perf_counter()
            one.run(None, {given.name: image})
            times.append(1e3 * (time.perf_counter() - began))
    return [float(np.median(times[1:])) for times in taken_ms]  # the first run also allocates


def save_outputs(path: Path, outputs: list[Array]) -> None:
    """As an npz of output_0, output_1, ..."""
    save_arrays(path, {f"output_{place}": output for place, output in enumerate(outputs)})


def load_outputs(path: Path) -> list[Array]:
    """What save_outputs wrote."""
    return list(load_arrays(path).values())


def largest_difference(left: list[Array], right: list[Array]) -> float:
    """max |left - right| over all outputs, NaN if any is; ValueError where they don't have the same shapes."""
    shapes = [a.shape for a in left], [b.shape for b in right]
    if shapes[0] != shapes[1]:
        raise ValueError(f"outputs of shapes {shapes[0]} and {shapes[1]}")
    return float(
        np.max([np.abs(a.astype(np.float64) - b.astype(np.float64)).max() for a, b in zip(left, right, strict=True)])
    )


def limit_for(reference: list[Array]) -> float:
    """How far outputs may lie from the reference and still be the same network's.

    1e-4 where the largest output is around 1; a share of it below (or nothing could fail) and far above, where
    float32 itself rounds by more.
    """
    scale = max(float(np.abs(one).max()) for one in reference)
    return max(1e-4 * min(1.0, scale), 1e-5 * scale)
