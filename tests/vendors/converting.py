"""What the tests of every toolchain share: a small network, its sparse forms, and a conversion as a run does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipelines.arrays import Array, save_arrays
from pipelines.checks.agreement import Agreement
from pipelines.checks.parity import parity
from pipelines.contract import Form
from pipelines.graph.mask import mask_magnitude
from pipelines.inference import load_outputs, outputs_of
from pipelines.sparsity.pattern import NMPattern
from pipelines.vendors import vendor
from pipelines.vendors.base import Converted, Job
from pipelines.vendors.worker import convert_apart

CLASSES = 10
PATTERN = "2:4"


def network(size: int = 32, channels: int = 32, seed: int = 0) -> onnx.ModelProto:
    """Three convolutions (one of them depthwise), global pooling and a matrix product: [1, 3, S, S] -> [1, 10]."""
    random = np.random.default_rng(seed)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        spread = np.sqrt(2 / np.prod(shape[1:]))
        return numpy_helper.from_array(random.normal(0, spread, shape).astype(np.float32), name)

    c = channels
    values = [
        weights("w0", c, 3, 3, 3),
        weights("w1", c, 1, 3, 3),
        weights("w2", 2 * c, c, 3, 3),
        weights("w3", CLASSES, 2 * c),
        *(numpy_helper.from_array(np.zeros(n, np.float32), f"b{i}") for i, n in enumerate((c, c, 2 * c, CLASSES))),
    ]
    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["input", "w0", "b0"], ["c0"], "conv0", strides=[2, 2], **conv),
        helper.make_node("Relu", ["c0"], ["r0"], "relu0"),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], "depthwise", group=c, **conv),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", strides=[2, 2], **conv),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["output"], "classes", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, CLASSES])],
        values,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    onnx.checker.check_model(model, full_check=True)
    return model


def patterned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Its 2:4 form, by magnitude."""
    return mask_magnitude(model, NMPattern.parse(PATTERN), frozenset())[0]


def thinned(model: onnx.ModelProto, share: float = 0.8) -> onnx.ModelProto:
    """The same network with that share of every large weight at zero, by magnitude, in no pattern."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        weight = numpy_helper.to_array(tensor).copy()
        if weight.ndim > 1 and weight.shape[1] > 3:
            weight[np.abs(weight) < np.quantile(np.abs(weight), share)] = 0
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    return made


def pictures(model: onnx.ModelProto, count: int, seed: int = 1) -> Array:
    """float32 [count, C, H, W] as smooth as photographs: noise that is blurred, no two alike."""
    shape = [one.dim_value for one in model.graph.input[0].type.tensor_type.shape.dim][1:]
    noise = np.random.default_rng(seed).normal(size=(count, *shape))
    for axis in (2, 3):
        noise = sum(np.roll(noise, step, axis) for step in range(-2, 3))
    return (noise / noise.std(axis=(1, 2, 3), keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Made:
    """A conversion, what its file computes beside onnxruntime (None where nothing ran it), and the log."""

    converted: Converted
    parity: Agreement | None
    log: str
    file: Path
    floor: float


def convert(
    name: str,
    variant: str,
    model: onnx.ModelProto | bytes,
    folder: Path,
    *,
    form: Form = "dense",
    target: str = "",
    judged: Array | None = None,
) -> Made:
    """The network through the real adapter in a process of its own, over 8 judged and 16 calibration pictures.

    `folder` is empty. Bytes in place of a network are given to the tool as they are.
    """
    tool = vendor(name)
    target = target or next(iter(tool.targets), "")
    offered = {one.name: one for one in tool.variants(target)}
    content = model if isinstance(model, bytes) else model.SerializeToString()
    shown = network() if isinstance(model, bytes) else model
    images = pictures(shown, 8) if judged is None else judged
    for place in ("out", "work"):
        (folder / place).mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    save_arrays(folder / "judged.npz", {"images": images})
    save_arrays(folder / "calibration.npz", {"images": pictures(shown, 16, seed=2)})
    job = Job(
        vendor=name,
        target=target,
        variant=variant,
        form=form,
        pattern=PATTERN,
        model=str(folder / "model.onnx"),
        calibration=str(folder / "calibration.npz") if variant in offered and offered[variant].calibrates else "",
        judged=str(folder / "judged.npz"),
        preprocessing=None,
        out=str(folder / "out"),
        work=str(folder / "work"),
        result=str(folder / "work" / "result.json"),
    )
    log = folder / "convert.log"
    made = convert_apart(tool, job, log, timeout_s=300)
    compared = None
    if made.outputs:
        compared = parity(outputs_of(content, images), load_outputs(Path(made.outputs)))
    floor = offered[variant].floor if variant in offered else 0.0
    return Made(made, compared, log.read_text("utf-8", errors="replace"), folder / "out" / made.file, floor)
