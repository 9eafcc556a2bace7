"""Limits of operators, as the gate reads them: each function makes one Rule, with the origin of its number.

What can't be decided (a size that is not known) is no finding of a rule: the gate reports the unknown shape itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import prod
from typing import TYPE_CHECKING, Any

from pipelines.vendors.limits import Origin, Rule, Severity

if TYPE_CHECKING:
    from pipelines.graph.facts import Graph

_GLOBAL = {"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"}
_WEIGHTED = {"Conv", "ConvTranspose"}
FOLD = "fold_constants"  # names of graph passes: pipelines.graph.fix
SOFTMAX_LAST = "softmax_last"
SHORT_INDICES = "short_indices"


def kernel_area(
    op: str, most: int, origin: Origin, *, severity: Severity = "error", remedy: str = "use a smaller kernel"
) -> Rule:
    """Height times width of its kernel is at most `most`. Of a global pooling the kernel is the whole picture."""
    return Rule(op, "kernel area", _kernel_check(prod, most, " in all"), remedy, origin, severity=severity)


def kernel_side(
    op: str, most: int, origin: Origin, *, severity: Severity = "error", remedy: str = "use a smaller kernel"
) -> Rule:
    """Each side of its kernel is at most `most`. Of a global pooling the kernel is the whole picture."""
    return Rule(op, "kernel side", _kernel_check(max, most, " a side"), remedy, origin, severity=severity)


def _kernel_check(size: Callable[[Any], int], most: int, unit: str) -> Callable[[Any, Any], str]:
    def check(node: Any, graph: Graph) -> str:
        kernel = kernel_of(node, graph)
        return _above(f"kernel {_x(kernel)}", size(kernel), most, unit) if kernel else ""

    return check


def pads(op: str, most: int, origin: Origin, *, remedy: str = "pad less, or in a Pad of its own before it") -> Rule:
    """Each of its pads lies between 0 and `most`."""

    def check(node: Any, graph: Graph) -> str:
        stated = pads_of(node, graph)
        if stated and min(stated) < 0:
            return f"pads {_list(stated)}: none may be below 0"
        return _above(f"pads {_list(stated)}", max(stated), most) if stated else ""

    return Rule(op, "pads", check, remedy, origin)


def strides(op: str, most: int, origin: Origin, *, remedy: str = "use a smaller stride") -> Rule:
    """Each of its strides is at most `most`."""
    return _largest(op, "strides", most, origin, remedy)


def dilations(op: str, most: int, origin: Origin, *, remedy: str = "use a smaller dilation") -> Rule:
    """Each of its dilations is at most `most`; 1 is none."""
    return _largest(op, "dilations", most, origin, remedy)


def groups(op: str, origin: Origin, *, severity: Severity = "error", remedy: str = "") -> Rule:
    """It has one group, or as many as input channels (depthwise), and nothing between."""

    def check(node: Any, graph: Graph) -> str:
        count = graph.attribute(node, "group", 1)
        shape = graph.shape(graph.given(node, 0))
        channels = shape[1] if shape and len(shape) > 1 else None
        if count == 1 or channels is None or count == channels:
            return ""
        return f"{count} groups of {channels} channels: 1 or {channels} are taken"

    return Rule(op, "groups", check, remedy or "one group, or one a channel", origin, severity=severity)


def depthwise_kernels(allowed: Collection[tuple[int, int]], origin: Origin, *, severity: Severity = "warning") -> Rule:
    """A depthwise convolution has one of those kernels; others are made of several operations, or run elsewhere."""

    def check(node: Any, graph: Graph) -> str:
        shape, kernel = graph.shape(graph.given(node, 0)), kernel_of(node, graph)
        count = graph.attribute(node, "group", 1)
        if count == 1 or not kernel or not shape or len(shape) < 2 or count != shape[1] or kernel in allowed:
            return ""
        return f"depthwise kernel {_x(kernel)}: {', '.join(_x(one) for one in sorted(allowed))} are native"

    return Rule("Conv", "depthwise kernel", check, "use one of those kernels", origin, severity=severity)


def innermost_axis(op: str, origin: Origin, *, remedy: str = "transpose before and after it") -> Rule:
    """It works along the last axis alone."""

    def check(node: Any, graph: Graph) -> str:
        shape = graph.shape(graph.given(node, 0))
        if not shape:
            return ""
        axis = axis_of(node, graph)
        last = len(shape) - 1
        return "" if axis % len(shape) == last else f"axis {axis} of {len(shape)}: only the last, {last}, is taken"

    fix = SOFTMAX_LAST if op in ("Softmax", "LogSoftmax") else ""
    return Rule(op, "axis", check, remedy, origin, fix=fix)


def axis_size(op: str, most: int, origin: Origin, *, remedy: str = "make that axis shorter") -> Rule:
    """The axis it works along has at most `most` elements."""

    def check(node: Any, graph: Graph) -> str:
        shape = graph.shape(graph.given(node, 0))
        if not shape:
            return ""
        size = shape[axis_of(node, graph) % len(shape)]
        return "" if size is None else _above(f"an axis of {size} elements", size, most)

    return Rule(op, "axis size", check, remedy, origin)


def input_count(op: str, most: int, origin: Origin, *, remedy: str = "do it in several steps") -> Rule:
    """It reads at most `most` tensors."""

    def check(node: Any, graph: Graph) -> str:
        del graph
        count = sum(bool(name) for name in node.input)
        return _above(f"{count} inputs", count, most)

    return Rule(op, "inputs", check, remedy, origin)


def stored_input(op: str, place: int, what: str, origin: Origin, *, remedy: str = "") -> Rule:
    """That input is stored in the file, where it is given at all; computed from stored ones it can be folded."""

    def check(node: Any, graph: Graph) -> str:
        name = graph.given(node, place)
        if not name or graph.is_stored(name):
            return ""
        how = "computed from stored tensors" if graph.is_fixed(name) else "computed from the picture"
        return f"{what} {how}: they must be stored in the file"

    return Rule(op, f"stored {what}", check, remedy or f"store its {what} in the file", origin, fix=FOLD)


def index_type(op: str, place: int, allowed: Collection[str], origin: Origin) -> Rule:
    """The indices that it reads have one of those types."""

    def check(node: Any, graph: Graph) -> str:
        found = graph.dtype(graph.given(node, place))
        return "" if not found or found in allowed else f"indices are {found}: {_or(allowed)} is taken"

    fix = SHORT_INDICES if op in ("Gather", "GatherElements") and "int32" in allowed else ""
    return Rule(op, "index type", check, f"store them as {_or(allowed)}", origin, fix=fix)


def attribute_in(
    op: str, attribute: str, allowed: Collection[Any], default: Any, origin: Origin, *, remedy: str = ""
) -> Rule:
    """The attribute is one of those values; `default` is ONNX's where it is not stated."""

    def check(node: Any, graph: Graph) -> str:
        found = graph.attribute(node, attribute, default)
        return "" if found in allowed else f"{attribute} {found}: {_or(allowed)} is taken"

    return Rule(op, attribute, check, remedy or f"use {attribute} {_or(allowed)}", origin)


