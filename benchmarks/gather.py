"""What reordering costs at run time: folded into the weights, beside a Gather in front of each layer.

    ./inv exec --engine local --env sigmastar -- python3 -m benchmarks.gather resnet18 FILE.onnx [--repeats 30]

onnxruntime on one thread, batch 1. The three networks take turns, so that a busy moment of the machine hits all;
medians in ms, and ratios to the original. Names and files as in benchmarks.networks.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

from benchmarks.prepared import prepared
from pipelines.arrays import Array
from pipelines.graph.gather import with_gathers
from pipelines.graph.groups import channel_groups
from pipelines.inference import session
from pipelines.sparsity.pattern import NMPattern
from pipelines.sparsity.permute import permute_channels


def medians(models: list[bytes], image: Array, repeats: int) -> list[float]:
    """Milliseconds a run of each."""
    running = [session(model) for model in models]
    name = running[0].get_inputs()[0].name
    spent: list[list[float]] = [[] for _ in models]
    for nth in range(repeats + 2):
        for one, times in zip(running, spent, strict=True):
            began = time.perf_counter()
            one.run(None, {name: image})
            if nth >= 2:  # the first runs set up memory
                times.append(1000 * (time.perf_counter() - began))
    return [statistics.median(times) for times in spent]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="NAME|FILE[@SHAPE]")
    parser.add_argument("--sparsity", type=NMPattern.parse, default=NMPattern(2, 4))
    parser.add_argument("--repeats", type=int, default=30)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    print("| network | Gather nodes | original ms | folded ms | ratio | with Gather ms | ratio |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for source in given.sources:
        model, images = prepared(source)
        folded, report = permute_channels(model, given.sparsity, strategy="stripe_groups")
        weights = {group.name: group.consumers for group in report.groups}
        gathered = with_gathers(model, channel_groups(model), report.permutations, weights)
        count = sum(node.op_type == "Gather" for node in gathered.graph.node)
        count -= sum(node.op_type == "Gather" for node in model.graph.node)
        original, plain, naive = medians(
            [one.SerializeToString() for one in (model, folded, gathered)], images[:1], given.repeats
        )
        cells = [Path(source).name, str(count), f"{original:.2f}", f"{plain:.2f}", f"{plain / original:.3f}"]
        print(f"| {' | '.join(cells)} | {naive:.2f} | {naive / original:.3f} |", flush=True)


if __name__ == "__main__":
    main()
