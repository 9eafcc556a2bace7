"""python -m pipelines.checks.pattern_file FILE --sparsity N:M: does an ONNX file follow a pattern, layer by layer?

Prints one PatternReport as JSON and ends with 0 where the pattern holds, 1 where it does not, 2 with a Refusal where
the file can't be checked.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipelines.checks.answer import answer
from pipelines.contract import LayerPattern, PatternReport
from pipelines.graph.load import load_model, read_values
from pipelines.graph.pattern_check import LayerCheck, check_layers, told, unknown_layers
from pipelines.sparsity.hardware import ratio_warning
from pipelines.sparsity.pattern import NMPattern


def main() -> int:
    """The report on stdout; the exit code says whether the pattern holds."""
    words = argparse.ArgumentParser(prog="python -m pipelines.checks.pattern_file", description=__doc__)
    words.add_argument("file", type=Path, help="an ONNX file; external data is read from beside it")
    words.add_argument("--sparsity", default="2:4", help="N:M, N kept of every M input channels")
    given = words.parse_args()
    return answer(lambda: pattern_report(given.file, NMPattern.parse(given.sparsity)))


def pattern_report(path: Path, pattern: NMPattern) -> PatternReport:
    """How every layer of that file stands to the pattern. PipelineError where the file can't be read."""
    model = load_model(path, external=False)
    checks = check_layers(model, pattern, read=lambda tensor, name: read_values(tensor, name, path))
    unknown = [
        LayerPattern(
            node=node, op=op, weight="", shape=(), axis=0, status="not applicable", detail=f"{op} is not looked into"
        )
        for node, op in unknown_layers(model)
    ]
    return PatternReport(
        file=path.name,
        pattern=str(pattern),
        index_bits=pattern.index_bits,
        entropy_bits=pattern.entropy_bits,
        warning=ratio_warning(pattern),
        layers=(*(_layer(check, pattern) for check in checks), *unknown),
    )


def _layer(check: LayerCheck, pattern: NMPattern) -> LayerPattern:
    weight = check.weight
    return LayerPattern(
        node=weight.node,
        op=weight.op,
        weight=weight.initializer,
        shape=weight.shape,
        axis=weight.axis,
        status="holds" if check.holds else "not applicable" if check.reason else "broken",
        detail=told(check, pattern),
        groups=check.groups,
        broken=check.broken,
        density=check.density,
    )


if __name__ == "__main__":
    sys.exit(main())