def attribute_not_in(
    op: str, attribute: str, refused: Collection[Any], default: Any, origin: Origin, *, remedy: str = ""
) -> Rule:
    """The attribute is none of those values; `default` is ONNX's where it is not stated."""

    def check(node: Any, graph: Graph) -> str:
        found = graph.attribute(node, attribute, default)
        return f"{attribute} {found} is not taken" if found in refused else ""

    return Rule(op, attribute, check, remedy or f"use another {attribute}", origin)


def rank(op: str, lowest: int, highest: int, origin: Origin, *, place: int = 0, remedy: str = "") -> Rule:
    """That input has between `lowest` and `highest` dimensions."""

    def check(node: Any, graph: Graph) -> str:
        shape = graph.shape(graph.given(node, place))
        if shape is None or lowest <= len(shape) <= highest:
            return ""
        return f"{len(shape)} dimensions: {lowest} to {highest} are taken"

    return Rule(op, "rank", check, remedy or "reshape before and after it", origin)


def clip_range(allowed: Collection[tuple[float, float]], origin: Origin, *, severity: Severity = "error") -> Rule:
    """A Clip with one of those bounds, such as (0, 6): the tool knows it as an activation of that name."""

    def check(node: Any, graph: Graph) -> str:
        bounds = clip_bounds(node, graph)
        if bounds is None or bounds in allowed:
            return ""
        known = ", ".join(f"{low:g}..{high:g}" for low, high in sorted(allowed))
        return f"clips to {bounds[0]:g}..{bounds[1]:g}: {known} are taken"

    return Rule("Clip", "bounds", check, "use one of those bounds", origin, severity=severity)


