"""What sparsity costs in answers and what correction gives back, on EfficientNet-Lite0 and real pictures.

    ./inv exec --engine local --env light -- python3 -m benchmarks.accuracy MODEL.onnx DATA CASE...

MODEL.onnx: from the export stage of `invoke run --model onnx_efficientnet_lite0`. DATA: the data folder. A case is
METHOD, METHOD@BUDGET (layers left dense by `choose_dense`) or either with a `+` (channels reordered first) or a `~`
(reordered by |w| times the norm of the activation), as in `obs@0.9+`. Calibration: 256 crops of the lock's
calibration pictures. Judged by: the 20 labelled pictures, whole (top-1
and top-5 out of 20) and as 15 crops of each (agreement with the dense network's best class, standard error over
pictures). CPU seconds are the process's own, of choosing and correcting; set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from pipelines.arrays import Array
from pipelines.checks.agreement import hits, top_classes
from pipelines.inference import outputs_of
from pipelines.models.lite0 import EfficientNetLite0
from pipelines.sparsity.pattern import NMPattern
from pipelines.sparsity.permute import permute_channels
from pipelines.sparsity.reconstruct import activation_norms, calibration_images, choose_dense, correct
from pipelines.sparsity.reconstruct.sensitivity import divergence

CALIBRATION_CROPS, JUDGING_CROPS = 256, 300
SMALLEST_JUDGED = 0.6  # of the picture's sides
LABEL = re.compile(r"imagenet_\d+_(\d+)\.\w+$")


@dataclass(frozen=True)
class Judge:
    """The pictures that judge, and the dense network's answers to their crops."""

    labels: list[int]
    whole: Array
    crops: Array
    dense: Array

    def row(self, model: bytes) -> str:
        """top-1, top-5, agreement in % and its standard error, mean divergence in nats."""
        best = top_classes(outputs_of(model, self.whole)[0])
        answers = outputs_of(model, self.crops)[0]
        same = (answers.argmax(1) == self.dense.argmax(1)).reshape(-1, len(self.labels))  # crops go round the pictures
        error = same.mean(0).std(ddof=1) / math.sqrt(len(self.labels))
        return (
            f"{hits(best, self.labels, 1)} | {hits(best, self.labels, 5)} | {same.mean():.1%} ± {error:.1%} | "
            f"{divergence(self.dense, answers):.3f}"
        )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--crops", type=int, default=CALIBRATION_CROPS)
    parser.add_argument("--sparsity", type=NMPattern.parse, default=NMPattern(2, 4))
    asked = parser.parse_args()
    dense, lite0 = onnx.load(str(asked.model)), EfficientNetLite0()
    judging = sorted((asked.data / "imagenet20").rglob("*.jpg"))
    fitting = sorted(p for p in (asked.data / "calibration").rglob("*") if p.suffix in (".png", ".jpg", ".jpeg"))
    crops = calibration_images(judging, lite0, JUDGING_CROPS, seed=1, smallest=SMALLEST_JUDGED)
    judge = Judge(
        labels=[int(found.group(1)) for path in judging if (found := LABEL.search(path.name))],
        whole=np.concatenate([lite0.preprocess(path) for path in judging]),
        crops=crops,
        dense=outputs_of(asked.model, crops)[0],
    )
    images = calibration_images(fitting, lite0, asked.crops)
    print(f"{len(fitting)} calibration pictures, {len(images)} crops; {asked.sparsity}")
    print("| case | dense layers | weights | MACs | top-1 | top-5 | agreement | divergence | CPU s |")
    print("|---|---|---|---|---|---|---|---|---|")
    print(f"| dense | | | | {judge.row(asked.model.read_bytes())} | |", flush=True)
    for case in asked.cases:
        print(f"| {case} | {_made(case, dense, asked.sparsity, images, judge)} |", flush=True)


def _made(case: str, dense: onnx.ModelProto, pattern: NMPattern, images: Array, judge: Judge) -> str:
    method, _, budget = case.rstrip("+~").partition("@")
    began = time.process_time()
    chosen = choose_dense(dense, pattern, images, float(budget)) if budget else None
    keep = chosen.dense if chosen else ()
    model = dense
    if case.endswith(("+", "~")):
        weighting = activation_norms(dense, images) if case.endswith("~") else None
        model = permute_channels(dense, pattern, keep=keep, weighting=weighting)[0]
    sparse, _ = correct(model, pattern, images, method=method, keep=keep)
    spent_s = time.process_time() - began
    shares = f"{chosen.weights_share:.1%} | {chosen.macs_share or 0:.1%}" if chosen else "100 % | 100 %"
    return f"{len(keep)} | {shares} | {judge.row(sparse.SerializeToString())} | {spent_s:.0f}"


if __name__ == "__main__":
    main()
