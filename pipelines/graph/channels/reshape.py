"""Operators that cut, merge and move axes: Reshape, Flatten, Transpose, Squeeze, Unsqueeze.

A block of axes that becomes another block of as many elements is read as digits: the coarsest lengths of which both
are products. An axis of several digits can be reordered along one of them only; the others keep their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod

import onnx

from pipelines.graph.channels.folding import Dim, Shape, attributes
from pipelines.graph.channels.parts import Parts, scaled
from pipelines.graph.channels.trace import POSITIONS, SINGLE, Axis, Rule, Trace, Unfollowed
from pipelines.graph.weights import name_of

_PRIMES = (1_000_003, 1_000_033, 1_000_037, 1_000_039, 1_000_081, 1_000_099, 1_000_117, 1_000_121)


def reshape(trace: Trace, node: onnx.NodeProto) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: the same elements in the same order, by the output's shape."""
    axes, after = trace.axes(node.input[0]), _after(trace, node)
    lengths, wanted = _numbered(trace.shape(node.input[0]), after)
    parts = [
        trace.algebra.fixed(length, POSITIONS) if axis is None else axis
        for axis, length in zip(axes, lengths, strict=True)
    ]
    if 0 in lengths:
        trace.give(node.output[0], [trace.fixed(dim) for dim in after])
        return
    before = [place for place, length in enumerate(lengths) if length != 1]
    behind = [place for place, length in enumerate(wanted) if length != 1]
    made: list[Axis] = [trace.fixed(dim) for dim in after]
    for some, others in _blocks([lengths[place] for place in before], [wanted[place] for place in behind]):
        ours, theirs = [parts[before[place]] for place in some], [wanted[behind[place]] for place in others]
        for place, axis in zip(others, _regrouped(trace, node, ours, theirs), strict=True):
            made[behind[place]] = _as_axis(trace, axis, after[behind[place]])
    trace.give(node.output[0], made)


