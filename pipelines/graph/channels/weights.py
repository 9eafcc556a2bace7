"""After the walk: which stored tensor a layer's weight comes from, and whether its groups are its own."""

from __future__ import annotations

import onnx

from pipelines.graph.channels.trace import Block, Role, Trace
from pipelines.graph.weights import attribute, name_of

_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_ELEMENTWISE = {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"}


def roles_of_stored(trace: Trace) -> dict[tuple[str, int], tuple[Role, str]]:
    """(stored tensor, axis) -> role and node, also where a layer reads what was computed from the tensor alone."""
    makers = {name: node for node in trace.graph.node for name in node.output}
    axes = dict(trace.met())
    waiting, roles = list(trace.roles.items()), dict(trace.roles)
    while waiting:
        (name, axis), role = waiting.pop()
        if name in trace.stored or name not in makers or axis >= len(axes.get(name, ())):
            continue
        along = trace.algebra.resolved(axes[name][axis] or ())
        for source in makers[name].input:
            if source not in trace.constant or len(axes.get(source, ())) < 2:
                continue
            for place, its in enumerate(axes[source]):
                here = place == axis if makers[name].op_type in _ELEMENTWISE else True
                if here and trace.algebra.resolved(its or ()) == along and (source, place) not in roles:
                    roles[source, place] = role
                    waiting.append(((source, place), role))
    return {key: role for key, role in roles.items() if key[0] in trace.stored}


def blocks_of_stored(trace: Trace) -> dict[str, tuple[Block, ...]]:
    """Stored tensor -> blocks, of the weights of grouped layers; blocks that another node reads are pinned."""
    makers = {name: node for node in trace.graph.node for name in node.output}
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in trace.graph.node:
        for place, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, place))
    made = {}
    for weight, blocks in trace.blocks.items():
        name = weight
        reason = trace.algebra.why(trace.axes(weight)[1] or ())
        for node, place in readers[weight]:
            if place != 1 or node.op_type not in _CONVOLUTIONS or attribute(node, "group", 1) != len(blocks):
                reason = f"its weight is also read by {name_of(node)}"
        while name not in trace.stored and not reason:
            node = makers[name]
            if node.op_type not in _ELEMENTWISE or len(readers[node.input[0]]) > 1 or _scales_axis_1(trace, node):
                reason = f"its weight is computed by {name_of(node)}"
            name = node.input[0]
        for block in blocks if reason else ():
            trace.algebra.pin(block.parts, reason)
        if name in trace.stored:
            made[name] = blocks
    return made


def _scales_axis_1(trace: Trace, node: onnx.NodeProto) -> bool:
    return len(node.input) > 1 and attribute(node, "axis", 1) == 1 and trace.shape(node.input[1]) not in ((), (1,))
