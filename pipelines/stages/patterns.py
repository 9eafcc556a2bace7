"""patterns: what other N:M patterns would make of this network, before and after reordering, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.contract import RunRequest
from pipelines.stage import Context, InputFile, Outcome

COMPARED = ("1:2", "2:4", "4:8", "8:16", "2:8", "1:4")


class Patterns:
    """Writes `patterns.json`: two rows a pattern, as the network was exported and reordered."""

    name = "patterns"
    needs = ("preprocess", "export")
    uses = ()

    def parameters(self, request: RunRequest) -> Mapping[str, Any]:
        """The patterns, the labels that judge, and whether they can."""
        return {
            "patterns": COMPARED,
            "weights": request.weights.kind,
            "labels": [picture.label for picture in request.pictures],
        }

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """None beside the exported model and the tensors."""
        del request, data, run_folder
        return ()

    def run(self, context: Context) -> Outcome:
        """Reorder, mask by magnitude and run the network, once a pattern."""
        import msgspec

        from pipelines.arrays import load_arrays
        from pipelines.graph.load import load_model
        from pipelines.sparsity.compare import compare
        from pipelines.sparsity.pattern import NMPattern

        model = load_model(context.inputs["export/model.onnx"])
        images = load_arrays(context.inputs["preprocess/inputs.npz"])["images"]
        request = context.request
        labels = [picture.label if request.weights.kind != "random" else None for picture in request.pictures]
        patterns = [NMPattern.parse(text) for text in COMPARED]
        rows = compare(model, patterns, images, labels, context.progress)
        document = msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n"
        (context.out / "patterns.json").write_bytes(document)
        if not rows:
            return Outcome(status="skipped", reason="no pattern applies to a layer of this network")
        best = max(rows, key=lambda row: row.retained_share)
        order = ", reordered" if best.reordered else ""
        return Outcome(summary=f"{len(rows)} rows; most magnitude: {best.pattern}{order}, {best.retained_share:.1%}")
