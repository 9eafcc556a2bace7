"""Which channels go together in whole networks, and how long it takes to tell; a table.

    ./inv exec --engine local --env sigmastar -- python3 -m benchmarks.groups densenet121 FILE.onnx FILE.onnx@1x3x48x320

Names are torchvision's. Time is CPU time of `channel_groups` on the loaded model, the median of `--runs`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from pathlib import Path

from benchmarks.prepared import prepared
from pipelines.graph.groups import ChannelGroup, channel_groups

ENDS = ("it is an input of the graph", "it is an output of the graph")


def measured(source: str, runs: int) -> str:
    """A row of the table."""
    model, _ = prepared(source)
    times = []
    groups: tuple[ChannelGroup, ...] = ()
    for _ in range(runs):
        began = time.process_time()
        groups = channel_groups(model)
        times.append(time.process_time() - began)
    free = sum(group.permutable for group in groups)
    inside = Counter(group.reason for group in groups if group.reason and group.reason not in ENDS)
    others = "; ".join(f"{count}: {reason}" for reason, count in inside.most_common(3)) or "-"
    ms = 1e3 * statistics.median(times)
    return f"| {Path(source).name} | {len(model.graph.node)} | {len(groups)} | {free} | {ms:.0f} | {others} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args()
    print("| network | nodes | groups | reorderable | CPU ms | pinned inside the network, most frequent first |")
    print("|---|---|---|---|---|---|")
    for source in given.networks:
        print(measured(source, given.runs), flush=True)


if __name__ == "__main__":
    main()
