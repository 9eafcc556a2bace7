"""What bytecode in the image would buy and cost: python -m benchmarks.bytecode [ENV] (the environment must be built).

Imports the pipeline's heavy packages in a tree without bytecode and in a copy compiled as reproducibly as CPython
allows (one process, unchecked-hash, the image's own paths), in turns; compiles a second copy and counts the files
that differ. Prints medians of seven starts, sizes and that count.
"""

from __future__ import annotations

import hashlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from envs.interpreter import PREFIX
from envs.lock import read_lock
from envs.tree import existing_tree, trees_root

MODULES = {"nothing": "pass", "numpy": "import numpy", "all": "import torch, torchvision, onnx, onnxruntime"}


def compiled_copy(tree: Path, folder: Path) -> float:
    """A copy with bytecode; seconds that compiling took. Files that are linked stay shared: only .pyc are added."""
    subprocess.run(["cp", "-al", tree, folder], check=True)
    command = [folder / "bin/python3", "-m", "compileall", "-q", "-j1", "--invalidation-mode", "unchecked-hash"]
    command += ["-s", str(folder), "-p", PREFIX, "-x", r"/tests?/", folder / "lib"]
    began = time.monotonic()
    subprocess.run(command, env={"PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": "0"}, check=False)  # lib2to3 has py2 files
    return time.monotonic() - began


def bytecode(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*.pyc")
    }


def start(tree: Path, code: str) -> float:
    began = time.monotonic()
    subprocess.run(
        [tree / "bin/python3", "-c", code],
        env={"PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return time.monotonic() - began


def main(env: str) -> None:
    tree = existing_tree(read_lock(env))
    if tree is None:
        sys.exit(f"{env} is not built here: invoke build --env {env}")
    with tempfile.TemporaryDirectory(dir=trees_root(), prefix=".bytecode-") as work:
        plain, first, second = (Path(work, name) for name in ("plain", "first", "second"))
        subprocess.run(["cp", "-al", tree, plain], check=True)
        for cache in plain.rglob("__pycache__"):
            shutil.rmtree(cache)
        seconds = compiled_copy(plain, first)
        compiled_copy(plain, second)
        one, two = bytecode(first), bytecode(second)
        differing = sum(one.get(name) != two.get(name) for name in one.keys() | two.keys())
        size = sum(file.stat().st_size for file in first.rglob("*.pyc"))
        print(
            f"{len(one)} files, {size / 2**20:.1f} MiB, compiled in {seconds:.1f} s, {differing} differ in two builds"
        )
        print(f"{'import':<10}{'none s':>10}{'compiled s':>12}{'saved s':>10}")
        for name, code in MODULES.items():
            times: dict[Path, list[float]] = {plain: [], first: []}
            for _ in range(8):
                for each, taken in times.items():
                    taken.append(start(each, code))
            without, with_it = (statistics.median(taken[1:]) for taken in times.values())
            print(f"{name:<10}{without:>10.2f}{with_it:>12.2f}{without - with_it:>10.2f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "light")
