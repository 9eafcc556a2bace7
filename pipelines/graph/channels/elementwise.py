"""Operators that work on each element alone, with broadcasting, and those that look along an axis in no order."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from pipelines.graph.channels.folding import attributes
from pipelines.graph.channels.trace import Axes, Axis, Rule, Trace, Unfollowed
from pipelines.graph.weights import name_of


def broadcast(trace: Trace, node: onnx.NodeProto) -> None:
    """Any number of operands, aligned at the right; an axis of length 1 goes with any other."""
    operands = [trace.axes(name) for name in node.input if name]
    trace.give(node.output[0], joined(trace, node, _aligned_by_axis(trace, node, operands)))


def _aligned_by_axis(trace: Trace, node: onnx.NodeProto, operands: list[Axes]) -> list[Axes]:
    """Before opset 7 the second operand was aligned at `axis`, and a PRelu's slope at the channels."""
    at = attributes(node).get("axis", 1 if node.op_type == "PRelu" else None)
    if trace.opset >= 7 or at is None or len(operands) != 2:
        return operands
    behind = len(operands[0]) - at % len(operands[0]) - len(operands[1])
    return [operands[0], operands[1] + (trace.fixed(1),) * behind]


def joined(trace: Trace, node: onnx.NodeProto, operands: Sequence[Axes]) -> Axes:
    """The axes of operands that are broadcast together."""
    rank = max((len(axes) for axes in operands), default=0)
    made: list[Axis] = []
    for place in range(-rank, 0):
        meeting = [axes[place] for axes in operands if len(axes) >= -place]
        long = [axis for axis in meeting if axis is None or trace.algebra.length(axis) != 1] or meeting[:1]
        first = next((axis for axis in long if axis is not None), None)
        for axis in long:
            if axis is not first:
                trace.join(first, axis, cut_otherwise(node))
        made.append(first)
    return tuple(made)


def cut_otherwise(node: onnx.NodeProto) -> str:
    """Why channels that meet in a node are pinned where their borders do not fit."""
    return f"{name_of(node)} ({node.op_type}) meets it with channels that are cut otherwise"


def same(trace: Trace, node: onnx.NodeProto) -> None:
    """Every output has the axes of the first input."""
    for name in node.output:
        trace.give(name, trace.axes(node.input[0]))


def dropout(trace: Trace, node: onnx.NodeProto) -> None:
    """Nothing at inference; in training, nothing where its ratio is 0."""
    ratio, training = (trace.known.get(name) if name else None for name in [*node.input[1:], "", ""][:2])
    if len(node.input) > 2 and (training is None or training.any()) and (ratio is None or ratio.any()):
        raise Unfollowed("it may be training, and draws random numbers for each element")
    same(trace, node)


def cumulative(trace: Trace, node: onnx.NodeProto) -> None:
    """CumSum: each element depends on the order along the axis."""
    axes = trace.axes(node.input[0])
    if (at := trace.known.get(node.input[1])) is None:
        raise Unfollowed("its axis is computed")
    trace.pin(axes[int(at)], f"{name_of(node)} ({node.op_type}) depends on the order along it")
    trace.give(node.output[0], axes)


def scale_by_channel(trace: Trace, node: onnx.NodeProto) -> None:
    """QuantizeLinear, DequantizeLinear: scale and zero point, one for all or one a channel of `axis`."""
    its = attributes(node)
    if its.get("block_size"):
        raise Unfollowed("it has one scale a block")
    axes = trace.axes(node.input[0])
    for name in node.input[1:]:
        if name and len(scale := trace.axes(name)) == 1 and trace.shape(name) != (1,):
            trace.join(axes[its.get("axis", 1)], scale[0], f"{name_of(node)} scales it by blocks")
    trace.give(node.output[0], axes)


_UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu
    HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log LogSoftmax LpNormalization MeanVarianceNormalization Mish
    Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh
    ThresholdedRelu
"""
_BROADCAST = """
    Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod
    Mul Or PRelu Pow Sub Sum Where Xor
"""

RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY.split(), same),
    **dict.fromkeys(_BROADCAST.split(), broadcast),
    "CumSum": cumulative,
    "DequantizeLinear": scale_by_channel,
    "Dropout": dropout,
    "QuantizeLinear": scale_by_channel,
}
