"""Networks to try things on, in the pipeline's final form: torchvision's with seeded weights, or any ONNX file."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from pipelines.arrays import Array
from pipelines.attention import attention_exportable
from pipelines.graph.shapes import with_all_shapes
from pipelines.graph.tensors import stored, values
from pipelines.graph.tidy import simplified, tidy

OPSET, IR_VERSION = 13, 7


def prepared(source: str, seed: int = 0) -> tuple[onnx.ModelProto, Array]:
    """The network and two pictures for it, float32 from the seed.

    `source`: a name of torchvision's, or FILE[@1x3x48x320]. A file's weights are its own; where it only says their
    shapes (ConstantOfShape, as in the onnx package's light models) they are drawn from the seed.
    """
    name, _, size = source.partition("@")
    shape = [int(one) for one in size.split("x")] if size else []
    raw, shape = _from_file(Path(name), shape, seed) if name.endswith(".onnx") else _from_torchvision(name, seed)
    static = tidy(raw, shape, max(raw.ir_version, IR_VERSION))
    final = with_all_shapes(tidy(simplified(static, "onnxsim"), shape, static.ir_version))
    return final, np.random.default_rng(seed).standard_normal([2, *shape[1:]], np.float32)


def _from_file(path: Path, shape: list[int], seed: int) -> tuple[onnx.ModelProto, list[int]]:
    model = with_drawn_weights(onnx.load(str(path)), seed)
    given = next(one for one in model.graph.input if one.name not in stored(model.graph))
    dims = given.type.tensor_type.shape.dim
    shape = shape or [1, *(dim.dim_value for dim in dims[1:])]
    if not all(shape):
        raise SystemExit(f"{path.name}: its input has no fixed size: say FILE@1x3x48x320")
    for dim, length in zip(dims, shape, strict=True):  # a batch that some exporter fixed is none of the network's
        dim.dim_value = length
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    return model, shape


def with_drawn_weights(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """A copy in which each ConstantOfShape with a stored shape is a stored tensor, drawn from the seed.

    Weights are scaled by their fan-in and gains lie around 1, so that values neither vanish nor explode.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    held, gains, random = stored(made.graph), _gains(made.graph), np.random.default_rng(seed)
    others, used = [], set()
    for node in made.graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in held:
            others.append(node)
            continue
        shape = tuple(values(held[node.input[0]], node.input[0]).tolist())
        name = node.output[0]
        if len(shape) > 1:
            drawn = random.standard_normal(shape) / math.sqrt(max(1, math.prod(shape[1:])))
        else:
            drawn = random.uniform(0.5, 1.5, shape) if name in gains else random.normal(0, 0.2, shape)
        made.graph.initializer.append(numpy_helper.from_array(drawn.astype(np.float32), name))
        used.add(node.input[0])
    del made.graph.node[:]
    made.graph.node.extend(others)
    _drop(made.graph, used)
    return made


def _gains(graph: onnx.GraphProto) -> set[str]:
    """What multiplies or divides channels: of norms, or in products behind an Unsqueeze."""
    found = {name for node in graph.node if node.op_type == "Mul" for name in node.input}
    found |= {node.input[0] for node in graph.node if node.op_type == "Unsqueeze" and node.output[0] in found}
    return found | {node.input[at] for node in graph.node if node.op_type == "BatchNormalization" for at in (1, 4)}


def _drop(graph: onnx.GraphProto, names: set[str]) -> None:
    for held in (graph.initializer, graph.input):
        kept = [one for one in held if one.name not in names]
        del held[:]
        held.extend(kept)


def _from_torchvision(name: str, seed: int) -> tuple[onnx.ModelProto, list[int]]:
    """What is untrained and all one value (norms, a head of zeros, layer scales) would prove nothing: it is drawn."""
    import torch

    from pipelines.models.tv import PREFIX, TorchvisionModel

    torch.manual_seed(seed)
    model = TorchvisionModel(PREFIX + name)
    network = model.ready(model.build(published=False))
    with torch.no_grad():
        for values in network.parameters():
            if values.numel() > 1 and values.std() == 0:
                values.uniform_(0.5, 1.5) if values.mean() == 1 else values.normal_(0, 0.05)
        for buffer, values in network.named_buffers():
            if buffer.endswith("running_mean"):
                values.normal_(0, 0.2)
            elif buffer.endswith("running_var"):
                values.uniform_(0.5, 1.5)
    shape = [1, 3, *[model.preprocessing().crop] * 2]
    buffer = io.BytesIO()
    with attention_exportable(OPSET), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's
        names = {"input_names": ["input"], "output_names": ["output"]}
        torch.onnx.export(network, torch.zeros(shape), buffer, opset_version=OPSET, **names)
    return onnx.load_from_string(buffer.getvalue()), shape
