"""python -m pipelines.checks.gate_file FILE --toolchain NAME: what would that toolchain refuse in an ONNX file?

Prints one GateReport as JSON and ends with 0 where no error is left, 1 where one is, 2 with a Refusal where the file
can't be checked. `--fix --output FILE` writes the mended network, proved equal over seeded noise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx

from pipelines.arrays import Array
from pipelines.checks.answer import answer
from pipelines.contract import GateReport
from pipelines.gate.examine import examine
from pipelines.gate.mend import mend
from pipelines.gate.prove import evidence
from pipelines.graph.facts import opset_of
from pipelines.graph.fix.shapes import one_picture
from pipelines.graph.load import load_model
from pipelines.sparsity.pattern import NMPattern
from pipelines.vendors import vendor
from pipelines.vendors.limits import Limits

PATTERN = NMPattern(2, 4)  # that layers keep where they have it; zeros of any other kind are counted
PROOFS = 8  # inputs of seeded noise over which a mended network is proved equal


def main() -> int:
    """The report on stdout; the exit code says whether the toolchain takes the file."""
    words = argparse.ArgumentParser(prog="python -m pipelines.checks.gate_file", description=__doc__)
    words.add_argument("file", type=Path, help="an ONNX file; external data is read from beside it")
    words.add_argument("--toolchain", required=True, help="as pipelines.vendors calls it")
    words.add_argument("--shape", default="", help="of the input, where the file leaves sizes open: 1,3,224,224")
    words.add_argument("--output", type=Path, help="mend what can be mended, and write the network there")
    given = words.parse_args()

    def look() -> GateReport:
        limits = vendor(given.toolchain).limits
        return gate_report(given.file, given.toolchain, limits, shape_of(given.shape), given.output)

    return answer(look)


def gate_report(
    path: Path,
    toolchain: str,
    limits: Limits,
    shape: tuple[int, ...] | None = None,
    output: Path | None = None,
) -> GateReport:
    """What the limits say of that file, mended into `output` where that is given. PipelineError: it can't be read."""
    model = load_model(path)
    changes: list[str] = []
    if output is None:
        findings = examine(model, limits, "dense", path.stat().st_size)
    else:
        images = noise(one_picture(model, shape))
        mended = mend(model, limits, "dense", evidence(model, images, PATTERN))
        model, findings, changes = mended.model, mended.findings, mended.changes
        output.write_bytes(model.SerializeToString(deterministic=True))
    return GateReport(
        file=path.name,
        toolchain=toolchain,
        checked_by=f"onnx {onnx.__version__}",
        opset=opset_of(model),
        ir_version=model.ir_version,
        nodes=len(model.graph.node),
        findings=tuple(findings),
        changes=tuple(changes),
        proofs=PROOFS if output is not None else 0,
    )


def shape_of(text: str) -> tuple[int, ...] | None:
    """1,3,224,224; None for nothing. ValueError for anything else."""
    if not text:
        return None
    try:
        shape = tuple(int(size) for size in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ValueError(f"--shape {text!r} is no shape like 1,3,224,224")
    return shape


def noise(shape: tuple[int, ...]) -> Array:
    """Seeded, around 0 with deviation 1, as preprocessed pictures are: float32 [8, ...]."""
    return np.random.default_rng(0).standard_normal((PROOFS, *shape[1:])).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
