"""sparsify: N:M by magnitude on every layer that can have it, strict, in the file that the vendor will get."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.contract import RunRequest
from pipelines.errors import PipelineError
from pipelines.stage import Context, InputFile, Outcome

ZIP_LEVEL = 6


class Sparsify:
    """Writes `model.onnx` with the pattern and `sparsify.json`: every layer, and why it was left dense if it was."""

    name = "sparsify"
    needs = ("export",)
    uses = ()

    def parameters(self, request: RunRequest) -> Mapping[str, Any]:
        """The pattern."""
        return {"sparsity": request.sparsity}

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """None beside the exported model."""
        del request, data, run_folder
        return ()

    def run(self, context: Context) -> Outcome:
        """Mask, save, read again, check."""
        import onnx

        from pipelines.graph.mask import mask_magnitude
        from pipelines.graph.weights import check_pattern, split
        from pipelines.sparsity.pattern import NMPattern

        try:
            pattern = NMPattern.parse(context.request.sparsity)
        except ValueError as error:
            raise PipelineError(f"--sparsity: {error}") from error
        dense_path = context.inputs["export/model.onnx"]
        dense = onnx.load(str(dense_path))
        sparse, layers = mask_magnitude(dense, pattern)
        _, others = split(dense, pattern)
        if not layers:
            why = others[0][1] if others else "it has no convolution or matrix product with weights"
            raise PipelineError(f"no layer can follow {pattern}: {why}")
        path = context.out / "model.onnx"
        path.write_bytes(sparse.SerializeToString(deterministic=True))
        if broken := check_pattern(onnx.load(str(path)), pattern):
            raise PipelineError(f"{broken[0][0].node} breaks {pattern} after it was masked")  # a fault of ours
        masked = sum(layer.elements for layer in layers)
        dense_only = {weight.initializer: math.prod(weight.shape) for weight, _ in others if weight.initializer}
        left = sum(dense_only.values())  # a shared weight once
        retained = sum(layer.retained_magnitude for layer in layers)
        magnitude = sum(layer.magnitude for layer in layers)
        record = {
            "pattern": str(pattern),
            "layers": [
                {
                    "node": layer.weight.node,
                    "op": layer.weight.op,
                    "initializer": layer.weight.initializer,
                    "shape": layer.weight.shape,
                    "axis": layer.weight.axis,
                    "zeros": layer.zeros,
                    "density": 1 - layer.zeros / layer.elements,
                    "retained_magnitude_share": layer.retained_magnitude / layer.magnitude if layer.magnitude else 1.0,
                }
                for layer in layers
            ],
            "left_dense": [
                {"node": w.node, "op": w.op, "initializer": w.initializer, "shape": w.shape, "reason": reason}
                for w, reason in others
            ],
        }
        (context.out / "sparsify.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        share = masked / (masked + left)
        return Outcome(
            summary=f"{pattern} on {len(layers)} layers ({share:.1%} of their weights), {len(others)} left dense",
            facts={
                "pattern": str(pattern),
                "layers_total": len(layers) + len(others),
                "layers_at_pattern": len(layers),
                "layers_ineligible": len(others),
                "weights_at_pattern_share": share,
                "retained_magnitude_share": retained / magnitude if magnitude else 1.0,
                "sparse_bytes": path.stat().st_size,
                "dense_zipped_bytes": _zipped(dense_path),
                "sparse_zipped_bytes": _zipped(path),
            },
        )


def _zipped(path: Path) -> int:
    """What the file takes once deflated: what zeros buy in storage without any format for them."""
    squeeze = zlib.compressobj(ZIP_LEVEL)
    size = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size += len(squeeze.compress(block))
    return size + len(squeeze.flush())
