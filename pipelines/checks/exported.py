"""Does the exported file compute what the framework computes?"""

from __future__ import annotations

import numpy as np

from pipelines.arrays import Array
from pipelines.checks.finding import Finding, judged
from pipelines.inference import largest_difference, limit_for


def exported_equals_framework(exported: list[Array], reference: list[Array]) -> Finding:
    """max |onnxruntime - torch| over all outputs of all pictures; anything that is not finite fails."""
    name = "exported equals torch"
    if not all(np.isfinite(one).all() for one in (*exported, *reference)):
        return judged(name, False, "outputs hold values that are not finite")
    limit = limit_for(reference)
    try:
        difference = largest_difference(exported, reference)
    except ValueError as error:
        return judged(name, False, str(error))
    return judged(
        name,
        difference <= limit,
        f"largest difference {difference:.3g}, limit {limit:.3g}",
        value=difference,
        limit=limit,
    )
