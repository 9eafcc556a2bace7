"""Does the reordered network compute what the original computes? In float64, and as it will be run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from pipelines.arrays import Array
from pipelines.checks.evaluated import Evaluated, evaluated, first_difference
from pipelines.checks.finding import Finding, judged
from pipelines.errors import PipelineError, first_line
from pipelines.graph.groups import channel_groups
from pipelines.graph.reorder import activations, reorder
from pipelines.graph.tensors import stored, values, without_tensors
from pipelines.inference import limit_for, outputs_of

RELATIVE_LIMIT = 1e-9  # float64 sums in another order differ by about 1e-15 of the largest value a layer
_OWN_ERRORS = 4
BUILT = "reordered file is the original, its channels reordered"
EXACT = "reordered equals original in float64"
AS_RUN = "reordered equals original in onnxruntime"


def permuted_equals_original(
    original: onnx.ModelProto,
    permuted: onnx.ModelProto,
    images: Array,
    permutations: Mapping[str, Array] | None = None,
    exact_images: int = 1,
) -> list[Finding]:
    """The file against the permutations (group name -> order; None: not known), and the outputs over images
    [N, C, H, W]: in float64 over the first `exact_images`, in onnxruntime over all.

    Skipped where the NumPy executor does not know an operator, with its name. A failed one says where: the first
    tensor that differs beyond what its channels' order explains.
    """
    findings = [] if permutations is None else [_built(original, permuted, permutations)]
    orders = permutations or {}
    spots = activations(group for group in channel_groups(original) if group.name in orders)
    try:
        exact = [evaluated(original, image[None], spots, orders) for image in images[:exact_images]]
    except PipelineError as error:
        findings.append(Finding(name=EXACT, status="skipped", detail=error.message))
        return [*findings, _as_run(original, permuted, images, [])]
    findings.append(_exact(permuted, images, exact, inside=permutations is not None))
    return [*findings, _as_run(original, permuted, images, exact)]


def _built(original: onnx.ModelProto, permuted: onnx.ModelProto, permutations: Mapping[str, Array]) -> Finding:
    try:
        wanted = reorder(original, channel_groups(original), permutations)
    except ValueError as error:
        return judged(BUILT, False, str(error))
    before, found = stored(wanted.graph), stored(permuted.graph)
    if list(before) != list(found) or _bytes(without_tensors(wanted)) != _bytes(without_tensors(permuted)):
        return judged(BUILT, False, "nodes, inputs, outputs, versions or names of tensors differ")
    for name, tensor in before.items():
        if _bytes(tensor) == _bytes(found[name]):
            continue
        left, right = values(tensor, name), values(found[name], name)
        if left.shape != right.shape or left.dtype != right.dtype:
            return judged(BUILT, False, f"{name} has another shape or type")
        if (different := np.argwhere(left != right)).size:
            place = different[0].tolist()
            return judged(BUILT, False, f"{len(different)} values of {name} are not where the order puts them: {place}")
    return judged(BUILT, True, f"{len(permutations)} groups reordered, all else the same")


def _exact(permuted: onnx.ModelProto, images: Array, exact: Sequence[Evaluated], *, inside: bool) -> Finding:
    """`inside`: the tensors between layers too, which say something where an output says nothing (a head of zeros)."""
    worst, place, within, first = 0.0, "", 0.0, ""
    for image, left in zip(images, exact, strict=False):
        try:
            right = evaluated(permuted, image[None])
        except PipelineError as error:
            return judged(EXACT, False, f"the reordered network does not run: {error.message}")
        for name in left.outputs:
            error_here, index = _relative(left.outputs[name], right.outputs[name])
            if not error_here <= worst:
                worst, place = error_here, f"{name} {index}"
        if inside:
            error_here, first = first_difference(permuted, left, right, RELATIVE_LIMIT)
            within = max(within, error_here)
        if first or not worst <= RELATIVE_LIMIT:
            break
    detail = f"largest relative difference {worst:.3g}" + (f" at {place}" if place else "")
    detail += f", {within:.3g} inside over {len(exact[0].inside)} tensors" if inside and exact else ""
    detail += f", limit {RELATIVE_LIMIT:g}" + (f", first in {first}" if first else "")
    value = worst if np.isfinite(worst) else None  # JSON has no NaN and no infinity
    return judged(EXACT, not first and bool(worst <= RELATIVE_LIMIT), detail, value=value, limit=RELATIVE_LIMIT)


def _as_run(original: onnx.ModelProto, permuted: onnx.ModelProto, images: Array, exact: Sequence[Evaluated]) -> Finding:
    """`exact`: the original's outputs in float64 over the first images, none where they are not known."""
    try:
        left = outputs_of(_bytes(original), images)
    except Exception as error:  # onnxruntime's errors have no base of their own
        return Finding(name=AS_RUN, status="skipped", detail=f"the original does not run: {first_line(error)}")
    try:
        right = outputs_of(_bytes(permuted), images)
    except Exception as error:
        return judged(AS_RUN, False, f"the reordered network does not run: {first_line(error)}")
    if [one.shape for one in left] != [one.shape for one in right]:
        return judged(AS_RUN, False, "the outputs have other shapes")
    if not all(np.isfinite(one).all() for one in (*left, *right)):
        return judged(AS_RUN, False, "outputs hold values that are not finite")
    differences = [np.abs(one.astype(np.float64) - other) for one, other in zip(left, right, strict=True)]
    largest = [float(one.max(initial=0.0)) for one in differences]
    # where an output is tiny (a sigmoid that sees nothing) float32 itself is off by more than a share of it
    own = _own_errors(left, exact)
    limits = [max(limit_for([one]), _OWN_ERRORS * error) for one, error in zip(left, own, strict=True)]
    nth = max(range(len(left)), key=lambda one: (largest[one] > limits[one], largest[one] / (limits[one] or 1.0)))
    place = f"{original.graph.output[nth].name} {_peak(differences[nth])}"
    detail = f"largest difference {largest[nth]:.3g} at {place}, limit {limits[nth]:.3g}"
    return judged(AS_RUN, largest[nth] <= limits[nth], detail, value=largest[nth], limit=limits[nth])


def _own_errors(outputs: Sequence[Array], exact: Sequence[Evaluated]) -> list[float]:
    """How far each float32 output [N, ...] lies from the one in float64; 0 where that is not known."""
    found = [0.0] * len(outputs)
    for nth, known in enumerate(exact):
        for place, (output, wanted) in enumerate(zip(outputs, known.outputs.values(), strict=True)):
            found[place] = max(found[place], float(np.abs(output[nth : nth + 1] - wanted).max(initial=0.0)))
    return found


def _relative(wanted: Array, found: Array) -> tuple[float, list[int]]:
    """max |difference| over max |wanted|, and where; infinite for another shape, NaN where a value is none."""
    if wanted.shape != found.shape:
        return float("inf"), []
    if not wanted.size:
        return 0.0, []
    difference = np.abs(wanted.astype(np.float64) - found.astype(np.float64))
    largest, scale = float(difference.max()), float(np.abs(wanted.astype(np.float64)).max())
    return (largest / scale if scale else (float("inf") if largest else largest)), _peak(difference)


def _peak(difference: Array) -> list[int]:
    return [int(one) for one in np.unravel_index(int(difference.argmax()), difference.shape)]


def _bytes(message: onnx.ModelProto | onnx.TensorProto) -> bytes:
    data: bytes = message.SerializeToString(deterministic=True)
    return data
