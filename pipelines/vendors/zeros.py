"""How many of a network's weights are zeros: what a tool's own figures are held against."""

from __future__ import annotations

from pipelines.graph.facts import Graph


def weights_and_zeros(graph: Graph) -> tuple[int, int]:
    """The number of stored float32 weights, and of zeros among them. Biases and single values don't count."""
    count = zeros = 0
    for name in graph.stored_names():
        weight = graph.value(name)
        if weight is not None and weight.ndim > 1 and weight.dtype == "float32":
            count += weight.size
            zeros += int((weight == 0).sum())
    return count, zeros
