"""Several N:M patterns on one network: what each keeps, what it takes to store, how answers move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import onnx

from pipelines.arrays import Array
from pipelines.checks.agreement import agreement, hits, top_classes
from pipelines.contract import PatternRow
from pipelines.graph.cost import elements_of
from pipelines.graph.weights import split
from pipelines.inference import outputs_of
from pipelines.sparsity.compressed import compressed_bytes
from pipelines.sparsity.hardware import ratio_warning
from pipelines.sparsity.pattern import NMPattern
from pipelines.sparsity.permute import permute_channels
from pipelines.sparsity.permute_report import PermuteReport

Progress = Callable[[str, int, int], None]
Make = Callable[[onnx.ModelProto, NMPattern], onnx.ModelProto]


def compare(
    model: onnx.ModelProto,
    patterns: Sequence[NMPattern],
    images: Array,
    labels: Sequence[int | None],
    progress: Progress,
    make: Make,
    made_by: str,
) -> list[PatternRow]:
    """Two rows a pattern, as exported and reordered; none for a pattern that applies to no layer.

    images [N, C, H, W] and their labels judge; nothing is fitted to them. `make` gives a network the pattern in every
    layer that takes it, and `made_by` says how.
    """
    dense = outputs_of(_bytes(model), images)[0]
    rows = []
    for place, pattern in enumerate(patterns):
        progress(f"pattern {pattern}", place, len(patterns))
        if not split(model, pattern)[0]:
            continue
        reordered, report = permute_channels(model, pattern)
        for one, is_reordered in ((model, False), (reordered, True)):
            outputs = outputs_of(_bytes(sparse := make(one, pattern)), images)[0]
            row = _row(sparse, pattern, is_reordered, report)
            rows.append(msgspec.structs.replace(row, made_by=made_by, **_judged(dense, outputs, labels)))
    return rows


def _row(sparse: onnx.ModelProto, pattern: NMPattern, reordered: bool, report: PermuteReport) -> PatternRow:
    weights, others = split(sparse, pattern)
    groups = [pattern.group_count(weight.shape, weight.axis) for weight in weights]
    size = compressed_bytes(sparse, pattern)
    held = elements_of(weights)
    retained = report.retained_after if reordered else report.retained_before
    return PatternRow(
        pattern=str(pattern),
        reordered=reordered,
        made_by="",
        layers=len(weights),
        weights_share=held / (held + elements_of(weight for weight, _ in others)),
        retained_share=retained / report.magnitude if report.magnitude else 1.0,
        efficacy=report.efficacy if reordered else 0.0,
        index_bits=pattern.index_bits,
        entropy_bits=pattern.entropy_bits,
        metadata_bytes=sum(layer.metadata_bytes for layer in size.layers),
        entropy_bytes=sum(-(-count * pattern.entropy_bits // 8) for count in groups),
        compressed_bytes=size.compressed_bytes,
        agreement_top1=None,
        cosine_centred=None,
        top1=None,
        warning=ratio_warning(pattern),
    )


def _judged(dense: Array, outputs: Array, labels: Sequence[int | None]) -> dict[str, Any]:
    """How the answers moved, and how many are right where labels can say."""
    near = agreement(dense, outputs)
    judges = any(label is not None for label in labels) and dense.ndim == 2 and dense.shape[1] == 1000
    return {
        "agreement_top1": near.top1,
        "cosine_centred": near.cosine_centred,
        "top1": hits(top_classes(outputs), labels, within=1) if judges else None,
    }


def _bytes(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString()
    return data
