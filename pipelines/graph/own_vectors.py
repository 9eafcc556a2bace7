"""Graph pass: no two nodes share a vector of numbers. Exporters merge equal ones, biases of zeros for instance, and
layers that share a bias could be reordered only together."""

from __future__ import annotations

from itertools import count

import onnx

from pipelines.graph.sources import FLOATS


def with_own_vectors(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which each further reader of a one-dimensional float initializer has a copy of it, `NAME_1` and so on.

    Weights of more dimensions that layers share stay shared, and so does what a nested graph reads.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    vectors = {one.name: one for one in made.graph.initializer if len(one.dims) == 1 and one.data_type in FLOATS}
    taken = {one.name for one in made.graph.initializer} | {name for node in made.graph.node for name in node.output}
    seen: set[str] = set()
    for node in made.graph.node:
        for place, name in enumerate(node.input):
            if name in vectors and name in seen:
                own = next(one for nth in count(1) if (one := f"{name}_{nth}") not in taken)
                taken.add(own)
                made.graph.initializer.add().CopyFrom(vectors[name])
                made.graph.initializer[-1].name = own
                node.input[place] = own
            seen.add(name)
    return made
