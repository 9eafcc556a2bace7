"""Is the sparse file the dense file with zeros, those that the pattern asks for, and nothing else?"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from pipelines.arrays import Array
from pipelines.checks.finding import Finding, judged
from pipelines.graph.tensors import values_of, without_tensors
from pipelines.graph.weights import check_pattern, name_of, split
from pipelines.sparsity.pattern import NMPattern


def pattern_holds(sparse: onnx.ModelProto, pattern: NMPattern) -> Finding:
    """Every group of every weight that the pattern applies to."""
    name = f"{pattern} holds in the file"
    broken = check_pattern(sparse, pattern)
    if broken:
        weight, groups = broken[0]
        first = groups[0]
        more = sum(len(found) for _, found in broken) - 1
        place = f"{weight.node} ({weight.initializer}), row {list(first.index)}, group {first.group}"
        return judged(name, False, f"{place} keeps {first.nonzeros} of {pattern.m}; {more} more groups do too")
    count = len(split(sparse, pattern)[0])
    return judged(name, count > 0, f"all groups of {count} weights" if count else "no weight has the pattern")


def only_pruned(dense: onnx.ModelProto, sparse: onnx.ModelProto, pattern: NMPattern) -> Finding:
    """Kept weights equal the dense ones, pruned ones are those of least magnitude, all else is the same."""
    name = "sparse file is the dense one, pruned"
    before, after = values_of(dense), values_of(sparse)
    if list(before) != list(after):
        return judged(name, False, "the files don't hold the same tensors")
    masked = {weight.initializer: weight for weight in split(dense, pattern)[0]}
    for tensor, values in before.items():
        wanted = values
        if weight := masked.get(tensor):
            if not np.isfinite(values).all():
                return judged(name, False, f"{tensor} is not finite in the dense file")
            wanted = np.where(pattern.mask(values, weight.axis), values, np.zeros((), values.dtype))
        found = after[tensor]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            return judged(name, False, f"{tensor} has another shape or type")
        different = _bits(found) != _bits(wanted)
        if different.any():
            count, place = int(different.sum()), np.argwhere(different)[0].tolist()
            return judged(name, False, f"{count} values of {tensor} are neither kept nor pruned, the first at {place}")
    if difference := _beside_tensors(dense, sparse):
        return judged(name, False, difference)
    return judged(name, True, f"{len(masked)} weights pruned, {len(before) - len(masked)} tensors untouched")


def _bits(values: Array) -> Array:
    """For comparing: NaN equals itself there, and -0.0 is not 0.0."""
    whole = np.ascontiguousarray(values)
    return whole.view(f"u{whole.itemsize}") if whole.dtype.kind == "f" else whole


def _beside_tensors(dense: onnx.ModelProto, sparse: onnx.ModelProto) -> str:
    """What differs in the rest of the model; "" where nothing does."""
    left, right = without_tensors(dense), without_tensors(sparse)
    if _bytes(left) == _bytes(right):
        return ""
    for one, other in zip(left.graph.node, right.graph.node, strict=False):  # one may have more
        if _bytes(one) != _bytes(other):
            return f"node {name_of(one)} differs"
    return "nodes, inputs, outputs or versions of the two files differ"


def _bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString(deterministic=True)
    return data