def custom(
    op: str, name: str, check: Callable[[Any, Graph], str], remedy: str, origin: Origin, *, severity: Severity = "error"
) -> Rule:
    """A limit that has no constructor of its own."""
    return Rule(op, name, check, remedy, origin, severity=severity)


def kernel_of(node: Any, graph: Graph) -> tuple[int, ...]:
    """The kernel's sides; () where they are not known."""
    if node.op_type in _GLOBAL:
        whole = graph.static(graph.given(node, 0))
        return whole[2:] if whole else ()
    if stated := graph.attribute(node, "kernel_shape"):
        return tuple(int(side) for side in stated)
    if node.op_type in _WEIGHTED:
        weight = graph.static(graph.given(node, 1))
        return weight[2:] if weight else ()
    return ()


def pads_of(node: Any, graph: Graph) -> tuple[int, ...]:
    """Its pads, first those before each axis, then those behind; () where there are none or they are not known."""
    how = graph.attribute(node, "auto_pad", "NOTSET")
    if how in ("SAME_UPPER", "SAME_LOWER") and node.op_type != "ConvTranspose":
        return _same_pads(node, graph, first=how == "SAME_LOWER")
    return tuple(int(one) for one in graph.attribute(node, "pads", ()))


def axis_of(node: Any, graph: Graph) -> int:
    """Its axis, ONNX's default where none is stated: 1 before opset 13, the last one since."""
    return int(graph.attribute(node, "axis", -1 if graph.opset >= 13 else 1))


def clip_bounds(node: Any, graph: Graph) -> tuple[float, float] | None:
    """The bounds of a Clip in either of its forms; None where one is computed."""
    bounds = [float("-inf"), float("inf")]
    for place, name in enumerate(("min", "max")):
        if graph.opset < 11:
            bounds[place] = float(graph.attribute(node, name, bounds[place]))
        elif given := graph.given(node, place + 1):
            value = graph.value(given)
            if value is None:
                return None
            bounds[place] = float(value)
    return bounds[0], bounds[1]


def _same_pads(node: Any, graph: Graph, *, first: bool) -> tuple[int, ...]:
    whole, kernel = graph.static(graph.given(node, 0)), kernel_of(node, graph)
    if not whole or not kernel:
        return ()
    steps = graph.attribute(node, "strides") or [1] * len(kernel)
    spread = graph.attribute(node, "dilations") or [1] * len(kernel)
    totals = [
        max(0, (-(-size // step) - 1) * step + (side - 1) * wide + 1 - size)
        for size, side, step, wide in zip(whole[2:], kernel, steps, spread, strict=True)
    ]
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (*more, *less) if first else (*less, *more)


def _largest(op: str, name: str, most: int, origin: Origin, remedy: str) -> Rule:
    def check(node: Any, graph: Graph) -> str:
        stated = graph.attribute(node, name) or ()
        return _above(f"{name} {_list(stated)}", max(stated), most) if stated else ""

    return Rule(op, name, check, remedy, origin)


def _above(stated: str, number: int, most: int, unit: str = "") -> str:
    return f"{stated}: at most {most}{unit}" if number > most else ""


def _x(sides: Collection[int]) -> str:
    return "x".join(map(str, sides))


def _list(numbers: Collection[int]) -> str:
    return ", ".join(map(str, numbers))


def _or(values: Collection[Any]) -> str:
    return " or ".join(sorted(map(str, values)))
