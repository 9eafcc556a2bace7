"""Layer by layer: zeros by the pattern, then weights and biases that give the dense network's answers back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from pipelines.arrays import Array
from pipelines.errors import PipelineError
from pipelines.graph.mask import mask_magnitude
from pipelines.graph.tensors import stored, values
from pipelines.graph.weights import split
from pipelines.sparsity.pattern import NMPattern
from pipelines.sparsity.reconstruct.blocks import blocks_of, outputs_in, run
from pipelines.sparsity.reconstruct.layer import Method, Solved, solve_layer
from pipelines.sparsity.reconstruct.linear import Linear, linears_of
from pipelines.sparsity.reconstruct.moments import Moments, moments
from pipelines.sparsity.reconstruct.norms import channels_of, moments_of

METHODS = ("none", "norms", "match", "obs")
PICTURED = ("match", "obs")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CorrectedLayer:
    """`error`: mean squared error of the layer's output over the variance of the dense network's, on the pictures."""

    node: str
    sparse: bool
    error: float


@dataclass(frozen=True)
class CorrectionReport:
    """`layers` in graph order; `uncorrected` follow the pattern by magnitude alone, each (node, reason)."""

    method: str
    pictures: int
    seed: int
    layers: tuple[CorrectedLayer, ...]
    kept: tuple[str, ...]
    uncorrected: tuple[tuple[str, str], ...]
    added_biases: tuple[str, ...]  # nodes that had none


def correct(
    dense: onnx.ModelProto,
    pattern: NMPattern,
    images: Array,
    *,
    method: str = "obs",
    keep: Collection[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[onnx.ModelProto, CorrectionReport]:
    """The network with the pattern, corrected on unlabelled `images` [N, C, H, W]; nodes in `keep` stay dense.

    none: zeros by magnitude. norms: then each sparse layer's output has the dense one's mean and deviation again, as
    far as the norm layers before it say what it sees; no picture is used. match: the same of every layer from the first
    sparse one on, in order, each on inputs from the network as corrected so far. obs: zeros and kept weights by least
    squares on these inputs, then match. Only weights and biases change, and a Conv or Gemm without a bias gets one.
    `seed` is recorded: nothing here is random. ValueError for an unknown method or node, or no images for match and
    obs; PipelineError for norms where no layer follows one.
    """
    if method not in METHODS:
        raise ValueError(f"method: {method!r} is none of {', '.join(METHODS)}")
    if method in PICTURED and not len(images):
        raise ValueError("images: none")
    layers = {weight.node for weight in split(dense, pattern)[0]}
    if unknown := sorted(set(keep) - layers):
        raise ValueError(f"keep: {unknown[0]!r} is no layer that can follow {pattern}")
    sparse, masked = mask_magnitude(dense, pattern, keep)
    nodes = {one.weight.node for one in masked}
    linears = linears_of(dense)
    first = next((place for place, one in enumerate(linears) if one.node in nodes), len(linears))
    if method == "norms":
        todo = norms_in_order(dense, [one for one in linears if one.node in nodes])
    else:
        todo = seen_in_order(dense, sparse, linears[first:] if method in PICTURED else [], images)
    editor = Editor(sparse)
    corrected: list[CorrectedLayer] = []
    for one, seen in todo:
        solved = solved_layer(dense, one, seen, pattern if one.node in nodes else None, method)
        editor.put(one, solved)
        corrected.append(CorrectedLayer(one.node, one.node in nodes, solved.error))
        if progress is not None:
            progress(one.node, len(corrected), len(linears) - first)
    if method == "norms" and nodes and not corrected:
        raise PipelineError(
            "no batch norm is left in the file to say what its layers see", "correct with pictures: match or obs"
        )
    left = nodes - {one.node for one in corrected}
    why = {one.node: "no norm says what it sees" for one in linears}
    return sparse, CorrectionReport(
        method=method,
        pictures=len(images) if method in PICTURED else 0,
        seed=seed,
        layers=tuple(corrected),
        kept=tuple(sorted(keep)),
        uncorrected=tuple(
            (one.weight.node, why.get(one.weight.node, "its form is not supported, or it shares a tensor"))
            for one in masked
            if method != "none" and one.weight.node in left
        ),
        added_biases=tuple(editor.added),
    )


def solved_layer(
    dense: onnx.ModelProto, one: Linear, seen: Sequence[Moments], pattern: NMPattern | None, method: str
) -> Solved:
    """That layer with zeros by least squares (obs) or magnitude, corrected to what it should answer."""
    weight = values(stored(dense.graph)[one.weight], one.weight)
    chosen: Method = "obs" if method == "obs" else "match"
    return solve_layer(one.matrix(weight).astype(np.float64), seen, pattern, one.run, chosen)


def norms_in_order(dense: onnx.ModelProto, linears: Sequence[Linear]) -> Iterator[tuple[Linear, list[Moments]]]:
    """Those layers whose inputs follow from norms."""
    known = channels_of(dense)
    yield from ((one, moments_of(one, dense, known[one.source])) for one in linears if one.source in known)


def seen_in_order(
    dense: onnx.ModelProto, sparse: onnx.ModelProto, linears: Sequence[Linear], images: Array
) -> Iterator[tuple[Linear, list[Moments]]]:
    """Each layer with the moments of what it sees in `sparse` and should answer as in `dense`, over all pictures.

    `sparse` may be edited between layers: a layer sees what was edited before it was asked for.
    """
    if not linears:
        return
    now: list[Array] = [image[None] for image in images]
    before = now
    for block in blocks_of(dense, now[0]):
        made = outputs_in(dense, block)
        for one in linears:
            if one.result in made:
                inputs = run(sparse, block.source, now, [one.source])
                wanted = run(dense, block.source, before, [one.result])
                pairs = zip(inputs, wanted, strict=True)
                yield one, moments((one.columns(x), one.rows(y)) for (x,), (y,) in pairs)
        now = [result for (result,) in run(sparse, block.source, now, [block.result])]
        before = [result for (result,) in run(dense, block.source, before, [block.result])]


class Editor:
    """Writes corrected layers into a model, each tensor in its own type."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.held = stored(model.graph)
        self.added: list[str] = []

    def put(self, one: Linear, solved: Solved) -> None:
        """The layer's weight, and its bias where it has or can have one."""
        dtype = values(self.held[one.weight], one.weight).dtype
        self._write(one.weight, one.stored(solved.matrix))
        if one.bias_follows:
            self._write(one.bias, values(self.held[one.bias], one.bias) + solved.shift)
        elif one.bias:
            self._write(one.bias, solved.shift)
        elif one.op != "MatMul":
            self._add_bias(one, solved.shift.astype(dtype))

    def _write(self, name: str, array: Array) -> None:
        tensor = self.held[name]
        as_it_was = array.astype(values(tensor, name).dtype).reshape(tuple(tensor.dims))
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(as_it_was), tensor.name))

    def _add_bias(self, one: Linear, bias: Array) -> None:
        taken = {name for node in self.graph.node for name in (*node.input, *node.output)} | set(self.held)
        name = f"{one.weight}_bias"
        while name in taken:
            name += "_"
        node = next(node for node in self.graph.node if one.result in node.output)
        del node.input[2:]
        node.input.append(name)
        self.graph.initializer.append(numpy_helper.from_array(bias, name))
        self.held[name] = self.graph.initializer[-1]
        self.added.append(one.node)
