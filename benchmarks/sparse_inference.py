"""Sparse inference on one core at batch 1: our compressed 2:4 beside dense onnxruntime, layers and whole networks.

    ./inv exec --engine local --env sigmastar -- python3 -m benchmarks.sparse_inference [resnet18 FILE.onnx ...]

Without names: single layers, each with its input in the memory order that its engine has inside a network. Both
engines take turns on one thread, so that a busy moment of the machine hits both: median CPU milliseconds of --repeats
runs, and the ratio (above 1 ours is faster). Every line is checked against onnxruntime on the masked weights before it
is timed. Names and files as in benchmarks.networks.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.prepared import prepared
from pipelines import native
from pipelines.arrays import Array
from pipelines.checks.sparse_equals_dense import sparse_equals_dense
from pipelines.executor.network import SparseNetwork
from pipelines.graph.mask import mask_magnitude
from pipelines.graph.tensors import stored
from pipelines.inference import session
from pipelines.sparsity.compressed import compressed_bytes
from pipelines.sparsity.pattern import NMPattern

CONNECTED = ["1000x1280", "1000x2048", "4096x4096", "4096x25088"]  # rows x channels
CONVOLUTIONS = {  # side of the kernel, and filters x channels x side of the picture
    "resnet50's": (1, "64x256x56 256x64x56 128x512x28 512x128x28 1024x256x14 256x1024x14 2048x512x7 512x2048x7"),
    "Lite0's": (1, "96x16x112 144x24x56 240x40x28 80x480x14 672x112x14 192x1152x7 1280x320x7"),
    "resnet18's": (3, "64x64x56 128x128x28 256x256x14 512x512x7"),
}
HEAD = "| what | onnxruntime ms | ours ms | ratio | weight bytes | largest difference |\n|---|---|---|---|---|---|"


def layer(op: str, shape: tuple[int, ...], x: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    tensors = {"w": random.standard_normal(shape), "b": random.standard_normal(shape[0])}
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, x)
    node = helper.make_node(op, ["x", "w", "b"], ["y"], **attributes)
    graph = helper.make_graph([node], "layer", [given], [onnx.ValueInfoProto(name="y")], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def layers() -> list[tuple[str, onnx.ModelProto, Array]]:
    found: list[tuple[str, onnx.ModelProto, tuple[int, ...]]] = []
    for shape in CONNECTED:
        rows, channels = map(int, shape.split("x"))
        found.append((f"FC {shape}", layer("Gemm", (rows, channels), (1, channels), transB=1), (1, channels)))
    for kind, (kernel, shapes) in CONVOLUTIONS.items():
        for shape in shapes.split():
            filters, channels, side = map(int, shape.split("x"))
            size = (1, channels, side, side)
            model = layer("Conv", (filters, channels, kernel, kernel), size, pads=[kernel // 2] * 4)
            found.append((f"{kind} {kernel}x{kernel} {filters}x{channels} at {side}x{side}", model, size))
    random = np.random.default_rng(1)
    return [(name, model, random.standard_normal(x, np.float32)) for name, model, x in found]


def networks(names: Sequence[str]) -> list[tuple[str, onnx.ModelProto, Array]]:
    found = [(name, *prepared(name)) for name in names]
    return [(name, model, pictures[:1]) for name, model, pictures in found]


def channels_last(x: Array) -> Array:
    """The same array in the memory order that our layers hand to each other; onnxruntime's is as it comes."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if x.ndim == 4 else x


def medians(runs: list[Callable[[], Any]], repeats: int) -> list[float]:
    """CPU milliseconds of each, taking turns."""
    spent: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats + 2):
        for times, run in zip(spent, runs, strict=True):
            began = time.process_time()
            run()
            times.append(1e3 * (time.process_time() - began))
    return [statistics.median(times[2:]) for times in spent]  # the first ones warm up


def line(name: str, dense: onnx.ModelProto, x: Array, pattern: NMPattern, repeats: int) -> str:
    masked, _ = mask_magnitude(dense, pattern)
    feed = next(value.name for value in dense.graph.input if value.name not in stored(dense.graph))
    found = sparse_equals_dense(masked, pattern, x)
    if found.status != "ok":
        return f"| {name} | {found.status}: {found.detail} |"
    theirs, ours = session(dense.SerializeToString()), SparseNetwork(masked, pattern)
    last = channels_last(x) if len(dense.graph.node) == 1 else x
    ort_ms, ours_ms = medians([lambda: theirs.run(None, {feed: x}), lambda: ours.run({feed: last})], repeats)
    size = compressed_bytes(masked, pattern)
    share = size.compressed_bytes / size.dense_bytes
    return f"| {name} | {ort_ms:.3f} | {ours_ms:.3f} | {ort_ms / ours_ms:.2f} | {share:.3f} | {found.value:.1e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--sparsity", default="2:4")
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"kernels: {native.describe()}\n\n{HEAD}")
    for name, model, x in networks(options.networks) or layers():
        print(line(Path(name).name, model, x, NMPattern.parse(options.sparsity), options.repeats), flush=True)


if __name__ == "__main__":
    main()
