"""What sparsify did, as `sparsify.json` and as the facts of the closing table."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import onnx

from pipelines import native
from pipelines.contract import Fact, RunRequest
from pipelines.graph.cost import elements_of, macs_of
from pipelines.graph.keep import kept_layers
from pipelines.graph.mask import MaskedLayer, masked_layers
from pipelines.graph.pattern_check import unknown_layers
from pipelines.graph.tensors import changed_tensors
from pipelines.graph.weights import KEPT, Weight, split
from pipelines.sparsity.compressed import compressed_bytes
from pipelines.sparsity.hardware import hardware_note, ratio_warning
from pipelines.sparsity.pattern import NMPattern
from pipelines.sparsity.permute_report import PermuteReport

ZIP_LEVEL = 6


@dataclass(frozen=True)
class Made:
    """The sparse network, the dense one that it was made of, and the reports of how."""

    pattern: NMPattern
    dense: onnx.ModelProto  # reordered, where that was asked for
    sparse: onnx.ModelProto
    keep: frozenset[str]  # node names of layers left dense on request or by choice
    permuting: PermuteReport | None
    sensitivity: Any  # of choose_dense, None where nothing was chosen
    correction: Any  # of correct, None where zeros are by magnitude alone

    @functools.cached_property
    def layers(self) -> list[MaskedLayer]:
        """Those with the pattern."""
        return masked_layers(self.dense, self.sparse, split(self.dense, self.pattern, self.keep)[0])

    @functools.cached_property
    def others(self) -> list[tuple[Weight, str]]:
        """Those left dense, with their reasons."""
        return split(self.dense, self.pattern, self.keep)[1]


def kept_dense(
    dense: onnx.ModelProto, pattern: NMPattern, request: RunRequest, record: Mapping[str, Any]
) -> frozenset[str]:
    """Node names of the layers that a run left dense: as asked, and as its budget chose (`record`: sparsify.json)."""
    chosen = record["keep"] if request.budget is not None else ()
    return kept_layers(dense, pattern, request.keep) | frozenset(chosen)


def record_of(made: Made) -> dict[str, Any]:
    """For `sparsify.json`. `corrected` names every tensor that correction changed, by the sha256 of its values."""
    macs = macs_of(made.dense)
    record: dict[str, Any] = {
        "pattern": str(made.pattern),
        "layers": [
            {
                "node": layer.weight.node,
                "op": layer.weight.op,
                "initializer": layer.weight.initializer,
                "shape": layer.weight.shape,
                "axis": layer.weight.axis,
                "macs": macs.get(layer.weight.node),
                "zeros": layer.zeros,
                "density": 1 - layer.zeros / layer.elements,
                "retained_magnitude_share": layer.retained_magnitude / layer.magnitude if layer.magnitude else 1.0,
            }
            for layer in made.layers
        ],
        "left_dense": [
            {
                "node": weight.node,
                "op": weight.op,
                "initializer": weight.initializer,
                "shape": weight.shape,
                "macs": macs.get(weight.node),
                "reason": reason,
            }
            for weight, reason in made.others
        ],
        "not_looked_into": [{"node": node, "op": op} for node, op in unknown_layers(made.dense)],
        "keep": sorted(made.keep),
    }
    if made.sensitivity is not None:
        record["sensitivity"] = msgspec.to_builtins(made.sensitivity)
    if made.correction is not None:
        record["correction"] = msgspec.to_builtins(made.correction)
        record["corrected"] = changed_tensors(made.dense, made.sparse)
    return record


def facts_of(made: Made, dense_file: Path, sparse_file: Path) -> dict[str, Fact]:
    """The table's facts."""
    layers, others = made.layers, made.others
    masked = sum(layer.elements for layer in layers)
    dense = elements_of(weight for weight, _ in others)
    kept = elements_of(weight for weight, reason in others if reason == KEPT)
    macs = macs_of(made.dense)
    at_pattern = sum(macs.get(layer.weight.node, 0) for layer in layers)
    retained = sum(layer.retained_magnitude for layer in layers)
    magnitude = sum(layer.magnitude for layer in layers)
    size = compressed_bytes(made.sparse, made.pattern)
    with ThreadPoolExecutor(2) as pool:  # zlib lets go of the GIL
        dense_zipped, sparse_zipped = pool.map(_zipped, (dense_file, sparse_file))
    facts: dict[str, Fact] = {
        "pattern": str(made.pattern),
        "pattern_warning": ratio_warning(made.pattern),
        "pattern_hardware": hardware_note(made.pattern),
        "layers_total": len(layers) + len(others),
        "layers_at_pattern": len(layers),
        "layers_ineligible": sum(reason != KEPT for _, reason in others),
        "layers_kept_dense": sum(reason == KEPT for _, reason in others),
        "kept_dense": ", ".join(weight.node for weight, reason in others if reason == KEPT),
        "weights_at_pattern_share": masked / (masked + dense),
        "prunable_at_pattern_share": masked / (masked + kept),
        "macs_at_pattern_share": at_pattern / sum(macs.values()) if macs else None,
        "retained_magnitude_share": retained / magnitude if magnitude else 1.0,
        "made_by": "magnitude" if made.correction is None else made.correction.method,
        "dense_zipped_bytes": dense_zipped,
        "sparse_zipped_bytes": sparse_zipped,
        "dense_weights_bytes": size.dense_bytes,
        "compressed_bytes": size.compressed_bytes,
        "sparse_bytes": sparse_file.stat().st_size,
    }
    if made.correction is not None:
        facts["layers_uncorrected"] = len(made.correction.uncorrected)
    if (report := made.permuting) is not None:
        facts |= {
            "groups_permuted": len(report.groups),
            "groups_left": len(report.unpermuted),
            "retained_as_exported_share": report.retained_before / report.magnitude if report.magnitude else 1.0,
            "retained_reordered_share": report.retained_after / report.magnitude if report.magnitude else 1.0,
            "retained_bound_share": report.bound / report.magnitude if report.magnitude else 1.0,
            "permute_efficacy": report.efficacy,
        }
    return facts


def summary_of(made: Made, facts: dict[str, Fact]) -> str:
    """The line that a person sees."""
    warning = f"; {facts['pattern_warning']}" if facts["pattern_warning"] else ""
    how = "" if made.correction is None else f", corrected ({made.correction.method})"
    moved = f", {facts['groups_permuted']} groups reordered" if made.permuting is not None else ""
    slow = native.why_missing()
    fallback = f"; searched in NumPy, which finds less in the same time: no compiled kernels ({slow})" if slow else ""
    return (
        f"{made.pattern} on {facts['layers_at_pattern']} layers ({facts['weights_at_pattern_share']:.1%} of their "
        f"weights), {len(made.others)} left dense{moved}{how}{warning}{fallback if moved else ''}"
    )


def _zipped(path: Path) -> int:
    """What the file takes once deflated: what zeros buy in storage without any format for them."""
    squeeze = zlib.compressobj(ZIP_LEVEL)
    size = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size += len(squeeze.compress(block))
    return size + len(squeeze.flush())
