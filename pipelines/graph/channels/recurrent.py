"""RNN, GRU, LSTM: inputs are summed over; each hidden channel has its own row in every gate."""

from __future__ import annotations

import onnx

from pipelines.graph.channels.elementwise import cut_otherwise
from pipelines.graph.channels.folding import attributes
from pipelines.graph.channels.parts import Parts
from pipelines.graph.channels.trace import Axes, Rule, Trace, Unfollowed

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent(trace: Trace, node: onnx.NodeProto) -> None:
    """Data [T, B, I], weights [D, gates*H, I] and [D, gates*H, H], bias [D, 2*gates*H], states [D, B, H].

    Both directions and all gates share one order of the hidden channels.
    """
    its = attributes(node)
    if its.get("layout"):
        raise Unfollowed("its batch comes first (layout = 1)")
    gates, hidden = _GATES[node.op_type], its["hidden_size"]
    names = [*node.input, *[""] * 8]
    data, weight, recurrence = (trace.axes(name) for name in names[:3])  # then bias, lengths [B], two states, peepholes
    order: Parts = ((trace.algebra.fresh(hidden), 1),)
    why = cut_otherwise(node)
    for axis in (data[0], *(trace.axes(name)[0] for name in names[1:8] if name)):
        trace.pin(axis, f"steps and directions of {node.op_type} keep their order")
    trace.join(data[2], weight[2], why)
    trace.join(order * gates, weight[1], why)
    trace.join(order * gates, recurrence[1], why)
    trace.join(order, recurrence[2], why)
    if names[3]:
        trace.join(order * (2 * gates), trace.axes(names[3])[1], why)
    for name in names[5:7]:
        if name:
            trace.join(order, trace.axes(name)[2], why)
            trace.join(data[1], trace.axes(name)[1], why)
    if names[4]:
        trace.pin(data[1], "each of a batch has its own length")
    if names[7]:
        trace.join(order * (gates - 1), trace.axes(names[7])[1], why)
    for name in names[1:3]:
        trace.mark(name, 1, "producer", node)
        trace.mark(name, 2, "consumer", node)
    _give(trace, node, data, order)


def _give(trace: Trace, node: onnx.NodeProto, data: Axes, order: Parts) -> None:
    directions = trace.fixed(2 if attributes(node).get("direction") == b"bidirectional" else 1)
    trace.give(node.output[0], (data[0], directions, data[1], order))
    for name in node.output[1:]:
        trace.give(name, (directions, data[1], order))


RULES: dict[str, Rule] = dict.fromkeys(_GATES, recurrent)
