"""Is the sparse file the dense file with zeros, those that the pattern asks for, and nothing else?"""

from __future__ import annotations

import numpy as np
import onnx

from pipelines.checks.finding import Finding, judged
from pipelines.graph.weights import check_pattern, split, values_of
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
            wanted = np.where(pattern.mask(values, weight.axis), values, np.zeros((), values.dtype))
        found = after[tensor]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            return judged(name, False, f"{tensor} has another shape or type")
        if not np.array_equal(found, wanted):
            count = int((found != wanted).sum())
            place = [int(i) for i in np.argwhere(found != wanted)[0]]
            return judged(name, False, f"{count} values of {tensor} are neither kept nor pruned, the first at {place}")
    if _skeleton(dense) != _skeleton(sparse):
        return judged(name, False, "nodes, inputs, outputs or versions of the two files differ")
    return judged(name, True, f"{len(masked)} weights pruned, {len(before) - len(masked)} tensors untouched")


def _skeleton(model: onnx.ModelProto) -> bytes:
    """The model without its initializers, as bytes."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.initializer[:]
    data: bytes = bare.SerializeToString(deterministic=True)
    return data
