"""Times of the verbs a person waits for, beside docker's own where it has one: python -m benchmarks.verbs.

Medians of ten whole processes each, after one that warms up. Needs a Docker Engine and a built environment.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMES = 10


def median_s(command: Sequence[str]) -> float:
    """Median seconds of a command that must succeed."""
    taken = []
    for _ in range(TIMES + 1):
        began = time.monotonic()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        taken.append(time.monotonic() - began)
    return statistics.median(taken[1:])


def main(env: str) -> None:
    invoke = [sys.executable, "-m", "invoke"]
    name = "edgekiln-benchmark"
    subprocess.run([*invoke, "start", "--env", env, "--engine", "docker", "--name", name], cwd=ROOT, check=True)
    try:
        rows = {
            "./inv --list": ["./inv", "--list"],
            "invoke --list": [*invoke, "--list"],
            "invoke build, nothing to do": [*invoke, "build", "--env", env, "--engine", "docker"],
            "invoke exec -- true": [*invoke, "exec", "--engine", "docker", "--name", name, "--", "true"],
            "docker exec true": ["docker", "exec", name, "true"],
            "invoke run, second, docker": [
                *invoke,
                "run",
                "--env",
                env,
                "--model",
                "onnx_tv_resnet18",
                "--engine",
                "docker",
            ],
            "invoke run, second, local": [
                *invoke,
                "run",
                "--env",
                env,
                "--model",
                "onnx_tv_resnet18",
                "--engine",
                "local",
            ],
        }
        for label, command in rows.items():
            print(f"{label:<30}{median_s(command):>8.3f} s", flush=True)
    finally:
        subprocess.run([*invoke, "rm", "--engine", "docker", "--name", name, "--force"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sigmastar")
