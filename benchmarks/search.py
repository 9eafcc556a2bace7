"""Searches of channel orders: time and magnitude, compiled and NumPy, beside NVIDIA Apex's CPU code where it is given.

    ./inv exec --engine local --env sigmastar -- python3 -m benchmarks.search [--lite0 FILE.pth] [--apex FOLDER]

Times are CPU seconds of one thread. --lite0: EfficientNet-Lite0's weights, for its pointwise layers, each on its own.
--apex: a checkout of NVIDIA/apex; its CPU path is run on the first matrix with the import that it lacks put in (20 s).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from pipelines import native
from pipelines.arrays import Array
from pipelines.sparsity import search
from pipelines.sparsity.pattern import NMPattern
from pipelines.sparsity.search import PermutationSearch, search_permutation
from pipelines.sparsity.search_kernels import NUMPY

PATTERN = NMPattern(2, 4)
HEAD = "| matrix | strategy | kernels | CPU s | magnitude | efficacy % |{}\n|---|---|---|---|---|---|{}"
APEX = "apex/contrib/sparsity"


@dataclass(frozen=True)
class Timed:
    result: PermutationSearch
    cpu_s: float


def timed(matrix: Array, **options: Any) -> Timed:
    began = time.process_time()
    result = search_permutation(matrix, PATTERN, **options)
    return Timed(result, time.process_time() - began)


def apex_stripe_groups(folder: Path, matrix: Array) -> tuple[Array, float]:
    """The order that Apex's search over groups of 8 channels finds without escapes, and its CPU seconds."""
    sys.path.insert(0, str(folder / APEX))
    theirs = importlib.import_module("permutation_search_kernels.exhaustive_search")
    vars(theirs)["time"] = time  # as shipped: NameError
    with TemporaryDirectory() as cache, patch.dict(os.environ, APEX_ASP_CACHE_DIR=cache):
        began = time.process_time()
        _, _, order = theirs.Exhaustive_Search(matrix.copy(), stripe_group_size=8, escape_attempts=0)
        return np.asarray(order), time.process_time() - began


def matrices() -> dict[str, Array]:
    return {
        "rand 128x64, seed 1": np.random.RandomState(1).rand(128, 64),
        "rand 512x512, seed 1": np.random.RandomState(1).rand(512, 512),
        "normal 4608x512, seed 0": np.random.RandomState(0).standard_normal((4608, 512)),
    }


def searches(small: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "channel_swap", {"strategy": "channel_swap"}
    yield "stripe_groups", {"strategy": "stripe_groups"}
    if small:
        yield "stripe_groups, window 12", {"strategy": "stripe_groups", "window": 12}
    yield "auto", {}
    yield "auto, 1 s", {"time_limit_s": 1.0}
    if not small:
        yield "auto, 10 s", {"time_limit_s": 10.0}


def print_matrices(apex: Path | None) -> None:
    print(HEAD.format(" Apex / ours |", "---|") if apex else HEAD.format("", ""))
    for name, matrix in matrices().items():
        small = matrix.size < 10_000
        order, apex_s = apex_stripe_groups(apex, matrix) if apex and small else (np.arange(matrix.shape[1]), 0.0)
        if apex and small:
            kept = PATTERN.retained_magnitude(matrix[:, order])
            print(f"| {name} | Apex, 8 channels, 0 escapes | its CPU path | {apex_s:.2f} | {kept:.3f} | | |")
        for title, options in searches(small):
            for numpy in (False, True) if small and "time_limit_s" not in options else (False,):
                with patch.object(search, "kernels", lambda: NUMPY) if numpy else nullcontext():
                    best = min((timed(matrix, **options) for _ in range(3 if small else 1)), key=lambda one: one.cpu_s)
                print_line(name, title, best, apex_s if title == "stripe_groups" else 0.0, bool(apex))


def print_line(name: str, title: str, one: Timed, apex_s: float, column: bool) -> None:
    found = one.result
    line = f"| {name} | {title} | {found.kernels} | {one.cpu_s:.4f} | {found.retained_magnitude:.3f} |"
    line += f" {found.efficacy * 100:.2f} |"
    if column:
        line += f" {apex_s / one.cpu_s:.0f} |" if apex_s else " |"
    print(line, flush=True)


def steps_of(matrix: Array, cpu_s: float) -> dict[str, int]:
    """As many steps as take that long, whatever else the machine does meanwhile: a time limit counts that too."""
    trial = timed(matrix)
    return {"iterations": max(1, int(trial.result.steps * cpu_s / trial.cpu_s))}


def print_lite0(file: Path) -> None:
    import torch

    weights = torch.load(file, map_location="cpu")
    convolutions = [one.numpy() for one in weights.values() if one.ndim == 4]
    layers = [one[:, :, 0, 0] for one in convolutions if one.shape[1] > 1 and one.shape[2:] == (1, 1)]
    print(f"\n{len(layers)} pointwise layers of EfficientNet-Lite0, each on its own\n")
    print("| strategy | CPU s, all | efficacy %, of all magnitude | efficacy %, mean of layers | share kept % |")
    print("|---|---|---|---|---|")
    all_of_it = sum(float(np.abs(one).sum(dtype=np.float64)) for one in layers)
    for title, options in (
        ("identity", {"strategy": "identity"}),
        ("channel_swap", {"strategy": "channel_swap"}),
        ("stripe_groups", {"strategy": "stripe_groups"}),
        ("auto", {}),
        ("auto, steps of 0.1 CPU s a layer", {"cpu_s": 0.1}),
        ("auto, steps of 1 CPU s a layer", {"cpu_s": 1.0}),
    ):
        done = [timed(layer, **(steps_of(layer, **options) if "cpu_s" in options else options)) for layer in layers]
        found = [one.result for one in done]
        base, kept, bound = (
            sum(getattr(one, of) for one in found) for of in ("baseline_magnitude", "retained_magnitude", "upper_bound")
        )
        mean = sum(one.efficacy for one in found) / len(found)
        print(
            f"| {title} | {sum(one.cpu_s for one in done):.2f} | {(kept - base) / (bound - base) * 100:.2f} |"
            f" {mean * 100:.2f} | {kept / all_of_it * 100:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lite0", type=Path)
    parser.add_argument("--apex", type=Path)
    given = parser.parse_args()
    print(f"kernels: {native.describe()}\n")
    print_matrices(given.apex)
    if given.lite0:
        print_lite0(given.lite0)
