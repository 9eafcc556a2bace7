"""Bringing an exported graph into its final form: static, simplified, the same bytes each time."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import onnx

from pipelines.errors import PipelineError


def tidy(model: onnx.ModelProto, input_shape: Sequence[int], ir_version: int) -> onnx.ModelProto:
    """Static input, inferred shapes, the wanted IR, and nothing that says where or when it was made."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.ir_version = ir_version
    weights = {one.name for one in made.graph.initializer}
    inputs = [one for one in made.graph.input if one.name not in weights]
    if len(inputs) != 1:
        raise PipelineError(f"the graph has {len(inputs)} inputs", "this pipeline feeds one picture to one input")
    dims = inputs[0].type.tensor_type.shape.dim
    if len(dims) != len(input_shape):
        raise PipelineError(f"the graph's input has {len(dims)} dimensions, the tensors have {len(input_shape)}")
    for dim, size in zip(dims, input_shape, strict=True):
        if dim.HasField("dim_value") and dim.dim_value not in (0, size):
            raise PipelineError(
                f"the graph wants {[d.dim_value for d in dims]}, preprocessing gives {list(input_shape)}"
            )
        dim.Clear()
        dim.dim_value = size
    del made.graph.input[:]
    made.graph.input.extend(inputs)  # a weight listed there, as old files do, could be fed and is never folded
    used = {node.domain for node in made.graph.node}
    kept = [one for one in made.opset_import if one.domain in used]
    del made.opset_import[:]
    made.opset_import.extend(kept)
    made.doc_string = made.graph.doc_string = ""
    for node in made.graph.node:
        node.doc_string = ""
    del made.metadata_props[:], made.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(made)
    # the inference writes in the order of a hash table
    order = {name: place for place, name in enumerate(out for node in made.graph.node for out in node.output)}
    shapes = sorted(inferred.graph.value_info, key=lambda value: order.get(value.name, -1))
    del inferred.graph.value_info[:]
    inferred.graph.value_info.extend(shapes)
    return inferred


def simplified(model: onnx.ModelProto, by: Literal["onnxsim", "onnxruntime"]) -> onnx.ModelProto:
    """Constants folded and redundant nodes gone, by the named tool."""
    if by == "onnxsim":
        import onnxsim

        made, _ = onnxsim.simplify(model)
        return made
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # basic: everything it does can be said in standard operators
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        options.optimized_model_filepath = str(path)
        # sharing equal constants would take weights their names
        without = ["ConstantSharing"]
        providers = ["CPUExecutionProvider"]
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers, disabled_optimizers=without)
        return onnx.load(str(path))
