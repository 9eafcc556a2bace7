"""Graph passes: what Constant nodes hold becomes initializers, and what depends on no input is computed once."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipelines.arrays import Array
from pipelines.errors import PipelineError, first_line
from pipelines.graph.facts import Graph
from pipelines.graph.fix.base import Goal, copied, names_read, replace_nodes, without_unread
from pipelines.graph.weights import name_of
from pipelines.inference import session

MOST_BYTES = 64 << 20  # folded tensors add to the file: more than this is not worth it
_QUANTISERS = {"DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"}  # folded, levels would become floats


def constants_to_initializers(model: onnx.ModelProto, goal: Goal) -> tuple[onnx.ModelProto, list[str]]:
    """Every Constant node of the main graph becomes an initializer of the same name."""
    del goal
    made = copied(model)
    outputs = {value.name for value in made.graph.output}
    gone: dict[int, list[onnx.NodeProto]] = {}
    for place, node in enumerate(made.graph.node):
        tensor = held_by(node)
        if tensor is not None and node.output[0] not in outputs:
            tensor.name = node.output[0]
            made.graph.initializer.append(tensor)
            gone[place] = []
    replace_nodes(made.graph, gone)
    without_unread(made.graph)
    return made, [f"{len(gone)} Constant nodes are initializers"] if gone else []


def fold_constants(model: onnx.ModelProto, goal: Goal) -> tuple[onnx.ModelProto, list[str]]:
    """What is computed from stored tensors alone is stored, as onnxruntime computes it; quantised weights stay so."""
    made, told = constants_to_initializers(model, goal)
    graph = Graph(made)
    levels: set[str] = set()
    folded: dict[int, onnx.NodeProto] = {}
    for place, node in enumerate(graph.nodes):
        if node.op_type in _QUANTISERS or levels.intersection(node.input):
            levels.update(node.output)
        elif node.op_type != "Constant" and all(graph.is_fixed(name) for name in node.output if name):
            folded[place] = node
    if not folded:
        return made, told
    rest = onnx.GraphProto(
        node=[node for place, node in enumerate(graph.nodes) if place not in folded], output=made.graph.output
    )
    wanted = sorted(names_read(rest) & {name for node in folded.values() for name in node.output})
    outputs = {value.name for value in made.graph.output}
    values = _computed(made, list(folded.values()), wanted)
    if (added := sum(one.nbytes for one in values)) > MOST_BYTES:
        raise PipelineError(f"folding adds {added / 2**20:.0f} MiB of constants", "leave them computed")
    keep = {place for place, node in folded.items() if outputs.intersection(node.output)}  # an output needs a node
    replace_nodes(made.graph, {place: [] for place in folded if place not in keep})
    for name, value in zip(wanted, values, strict=True):
        if name not in outputs:
            made.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    without_unread(made.graph)
    return made, [*told, *(f"{name_of(node)} is folded" for place, node in folded.items() if place not in keep)]


def held_by(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """A copy of what a Constant node gives, in whichever of its attributes; None for other nodes, and for strings."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    (one,) = node.attribute
    if one.name == "value":
        return onnx.TensorProto.FromString(one.t.SerializeToString())
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if one.name not in kinds:
        return None
    return numpy_helper.from_array(np.array(helper.get_attribute_value(one), kinds[one.name]))


def _computed(model: onnx.ModelProto, nodes: list[onnx.NodeProto], wanted: list[str]) -> list[Array]:
    read = {name for node in nodes for name in node.input}
    held = [tensor for tensor in model.graph.initializer if tensor.name in read]
    given = [onnx.ValueInfoProto(name=name) for name in wanted]
    graph = onnx.GraphProto(name="constants", node=nodes, initializer=held, output=given)
    probe = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=graph)
    try:
        found: list[Array] = session(probe.SerializeToString()).run(wanted, {})
    except Exception as error:  # onnxruntime's errors have no common base
        raise PipelineError(f"onnxruntime can't compute the constants: {first_line(error)}") from error
    return found
