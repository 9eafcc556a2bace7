"""To an older opset: each node in the form that its operator had then, by ONNX's own schemas.

onnx's converter goes down for few operators, and which ones depends on its release. Most changes between opsets are
of three kinds: more types (nothing to do), an attribute with a default (left out where it has that value), and an
attribute that became an input (put back where it is stored). What else changed has a rule here, or is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from pipelines.arrays import Array
from pipelines.errors import PipelineError, first_line
from pipelines.graph.facts import Graph
from pipelines.graph.fix.base import Goal, all_names, copied, new_name, replace_nodes, without_unread
from pipelines.graph.fix.constants import fold_constants
from pipelines.graph.fix.operators import SOFTMAX_AXIS, drop_identities, softmax_last
from pipelines.graph.weights import name_of

_AS_ATTRIBUTE = {("Pad", "constant_value"): "value"}  # others kept their name
_NEUTRAL = {("Slice", "steps"): 1, ("Dropout", "training_mode"): 0}  # inputs that had no attribute before
_IMPLIED = {("Split", "num_outputs")}  # attributes that only repeat what the node shows
GEMM_WITHOUT_C = 11  # the opset since which Gemm need not add anything
_MOVED_DEFAULT = {"Softmax", "LogSoftmax", "Hardmax"}  # whose axis had another default before opset 13


def lowered(model: onnx.ModelProto, goal: Goal, stands: int, wanted: int) -> onnx.ModelProto:
    """The model at opset `wanted`, below `stands`. PipelineError names the node that has no form there."""
    made = drop_identities(fold_constants(model, goal)[0], goal)[0]
    if stands >= SOFTMAX_AXIS > wanted:
        made = softmax_last(made, goal)[0]
    made = copied(made)
    graph, taken = Graph(made), all_names(made.graph)
    instead: dict[int, list[onnx.NodeProto]] = {}
    for place, node in enumerate(made.graph.node):
        if node.domain not in ("", "ai.onnx"):
            continue
        if any(one.HasField("g") or len(one.graphs) for one in node.attribute):
            raise PipelineError(f"{name_of(node)} holds a graph of its own", f"export it at opset {wanted}")
        if (parts := _PARTS.get(node.op_type)) is not None and not _exists(node.op_type, wanted):
            nodes, tensors = parts(node, graph, taken)
            made.graph.initializer.extend(tensors)
            instead[place] = nodes
        else:
            _restate(node, graph, stands, wanted)
            if node.op_type == "Gemm" and len(node.input) == 2 and wanted < GEMM_WITHOUT_C:
                node.input.append(new_name(f"{node.output[0]}_c", taken))
                made.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), node.input[2]))
    replace_nodes(made.graph, instead)
    for one in made.opset_import:
        if one.domain in ("", "ai.onnx"):
            one.version = wanted
    without_unread(made.graph)
    try:
        onnx.checker.check_model(made)
    except onnx.checker.ValidationError as error:
        raise PipelineError(
            f"opset {wanted} has no such form: {first_line(error)}", f"export it at {wanted}"
        ) from error
    return made


def _exists(op: str, opset: int) -> bool:
    return bool(defs.has(op)) and any(
        one.name == op and one.domain == "" and one.since_version <= opset
        for one in defs.get_all_schemas_with_history()
    )


def _restate(node: onnx.NodeProto, graph: Graph, stands: int, wanted: int) -> None:
    """Change the node into its operator's form at `wanted`."""
    op = node.op_type
    if not _exists(op, wanted):
        raise PipelineError(f"{name_of(node)}: {op} came after opset {wanted}", f"export it at opset {wanted}")
    now, then = (defs.get_schema(op, opset, "") for opset in (stands, wanted))
    if now.since_version == then.since_version:
        return
    for place in reversed(range(then.max_input, len(node.input))):
        _input_to_attribute(node, place, now.inputs[place].name, then, graph, wanted)
    kept = []
    for one in node.attribute:
        if one.name in then.attributes:
            kept.append(one)
        elif one != now.attributes[one.name].default_value and (op, one.name) not in _IMPLIED:
            raise PipelineError(
                f"{name_of(node)}: {op} has no {one.name} at opset {wanted}", f"export it at opset {wanted}"
            )
    if op in _MOVED_DEFAULT:
        kept = _axis_stated(node, kept, graph, stands)
    attributes = [onnx.AttributeProto.FromString(one.SerializeToString()) for one in kept]
    del node.attribute[:]
    node.attribute.extend(attributes)


