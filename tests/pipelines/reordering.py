"""Small graphs in onnx's text form, and a random order for every group that may have one: the outputs must stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import numpy_helper

from pipelines.arrays import Array
from pipelines.graph.groups import ChannelGroup, Place, channel_groups
from pipelines.graph.tensors import stored


def graph(text: str, given: str = "float[1,4,6,6] x", opset: int = 13, made: str = "out", **weights: Any) -> Any:
    """A model of these nodes; a weight is an array, or a shape that a seed fills."""
    wanted = ", ".join(f"float[1] {name}" for name in made.split())
    body = " ".join(text.split("\n"))
    model = onnx.parser.parse_model(
        f'<ir_version: 7, opset_import: ["" : {opset}, "other" : 1]> net ({given}) => ({wanted}) {{ {body} }}'
    )
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made.split())
    random = np.random.default_rng(len(text))
    for name, its in weights.items():
        array = random.uniform(0.2, 1.2, its).astype(np.float32) if isinstance(its, tuple) else np.asarray(its)
        if isinstance(its, tuple) and len(its) > 1:
            array *= random.choice([-1, 1], its).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def reordered(model: Any, groups: Sequence[ChannelGroup] | None = None, seed: int = 0) -> Any:
    """A copy of the model in which all permutable groups (or all of the given ones) have a random order of their own.

    No channel stays where it was: an order of length n is one cycle through all n.
    """
    random = np.random.default_rng(seed)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    held = stored(made.graph)
    arrays = {}
    for group in channel_groups(model) if groups is None else groups:
        if group.permutable or groups is not None:
            cycle = random.permutation(group.size)
            permutation = np.empty(group.size, np.int64)
            permutation[cycle] = np.roll(cycle, 1)
            for place in group.places:
                before = arrays.get(place.tensor)
                before = numpy_helper.to_array(held[place.tensor]) if before is None else before
                arrays[place.tensor] = moved(before, place, permutation)
    for name, array in arrays.items():
        held[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), held[name].name))
    return made


def moved(array: Array, place: Place, permutation: Array) -> Array:
    """The array with the place's channels in the new order."""
    made = array.copy()
    source = np.arange(array.shape[place.axis])
    for position, channel in enumerate(permutation):
        for offset in range(place.inner):
            source[place.start + position * place.inner + offset] = place.start + channel * place.inner + offset
    rows = slice(None) if place.rows is None else slice(*place.rows)
    made[rows] = np.take(array[rows], source, place.axis)
    return made


def outputs(model: Any, seed: int = 0) -> list[Array]:
    """onnxruntime's answers to random inputs, each node by itself: fusing some of these graphs fails in 1.17.3."""
    random = np.random.default_rng(seed)
    held = stored(model.graph)
    feeds = {}
    for value in model.graph.input:
        if value.name not in held:
            its = value.type.tensor_type
            shape = [dim.dim_value or 2 for dim in its.shape.dim]
            kind = numpy_helper.to_array(onnx.TensorProto(data_type=its.elem_type, dims=[0])).dtype
            feeds[value.name] = (random.standard_normal(shape) * 3).astype(kind)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    content, providers = model.SerializeToString(), ["CPUExecutionProvider"]
    answers: list[Array] = onnxruntime.InferenceSession(content, options, providers=providers).run(None, feeds)
    return answers


def difference(one: Any, other: Any) -> float:
    """The largest difference of two models' outputs, in shares of the largest output."""
    pairs = list(zip(outputs(one), outputs(other), strict=True))
    return max(float(np.abs(a - b).max()) / (float(np.abs(a).max()) or 1.0) for a, b in pairs if a.size)
