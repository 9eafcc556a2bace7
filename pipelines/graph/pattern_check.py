"""How every layer of an ONNX graph stands to an N:M pattern, and where it breaks it first."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import onnx

from pipelines.arrays import Array
from pipelines.graph.tensors import stored, values
from pipelines.graph.weights import Weight, classified, name_of
from pipelines.sparsity.pattern import NMPattern, Violation

_MATRICES_ELSEWHERE = {"LSTM", "GRU", "RNN", "Einsum", "DeformConv"}  # of ONNX's own, and not looked into here


@dataclass(frozen=True)
class LayerCheck:
    """One layer. `reason`: why the pattern does not apply, "" where it does; then groups and the first broken one."""

    weight: Weight
    reason: str = ""
    groups: int = 0
    broken: int = 0
    first: Violation | None = None
    density: float | None = None  # share of nonzeros; None where nothing was read
    fault: str = ""  # values that are no numbers

    @property
    def holds(self) -> bool:
        """Whether the pattern applies and every group has it."""
        return not (self.reason or self.broken or self.fault)


Read = Callable[[onnx.TensorProto, str], Array]


def check_layers(
    model: onnx.ModelProto, pattern: NMPattern, keep: Collection[str] = (), read: Read = values
) -> list[LayerCheck]:
    """Every weight in graph order. `read` gives a stored tensor's values: one weight at a time is held."""
    held = stored(model.graph)
    within_reach = read is not values
    return [
        LayerCheck(weight, reason)
        if reason
        else _checked(weight, pattern, read(held[weight.initializer], weight.initializer))
        for weight, reason in classified(model, pattern, keep, within_reach=within_reach)
    ]


def unknown_layers(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """Nodes that hold a matrix and whose input channels are not known here, each with its operator."""
    held = stored(model.graph)
    return [
        (name_of(node), f"{node.domain}.{node.op_type}" if node.domain else node.op_type)
        for node in model.graph.node
        if (node.domain not in ("", "ai.onnx") or node.op_type in _MATRICES_ELSEWHERE)
        and any(name in held and len(held[name].dims) > 1 for name in node.input)
    ]


def _checked(weight: Weight, pattern: NMPattern, array: Array) -> LayerCheck:
    check = LayerCheck(
        weight,
        groups=pattern.group_count(array.shape, weight.axis),
        density=np.count_nonzero(array) / array.size,
        fault="" if np.isfinite(array).all() else "holds values that are not finite",
    )
    if broken := pattern.broken_groups(array, weight.axis):
        return replace(check, broken=broken, first=pattern.violations(array, weight.axis, limit=1)[0])
    return check


def told(check: LayerCheck, pattern: NMPattern) -> str:
    """The first group that breaks the pattern, or why there is none to look at; "" where it holds."""
    if check.reason or check.fault:
        return check.reason or check.fault
    if check.first is None:
        return ""
    return describe(check.weight, check.first, pattern)


def describe(weight: Weight, violation: Violation, pattern: NMPattern) -> str:
    """A broken group in words: its place in all axes but the input channels', the group, and those channels."""
    first = violation.group * pattern.m
    last = min(first + pattern.m, weight.shape[weight.axis]) - 1
    row = ", ".join(str(place) for place in violation.index)
    return (
        f"row [{row}], group {violation.group} (channels {first} to {last}) keeps {violation.nonzeros} of {pattern.m}"
    )
