"""patterns: what other N:M patterns would make of this network, before and after reordering, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.contract import PICTURED, RunRequest
from pipelines.stage import Context, InputFile, Outcome
from pipelines.stages.calibration import calibration_inputs, calibration_tensors
from pipelines.stages.sparsify import sparse_network

FIT_CROPS = 64  # enough to compare, and twelve networks are corrected
COMPARED = ("1:2", "2:4", "4:8", "8:16", "2:8", "1:4")


class Patterns:
    """Writes `patterns.json`: two rows a pattern, as the network was exported and reordered."""

    name = "patterns"
    needs = ("preprocess", "export")
    uses = ()

    def parameters(self, request: RunRequest) -> Mapping[str, Any]:
        """The patterns, how they are made, the labels that judge, and whether they can."""
        return {
            "patterns": COMPARED,
            "correct": request.correct,
            "model": request.model if request.calibrates else "",
            "weights": request.weights.kind,
            "labels": [picture.label for picture in request.pictures],
        }

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """The calibration pictures, where the run corrects."""
        return calibration_inputs(request, data, run_folder)

    def run(self, context: Context) -> Outcome:
        """Reorder, mask (and correct, where the run does) and run the network, twice a pattern."""
        import msgspec
        import onnx

        from pipelines.arrays import load_arrays
        from pipelines.graph.load import load_model
        from pipelines.sparsity.compare import compare
        from pipelines.sparsity.pattern import NMPattern

        model = load_model(context.inputs["export/model.onnx"])
        images = load_arrays(context.inputs["preprocess/inputs.npz"])["images"]
        request = context.request
        labels = [picture.label if request.weights.kind != "random" else None for picture in request.pictures]
        patterns = [NMPattern.parse(text) for text in COMPARED]
        tensors = calibration_tensors(context) if request.correct in PICTURED else None
        fit = None if tensors is None else tensors[:FIT_CROPS]

        def make(dense: onnx.ModelProto, pattern: NMPattern) -> onnx.ModelProto:
            return sparse_network(dense, pattern, request.correct, fit)[0]

        made_by = "magnitude" if request.correct == "none" else request.correct
        rows = compare(model, patterns, images, labels, context.progress, make, made_by)
        document = msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n"
        (context.out / "patterns.json").write_bytes(document)
        if not rows:
            return Outcome(status="skipped", reason="no pattern applies to a layer of this network")
        best = max(rows, key=lambda row: row.retained_share)
        order = ", reordered" if best.reordered else ""
        return Outcome(summary=f"{len(rows)} rows; most magnitude: {best.pattern}{order}, {best.retained_share:.1%}")
