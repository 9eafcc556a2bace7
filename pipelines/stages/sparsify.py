"""sparsify: channels reordered, then N:M on every layer that takes it, strict, in the file that the vendor will get."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.contract import Correction, Fact, RunRequest
from pipelines.errors import PipelineError
from pipelines.stage import Context, InputFile, Outcome
from pipelines.stages.calibration import SEED, calibration_inputs, calibration_tensors

if TYPE_CHECKING:
    import onnx

    from pipelines.arrays import Array
    from pipelines.sparsity.pattern import NMPattern


class Sparsify:
    """Writes `model.onnx` with the pattern and `sparsify.json`: every layer, and why it was left dense if it was.

    Where channels are reordered also `permuted.onnx` (dense) and `permutation.json`; `gather.onnx` where asked for.
    """

    name = "sparsify"
    needs = ("export",)
    uses = ()

    def parameters(self, request: RunRequest) -> Mapping[str, Any]:
        """All that decides which weights are zero; the model, whose preprocessing makes the calibration tensors."""
        return {
            "sparsity": request.sparsity,
            "permute": request.permute,
            "gather": request.gather,
            "keep": request.keep,
            "budget": request.budget,
            "correct": request.correct,
            "model": request.model if request.calibrates else "",
        }

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """The calibration pictures and a person's module, where they are needed."""
        return calibration_inputs(request, data, run_folder)

    def run(self, context: Context) -> Outcome:
        """Choose the layers, reorder, mask or correct, save, read again, check."""
        from pipelines.graph.load import load_model
        from pipelines.graph.weights import check_pattern
        from pipelines.sparsity.pattern import NMPattern
        from pipelines.stages.sparsify_record import Made, facts_of, record_of, summary_of

        request, out = context.request, context.out
        try:
            pattern = NMPattern.parse(request.sparsity)
        except ValueError as error:
            raise PipelineError(f"--sparsity: {error}") from error
        exported = context.inputs["export/model.onnx"]
        dense = load_model(exported)
        images = calibration_tensors(context)
        keep, sensitivity = _kept(dense, pattern, images, context)
        reordered, permuting = _reordered(dense, pattern, keep, context) if request.permute else (dense, None)
        tell = _telling(context, "correcting")
        sparse, correction = sparse_network(reordered, pattern, request.correct, images, keep, tell)
        path = out / "model.onnx"
        path.write_bytes(sparse.SerializeToString(deterministic=True))
        if broken := check_pattern(load_model(path), pattern, keep):
            raise PipelineError(f"{broken[0][0].node} breaks {pattern} after it was masked")  # a fault of ours
        made = Made(pattern, reordered, sparse, keep, permuting, sensitivity, correction)
        (out / "sparsify.json").write_text(json.dumps(record_of(made), indent=1, allow_nan=False) + "\n", "utf-8")
        facts = facts_of(made, exported, path)
        if images is not None:
            facts |= {"calibration_pictures": len(request.calibration), "calibration_crops": len(images)}
        if permuting is not None and request.gather:
            facts |= _gathered(dense, pattern, keep, permuting, path, context)
        return Outcome(summary=summary_of(made, facts), facts=facts)


def sparse_network(
    dense: onnx.ModelProto,
    pattern: NMPattern,
    method: Correction,
    images: Array | None,
    keep: frozenset[str] = frozenset(),
    tell: Callable[[str, int, int], None] | None = None,
) -> tuple[onnx.ModelProto, Any]:
    """The network with the pattern, by magnitude or corrected, and the report of the correction (None without)."""
    import numpy as np

    from pipelines.graph.mask import mask_magnitude
    from pipelines.sparsity.reconstruct import correct

    if method == "none":
        return mask_magnitude(dense, pattern, keep)[0], None
    seen = images if images is not None else np.empty((0,), np.float32)
    return correct(dense, pattern, seen, method=method, keep=keep, seed=SEED, progress=tell)


def _telling(context: Context, what: str) -> Callable[[str, int, int], None]:
    """Progress over layers, with what is done to them."""
    return lambda layer, done, of: context.progress(f"{what} {layer}", done, of)


def _kept(dense: onnx.ModelProto, pattern: NMPattern, images: Any, context: Context) -> tuple[frozenset[str], Any]:
    """Layers to leave dense, by node name, and the measured sensitivities where they were chosen by them."""
    from pipelines.graph.keep import kept_layers
    from pipelines.graph.weights import split

    request = context.request
    eligible, others = split(dense, pattern)
    if not eligible:
        why = others[0][1] if others else "it has no convolution or matrix product with weights"
        raise PipelineError(f"no layer can follow {pattern}: {why}")
    if request.correct != "none" and (levels := [weight.node for weight in eligible if weight.quantised]):
        raise PipelineError(f"--correct {request.correct}: {levels[0]} is quantised", "correct before it is quantised")
    keep, sensitivity = kept_layers(dense, pattern, request.keep), None
    if request.budget is not None:
        from pipelines.sparsity.reconstruct import choose_dense

        tell = _telling(context, "sensitivity of")
        sensitivity = choose_dense(dense, pattern, images, request.budget, seed=SEED, progress=tell)
        keep |= frozenset(sensitivity.dense)
    if len(keep) == len(eligible):
        raise PipelineError("--keep leaves every layer dense", "name fewer")
    return keep, sensitivity


def _reordered(
    dense: onnx.ModelProto, pattern: NMPattern, keep: frozenset[str], context: Context
) -> tuple[onnx.ModelProto, Any]:
    """The dense network with its channels in the order that the pattern likes best, saved, and the report of it."""
    from pipelines.sparsity.permute import permute_channels

    reordered, report = permute_channels(
        dense,
        pattern,
        seed=SEED,
        keep=keep,
        progress=lambda done, of: context.progress("reordering channel groups", done, of),
    )
    (context.out / "permuted.onnx").write_bytes(reordered.SerializeToString(deterministic=True))
    (context.out / "permutation.json").write_text(json.dumps(report.record(), indent=1) + "\n", "utf-8")
    return reordered, report


def _gathered(
    dense: onnx.ModelProto, pattern: NMPattern, keep: frozenset[str], permuting: Any, folded: Path, context: Context
) -> dict[str, Fact]:
    """The naive form of the same network, saved, and what its Gather nodes cost beside ours."""
    from pipelines.graph.gather import with_gathers
    from pipelines.graph.groups import channel_groups
    from pipelines.graph.mask import mask_magnitude
    from pipelines.inference import median_ms

    consumers = {group.name: group.consumers for group in permuting.groups}
    gathered = with_gathers(dense, channel_groups(dense), permuting.permutations, consumers)
    naive = mask_magnitude(gathered, pattern, keep)[0]
    path = context.out / "gather.onnx"
    path.write_bytes(naive.SerializeToString(deterministic=True))
    ours_ms, naive_ms = median_ms([folded, path])
    return {
        "gather_nodes": len(naive.graph.node) - len(dense.graph.node),
        "folded_ms": ours_ms,
        "gather_ms": naive_ms,
    }
