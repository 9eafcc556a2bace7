"""All operators that channels can be followed through."""

from pipelines.graph.channels import (
    elementwise,
    layers,
    norms,
    recurrent,
    reduce,
    reshape,
    select,
    spatial,
)
from pipelines.graph.channels.trace import Rule

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **layers.RULES,
    **norms.RULES,
    **recurrent.RULES,
    **reduce.RULES,
    **reshape.RULES,
    **select.RULES,
    **spatial.RULES,
}