def _after(trace: Trace, node: onnx.NodeProto) -> Shape:
    """The output's shape: what the file and its inference say, and a Reshape's target where that is known."""
    shape = trace.shapes.get(node.output[0])
    target = trace.known.get(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    if node.op_type != "Reshape" or target is None:
        return trace.shape(node.output[0])
    before = trace.shape(node.input[0])
    copied = not attributes(node).get("allowzero")
    said = [before[place] if dim == 0 and copied else dim for place, dim in enumerate(target.tolist())]
    stated = shape or (None,) * len(said)
    known = (one if isinstance(one, int) else dim for one, dim in zip(stated, said, strict=True))
    return tuple(None if dim == -1 else dim for dim in known)


def _numbered(before: Shape, after: Shape) -> tuple[list[int], list[int]]:
    """Lengths in numbers: a large prime for each that is unknown, and what follows from these for one that is left."""
    primes: dict[Dim | tuple[int], int] = {}
    lengths = []
    for place, dim in enumerate(before):
        if isinstance(dim, int):
            lengths.append(dim)
            continue
        key = dim if dim is not None else (place,)
        if key not in primes and len(primes) == len(_PRIMES):
            raise Unfollowed("too many of its lengths are unknown")
        lengths.append(primes.setdefault(key, _PRIMES[len(primes)]))
    wanted = [dim if isinstance(dim, int) else primes.get(dim, 0) if dim is not None else 0 for dim in after]
    left = [place for place, dim in enumerate(after) if not isinstance(dim, int) and wanted[place] == 0]
    if len(left) > 1:
        raise Unfollowed("more than one length of its output is unknown")
    if left:
        known = prod(length for place, length in enumerate(wanted) if place != left[0])
        wanted[left[0]] = prod(lengths) // known if known else 0
    if prod(lengths) != prod(wanted):
        raise Unfollowed("its input and output do not hold as many elements, as far as their shapes say")
    return lengths, wanted


def _as_axis(trace: Trace, parts: Parts, dim: Dim) -> Axis:
    """Back to an axis of unknown length where there is a prime in it."""
    if isinstance(dim, int):
        return parts
    trace.pin(parts, "the length of an axis that it is merged with is not known")
    return None


def _blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The shortest runs of axes that hold as many elements on both sides."""
    at = [0, 0]
    while at[0] < len(before):
        runs: tuple[list[int], list[int]] = ([], [])
        sizes = [1, 1]
        while not runs[0] or sizes[0] != sizes[1]:
            side = 0 if sizes[0] <= sizes[1] and at[0] < len(before) else 1
            sizes[side] *= (before, after)[side][at[side]]
            runs[side].append(at[side])
            at[side] += 1
        yield runs


def _regrouped(trace: Trace, node: onnx.NodeProto, axes: Sequence[Parts], wanted: Sequence[int]) -> list[Parts]:
    """What lies along axes of the wanted lengths that hold the same elements as these."""
    lengths = [trace.algebra.length(axis) for axis in axes]
    if lengths == list(wanted):
        return list(axes)
    borders = sorted({1, *_suffixes(lengths), *_suffixes(wanted)}, reverse=True)
    if any(high % low for high, low in pairwise(borders)):
        reason = f"{name_of(node)} ({node.op_type}) cuts across it"
        for axis in axes:
            trace.pin(axis, reason)
        return [trace.algebra.fixed(length, reason) for length in wanted]
    digits = [high // low for high, low in pairwise(borders)]
    waiting = iter(digits)
    along: list[Parts] = []
    for axis, length in zip(axes, lengths, strict=True):
        along.extend(_split(trace, node, axis, _until(waiting, length)))
    by_digit, waiting = iter(along), iter(digits)
    return [_merged(trace, node, [next(by_digit) for _ in _until(waiting, length)]) for length in wanted]


def _suffixes(lengths: Sequence[int]) -> list[int]:
    return [prod(lengths[place:]) for place in range(len(lengths))]


def _until(digits: Iterator[int], length: int) -> list[int]:
    """The next digits, up to a product of that length."""
    made: list[int] = []
    while prod(made) < length:
        made.append(next(digits))
    return made


def _split(trace: Trace, node: onnx.NodeProto, axis: Parts, digits: Sequence[int]) -> list[Parts]:
    """An axis as digits. The one that keeps most freedom carries the channels, in case of doubt the innermost."""
    if len(digits) == 1:
        return [axis]
    algebra = trace.algebra
    if not algebra.is_free(axis):
        return [algebra.fixed(digit, algebra.why(axis) or SINGLE) for digit in digits]
    inner = max(its for variable, its in algebra.resolved(axis) if algebra.is_free(((variable, its),)))
    inside = [prod(digits[place + 1 :]) for place in range(len(digits))]
    freedom = [digit * within // max(within, inner) for digit, within in zip(digits, inside, strict=True)]
    carrier = max(range(len(digits)), key=lambda place: (freedom[place], place))
    along = ((algebra.fresh(digits[carrier]), 1),)
    times = prod(digits[:carrier])
    trace.join(axis, scaled(along, inside[carrier]) * times, f"{name_of(node)} ({node.op_type}) cuts across it")
    split = f"{name_of(node)} ({node.op_type}) splits it from the channels"
    return [along if place == carrier else algebra.fixed(digit, split) for place, digit in enumerate(digits)]


def _merged(trace: Trace, node: onnx.NodeProto, digits: Sequence[Parts]) -> Parts:
    """Digits as one axis. The longest that can be reordered carries the channels, the others keep their order."""
    if len(digits) == 1:
        return digits[0]
    algebra = trace.algebra
    lengths = [algebra.length(digit) for digit in digits]
    free = [place for place, digit in enumerate(digits) if algebra.is_free(digit)]
    if not free:
        return algebra.fixed(prod(lengths), next((why for one in digits if (why := algebra.why(one))), SINGLE))
    carrier = max(free, key=lambda place: (lengths[place], place))
    for place in free:
        if place != carrier:
            algebra.pin(digits[place], f"{name_of(node)} ({node.op_type}) merges it with another axis of channels")
    return scaled(digits[carrier], prod(lengths[carrier + 1 :])) * prod(lengths[:carrier])


def transpose(trace: Trace, node: onnx.NodeProto) -> None:
    """Axes in another order, the reverse where none is named."""
    axes = trace.axes(node.input[0])
    order = attributes(node).get("perm", range(len(axes) - 1, -1, -1))
    trace.give(node.output[0], [axes[place] for place in order])


def constant_of_shape(trace: Trace, node: onnx.NodeProto) -> None:
    """Equal values, in any order."""
    trace.give(node.output[0], trace.fresh(node.output[0]))


def numbers(trace: Trace, node: onnx.NodeProto) -> None:
    """Shape, Size, Range, EyeLike and constants other than tensors: what no order of channels changes."""
    trace.give_fixed(node, f"{name_of(node)} ({node.op_type}) numbers it")


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), reshape),
    **dict.fromkeys(("Constant", "EyeLike", "Range", "Shape", "Size"), numbers),
    "ConstantOfShape": constant_of_shape,
    "Transpose": transpose,
}
