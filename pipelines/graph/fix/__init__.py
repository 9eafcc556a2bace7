"""Passes that mend what a gate finds: each returns a model and what it changed, and none changes outputs.

`PASSES` is in the order in which they are tried: shapes first, for others read them; names last.
"""

from __future__ import annotations

from pipelines.graph.fix.base import Goal, Pass
from pipelines.graph.fix.constants import constants_to_initializers, fold_constants
from pipelines.graph.fix.names import plain_names
from pipelines.graph.fix.operators import drop_identities, min_max_to_clip, short_indices, softmax_last
from pipelines.graph.fix.precision import single_precision
from pipelines.graph.fix.shapes import static_shapes
from pipelines.graph.fix.simplify import simplify
from pipelines.graph.fix.versions import convert_ir, convert_opset

PASSES: dict[str, Pass] = {
    "static_shapes": static_shapes,
    "single_precision": single_precision,
    "constants_to_initializers": constants_to_initializers,
    "fold_constants": fold_constants,
    "drop_identities": drop_identities,
    "simplify": simplify,
    "min_max_to_clip": min_max_to_clip,
    "softmax_last": softmax_last,
    "convert_opset": convert_opset,
    "convert_ir": convert_ir,
    "short_indices": short_indices,
    "plain_names": plain_names,
}

__all__ = ["PASSES", "Goal", "Pass"]
