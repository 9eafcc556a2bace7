"""The stages in the order of the plan.

Facts that the host's table is made of, and who measures them:
export: opset, ir_version, nodes, dense_bytes; sparsify: pattern, pattern_warning, pattern_hardware, layers_total,
layers_at_pattern, layers_ineligible, layers_kept_dense, weights_at_pattern_share, prunable_at_pattern_share,
macs_at_pattern_share, retained_magnitude_share, made_by, sparse_bytes, dense_weights_bytes, compressed_bytes,
dense_zipped_bytes, sparse_zipped_bytes; where channels are reordered groups_permuted, groups_left,
retained_as_exported_share, retained_reordered_share, retained_bound_share, permute_efficacy; with --gather
gather_nodes, folded_ms, gather_ms; where values are corrected layers_uncorrected, calibration_pictures,
calibration_crops;
verify: export_max_abs_diff, export_limit, reordered_max_rel_error, reordered_limit, compressed_max_abs_diff,
compressed_limit, agreement_top1, cosine, cosine_centred, sparse_max_abs_diff, pictures, labelled, dense_top1,
dense_top5, sparse_top1, sparse_top5, accuracy_reason, preprocess_max_abs_diff;
check: gate_findings, gate_errors, gate_warnings, gate_fixed.
"""

from __future__ import annotations

from pipelines.contract import RunRequest, stages_of
from pipelines.stage import Stage
from pipelines.stages.check import Check
from pipelines.stages.collect import Collect
from pipelines.stages.convert import Convert
from pipelines.stages.export import Export
from pipelines.stages.fetch import Fetch
from pipelines.stages.patterns import Patterns
from pipelines.stages.prepare import Prepare
from pipelines.stages.preprocess import Preprocess
from pipelines.stages.sparsify import Sparsify
from pipelines.stages.verify import Verify

PLAN: tuple[Stage, ...] = (
    Fetch(),
    Preprocess(),
    Export(),
    Sparsify(),
    Verify(),
    Patterns(),
    Check(),
    Prepare(),
    Convert(),
    Collect(),
)


def plan(request: RunRequest) -> tuple[Stage, ...]:
    """The stages that a request runs."""
    asked = stages_of(request)
    return tuple(stage for stage in PLAN if stage.name in asked)
