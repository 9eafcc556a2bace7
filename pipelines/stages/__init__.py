"""The stages in the order of the plan.

Facts that the host's table is made of, and who measures them:
export: opset, ir_version, nodes, dense_bytes; sparsify: pattern, layers_total, layers_at_pattern, layers_ineligible,
weights_at_pattern_share, retained_magnitude_share, sparse_bytes, dense_zipped_bytes, sparse_zipped_bytes;
verify: export_max_abs_diff, export_limit, agreement_top1, cosine, cosine_centred, sparse_max_abs_diff, pictures,
labelled, dense_top1, dense_top5, sparse_top1, sparse_top5, accuracy_reason, preprocess_max_abs_diff.
"""

from __future__ import annotations

from pipelines.stage import Stage
from pipelines.stages.collect import Collect
from pipelines.stages.convert import Convert
from pipelines.stages.export import Export
from pipelines.stages.fetch import Fetch
from pipelines.stages.preprocess import Preprocess
from pipelines.stages.sparsify import Sparsify
from pipelines.stages.verify import Verify

PLAN: tuple[Stage, ...] = (Fetch(), Preprocess(), Export(), Sparsify(), Verify(), Convert(), Collect())