def _axis_stated(
    node: onnx.NodeProto, kept: list[onnx.AttributeProto], graph: Graph, stands: int
) -> list[onnx.AttributeProto]:
    """The axis by its number: its default changed with opset 13, and counting from the end came with 11."""
    shape = graph.shape(node.input[0])
    axis = graph.attribute(node, "axis", -1 if stands >= SOFTMAX_AXIS else 1)
    if shape is not None:
        axis %= len(shape)
    return [*(one for one in kept if one.name != "axis"), helper.make_attribute("axis", axis)]


def _input_to_attribute(
    node: onnx.NodeProto, place: int, name: str, then: defs.OpSchema, graph: Graph, wanted: int
) -> None:
    """Take the last input off; what it says is an attribute where that opset had one."""
    given = node.input[place]
    del node.input[place]
    if not given:
        return
    value = graph.value(given)
    if value is None:
        raise PipelineError(
            f"{name_of(node)}: its {name} must be stored at opset {wanted}, and is computed",
            "export it with fixed sizes",
        )
    attribute = _AS_ATTRIBUTE.get((node.op_type, name), name)
    if attribute in then.attributes:
        node.attribute.append(_attribute(attribute, value, then.attributes[attribute].type))
    elif not (value == _NEUTRAL.get((node.op_type, name))).all():
        raise PipelineError(
            f"{name_of(node)}: {node.op_type} has no {name} at opset {wanted}", f"export it at opset {wanted}"
        )


def _attribute(name: str, value: Array, kind: object) -> onnx.AttributeProto:
    many = kind in (defs.OpSchema.AttrType.INTS, defs.OpSchema.AttrType.FLOATS)
    return helper.make_attribute(name, value.ravel().tolist() if many else value.ravel()[0].item())


Made = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def _hard_swish(node: onnx.NodeProto, graph: Graph, taken: set[str]) -> Made:
    """x * HardSigmoid(x)."""
    del graph
    (x,), (out,) = node.input, node.output
    gate = new_name(f"{out}_gate", taken)
    return [
        helper.make_node("HardSigmoid", [x], [gate], name=new_name(f"{gate}_node", taken), alpha=1 / 6, beta=0.5),
        helper.make_node("Mul", [x, gate], [out], name=node.name),
    ], []


def _layer_normalization(node: onnx.NodeProto, graph: Graph, taken: set[str]) -> Made:
    """Centred, divided by its deviation, scaled and moved."""
    shape = graph.shape(node.input[0])
    if shape is None or any(node.output[1:]):
        raise PipelineError(f"{name_of(node)}: its parts need a known rank and one output", "export at an older opset")
    first = graph.attribute(node, "axis", -1) % len(shape)
    axes = list(range(first, len(shape)))
    x, scale, out = node.input[0], node.input[1], node.output[0]
    words = ("mean", "centred", "square", "variance", "safe", "deviation", "normed", "scaled", "epsilon")
    names = {word: new_name(f"{out}_{word}", taken) for word in words}
    steps = [
        ("ReduceMean", [x], "mean", {"axes": axes, "keepdims": 1}),
        ("Sub", [x, names["mean"]], "centred", {}),
        ("Mul", [names["centred"]] * 2, "square", {}),
        ("ReduceMean", [names["square"]], "variance", {"axes": axes, "keepdims": 1}),
        ("Add", [names["variance"], names["epsilon"]], "safe", {}),
        ("Sqrt", [names["safe"]], "deviation", {}),
        ("Div", [names["centred"], names["deviation"]], "normed", {}),
        ("Mul", [names["normed"], scale], "scaled", {}),
    ]
    nodes = [helper.make_node(op, given, [names[word]], name=names[word], **more) for op, given, word, more in steps]
    if bias := graph.given(node, 2):
        nodes.append(helper.make_node("Add", [names["scaled"], bias], [out], name=node.name))
    else:
        nodes[-1].output[0] = out
    epsilon = np.array(graph.attribute(node, "epsilon", 1e-5), np.float32)
    return nodes, [numpy_helper.from_array(epsilon, names["epsilon"])]


_PARTS: dict[str, Callable[[onnx.NodeProto, Graph, set[str]], Made]] = {
    "HardSwish": _hard_swish,
    "LayerNormalization": _layer_normalization,
}
