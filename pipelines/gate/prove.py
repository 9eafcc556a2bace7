"""Is a mended network the same network? onnxruntime's outputs and the weights' zeros say so, or the mend is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from pipelines.arrays import Array
from pipelines.errors import PipelineError, first_line
from pipelines.graph.facts import Graph
from pipelines.graph.tensors import stored, values
from pipelines.graph.weights import weights_of, why_not
from pipelines.inference import largest_difference, limit_for, outputs_of
from pipelines.sparsity.pattern import NMPattern


@dataclass(frozen=True)
class Evidence:
    """What must stay: outputs over the images, each [N, ...], and how many layers follow the pattern with its zeros."""

    images: Array  # float32 [N, C, H, W]
    pattern: NMPattern
    outputs: list[Array]
    zeros: Counter[tuple[int, int, bool]]


def evidence(model: onnx.ModelProto, images: Array, pattern: NMPattern) -> Evidence:
    """Of the network as it came. PipelineError where onnxruntime does not run it, or it gives no numbers."""
    outputs = run_outputs(model, images)
    if not all(np.isfinite(one).all() for one in outputs):
        raise PipelineError("its outputs are not finite", "nothing can be proved equal to them")
    return Evidence(images, pattern, outputs, zeros_of(model, pattern))


def difference(made: onnx.ModelProto, before: Evidence) -> str:
    """Why `made` is not the network that it was; "" where it is."""
    try:
        onnx.checker.check_model(made, full_check=True)
    except Exception as error:  # ValidationError, InferenceError, and what protobuf raises
        return f"the mended file is invalid: {first_line(error)}"
    try:
        outputs = run_outputs(made, before.images)
        apart = largest_difference(before.outputs, outputs)
    except (PipelineError, ValueError) as error:
        return f"the mended file: {first_line(error)}"
    if not apart <= (limit := limit_for(before.outputs)):  # NaN is no agreement
        return f"outputs changed by {apart:.3g}, at most {limit:.3g} is rounding"
    if lost := before.zeros - zeros_of(made, before.pattern):
        weights, zeros, follows = next(iter(lost))
        had = f"followed {before.pattern}" if follows else f"had {zeros:,} zeros"
        return f"a layer of {weights:,} weights no longer is what it was: it {had}"
    return ""


def run_outputs(
    model: onnx.ModelProto, images: Array, progress: Callable[[int, int], None] | None = None
) -> list[Array]:
    """onnxruntime's outputs, each [N, ...], over images in the type that the input wants."""
    graph = Graph(model)
    wanted = graph.dtype(graph.inputs[0]) if graph.inputs else "float32"
    given = images.astype(wanted) if wanted in ("float16", "float64") else images
    try:
        return outputs_of(model.SerializeToString(), given, progress)
    except PipelineError:
        raise
    except Exception as error:  # onnxruntime's errors have no common base
        raise PipelineError(f"onnxruntime {onnxruntime.__version__} does not run it: {first_line(error)}") from error


def zeros_of(model: onnx.ModelProto, pattern: NMPattern) -> Counter[tuple[int, int, bool]]:
    """How many layers there are of so many weights with so many zeros, that follow the pattern or don't.

    Layers without zeros don't count. A pass may rename layers and scale weights; it may not fill zeros.
    """
    held = stored(model.graph)
    found: Counter[tuple[int, int, bool]] = Counter()
    for weight in weights_of(model):
        if not weight.initializer or weight.elsewhere:
            continue
        array = values(held[weight.initializer], weight.initializer)
        zeros = array.size - int(np.count_nonzero(array))
        if zeros:
            follows = not why_not(weight, pattern) and pattern.holds(array, weight.axis)
            found[array.size, zeros, follows] += 1
    return found
