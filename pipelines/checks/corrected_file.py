"""Is the corrected sparse file the dense one with zeros and corrections where they are said to be, and nothing else?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx

from pipelines.checks.finding import Finding, judged
from pipelines.checks.sparse_file import beside_tensors
from pipelines.graph.pattern_check import check_layers
from pipelines.graph.tensors import changed_tensors, stored, values
from pipelines.graph.weights import KEPT, name_of, split, weights_of
from pipelines.sparsity.pattern import NMPattern

CORRECTED = "sparse file is the dense one, pruned and corrected"


def pruned_and_corrected(
    dense: onnx.ModelProto,
    sparse: onnx.ModelProto,
    pattern: NMPattern,
    keep: Collection[str],
    record: Mapping[str, Any],
) -> Finding:
    """Only weights and biases of layers differ from the dense file, those that the record names, by their sha256.

    Where the record says that masks are by magnitude, the zeros are those of least magnitude in the dense file.
    """
    recorded = record["corrected"]
    found = changed_tensors(dense, sparse)
    for tensor in (*found, *recorded):
        if found.get(tensor) != recorded.get(tensor):
            return judged(CORRECTED, False, f"{tensor} is not what correction left")
    if strange := sorted(set(found) - _of_layers(sparse)):
        return judged(CORRECTED, False, f"{strange[0]} is no weight and no bias, and differs from the dense file")
    if record["correction"]["method"] != "obs" and (fault := _other_zeros(dense, sparse, pattern, keep)):
        return judged(CORRECTED, False, fault)
    added = set(record["correction"]["added_biases"])
    if difference := beside_tensors(dense, _without_biases(sparse, added)):
        return judged(CORRECTED, False, difference)
    same = len(stored(dense.graph)) - len(found) + len(added)
    return judged(CORRECTED, True, f"{len(found)} weights and biases as recorded, {same} tensors untouched")


def budget_reached(sparse: onnx.ModelProto, pattern: NMPattern, keep: Collection[str], budget: float) -> Finding:
    """The share of the weights that could have the pattern and have it, in the file."""
    sizes = {
        check.weight.initializer: (np.prod(check.weight.shape), check) for check in check_layers(sparse, pattern, keep)
    }
    held = sum(int(size) for size, check in sizes.values() if check.holds)
    could = held + sum(int(size) for size, check in sizes.values() if check.reason == KEPT or check.broken)
    share = held / could if could else 0.0
    detail = f"{pattern} on {share:.2%} of the weights that could have it, asked for {budget:.2%}"
    return judged("budget is reached", share >= budget, detail, value=share, limit=budget)


def _of_layers(model: onnx.ModelProto) -> set[str]:
    """Weights of layers, and what those layers add."""
    layers = {weight.node: weight.initializer for weight in weights_of(model)}
    biases = {node.input[2] for node in model.graph.node if name_of(node) in layers and len(node.input) > 2}
    return {*layers.values(), *biases}


def _other_zeros(dense: onnx.ModelProto, sparse: onnx.ModelProto, pattern: NMPattern, keep: Collection[str]) -> str:
    """The first weight with a value where least magnitude says zero; "" where there is none."""
    before, after = stored(dense.graph), stored(sparse.graph)
    for weight in split(dense, pattern, keep)[0]:
        name = weight.initializer
        beyond = (values(after[name], name) != 0) & ~pattern.mask(values(before[name], name), weight.axis)
        if beyond.any():
            place = np.argwhere(beyond)[0].tolist()
            return f"{int(beyond.sum())} values of {name} should be zero, the first at {place}"
    return ""


def _without_biases(model: onnx.ModelProto, nodes: Collection[str]) -> onnx.ModelProto:
    """A copy in which those nodes have no bias again."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    names = set()
    for node in bare.graph.node:
        if name_of(node) in nodes:
            names.update(node.input[2:])
            del node.input[2:]
    rest = [one for one in bare.graph.initializer if one.name not in names]
    del bare.graph.initializer[:]
    bare.graph.initializer.extend(rest)
    return bare
