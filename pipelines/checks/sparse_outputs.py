"""Does the sparse file run, and are its outputs numbers of the dense file's shapes?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipelines.arrays import Array
from pipelines.checks.finding import Finding, judged
from pipelines.errors import first_line
from pipelines.inference import outputs_of


def sparse_outputs(
    file: Path, images: Array, dense: Sequence[Array], progress: Callable[[int, int], None]
) -> tuple[list[Array], Finding]:
    """Its outputs, none where they can't be compared with the dense ones, and the answer."""
    name = "sparse outputs are finite"
    try:
        outputs = outputs_of(file, images, progress)
    except Exception as error:  # onnxruntime's errors have no base of their own
        return [], judged(name, False, f"the file does not run: {first_line(error)}")
    shapes, wanted = ([list(one.shape) for one in many] for many in (outputs, dense))
    if shapes != wanted:
        return [], judged(name, False, f"outputs of shapes {shapes}, not {wanted}")
    finite = all(np.isfinite(one).all() for one in outputs)
    return outputs, judged(name, finite, "all of them" if finite else "some are not")
