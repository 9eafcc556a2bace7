"""Is the sparse file the dense file with zeros, those that the pattern asks for, and nothing else?"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx

from pipelines.arrays import Array
from pipelines.checks.finding import Finding, judged
from pipelines.graph.pattern_check import check_layers, told
from pipelines.graph.tensors import stored, values, without_tensors
from pipelines.graph.weights import KEPT, name_of, split
from pipelines.sparsity.pattern import NMPattern


def pattern_holds(sparse: onnx.ModelProto, pattern: NMPattern, keep: Collection[str] = ()) -> Finding:
    """Every group of every weight that the pattern applies to, but those of the layers in `keep` (node names)."""
    name = f"{pattern} holds in the file"
    checks = check_layers(sparse, pattern, keep)
    if broken := [check for check in checks if check.broken or check.fault]:
        first = broken[0]
        more = sum(check.broken for check in broken) - 1
        place = f"{first.weight.node} ({first.weight.initializer}), {told(first, pattern)}"
        return judged(name, False, f"{place}; {more} more groups do too" if first.broken else place)
    count = sum(check.holds for check in checks)
    kept = sum(check.reason == KEPT for check in checks)
    more_told = f", {kept} left dense as asked" if kept else ""
    return judged(
        name, count > 0, f"all groups of {count} weights{more_told}" if count else "no weight has the pattern"
    )


def only_pruned(
    dense: onnx.ModelProto, sparse: onnx.ModelProto, pattern: NMPattern, keep: Collection[str] = ()
) -> Finding:
    """Kept weights equal the dense ones, pruned ones are those of least magnitude, all else is the same."""
    name = "sparse file is the dense one, pruned"
    before, after = stored(dense.graph), stored(sparse.graph)
    if list(before) != list(after):
        return judged(name, False, "the files don't hold the same tensors")
    masked = {weight.initializer: weight for weight in split(dense, pattern, keep)[0]}
    for tensor, held in before.items():
        wanted = values(held, tensor)
        if weight := masked.get(tensor):
            if not np.isfinite(wanted).all():
                return judged(name, False, f"{tensor} is not finite in the dense file")
            wanted = np.where(pattern.mask(wanted, weight.axis), wanted, np.zeros((), wanted.dtype))
        found = values(after[tensor], tensor)
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            return judged(name, False, f"{tensor} has another shape or type")
        different = _bits(found) != _bits(wanted)
        if different.any():
            count, place = int(different.sum()), np.argwhere(different)[0].tolist()
            return judged(name, False, f"{count} values of {tensor} are neither kept nor pruned, the first at {place}")
    if difference := beside_tensors(dense, sparse):
        return judged(name, False, difference)
    return judged(name, True, f"{len(masked)} weights pruned, {len(before) - len(masked)} tensors untouched")


def _bits(array: Array) -> Array:
    """For comparing: NaN equals itself there, and -0.0 is not 0.0."""
    whole = np.ascontiguousarray(array)
    return whole.view(f"u{whole.itemsize}") if whole.dtype.kind == "f" else whole


def beside_tensors(dense: onnx.ModelProto, sparse: onnx.ModelProto) -> str:
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
