"""Reorder, mask and verify whole networks; a table of what was won and how exactly they compute the same.

    ./inv exec --engine local --env sigmastar -- python3 -m benchmarks.networks resnet18 FILE.onnx FILE.onnx@1x3x48x320

Names are torchvision's, with seeded weights; a file's weights are its own. Time is CPU time of the whole reordering.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx

from benchmarks.prepared import prepared
from pipelines.arrays import Array
from pipelines.checks.finding import Finding
from pipelines.checks.permuted import AS_RUN, BUILT, EXACT, permuted_equals_original
from pipelines.checks.sparse_file import only_pruned, pattern_holds
from pipelines.graph.mask import mask_magnitude
from pipelines.inference import outputs_of
from pipelines.sparsity.pattern import NMPattern
from pipelines.sparsity.permute import PermuteReport, permute_channels

COLUMNS = (
    "network | groups reordered / all | magnitude kept % before | after | bound | efficacy % | CPU s "
    "| float64 | onnxruntime | file, pattern"
)


def told(finding: Finding) -> str:
    """Its number where it holds, else what went wrong."""
    if finding.status == "ok":
        return f"{finding.value:.1e}" if finding.value is not None else "ok"
    return f"{finding.status}: {finding.detail}"


def says_nothing(model: onnx.ModelProto, images: Array) -> bool:
    """Whether every output is the same for two pictures: equal outputs would prove nothing then."""
    outputs = outputs_of(model.SerializeToString(), images)
    return all(np.array_equal(one[0], one[1]) for one in outputs)


def masked(permuted: onnx.ModelProto, pattern: NMPattern, images: Array) -> list[str]:
    """What is wrong with the reordered network once it is masked."""
    sparse, _ = mask_magnitude(permuted, pattern)
    wrong = [
        one.detail
        for one in (pattern_holds(sparse, pattern), only_pruned(permuted, sparse, pattern))
        if one.status != "ok"
    ]
    outputs = outputs_of(sparse.SerializeToString(), images)
    return wrong + ["outputs are not finite"] * (not all(np.isfinite(one).all() for one in outputs))


def row(source: str, pattern: NMPattern, strategy: str, seed: int) -> tuple[str, PermuteReport]:
    model, images = prepared(source, seed)
    began = time.process_time()
    permuted, report = permute_channels(model, pattern, strategy=strategy, seed=seed)
    spent = time.process_time() - began
    findings = {one.name: one for one in permuted_equals_original(model, permuted, images, report.permutations)}
    wrong = masked(permuted, pattern, images)
    if findings[BUILT].status != "ok":
        wrong.insert(0, findings[BUILT].detail)
    if says_nothing(model, images):
        wrong.append("the output does not depend on the picture")
    total = len(report.groups) + len(report.unpermuted)
    shares = [100 * one / report.magnitude for one in (report.retained_before, report.retained_after, report.bound)]
    cells = [Path(source).name, f"{len(report.groups)} / {total}", *(f"{share:.2f}" for share in shares)]
    cells += [f"{100 * report.efficacy:.1f}", f"{spent:.1f}", told(findings[EXACT]), told(findings[AS_RUN])]
    return " | ".join([*cells, "; ".join(wrong) or "ok"]), report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="NAME|FILE[@SHAPE]")
    parser.add_argument("--sparsity", type=NMPattern.parse, default=NMPattern(2, 4))
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"| {COLUMNS} |\n|{'---|' * len(COLUMNS.split(' | '))}", flush=True)
    reports = {}
    for source in given.sources:
        text, reports[source] = row(source, given.sparsity, given.strategy, given.seed)
        print(f"| {text} |", flush=True)
    print("\nGroups that stay as they are:")
    for source, report in reports.items():
        reasons = Counter(one.reason for one in report.unpermuted)
        print(
            f"- {Path(source).name}: "
            + ("; ".join(f"{count} x {why}" for why, count in reasons.most_common()) or "none")
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
