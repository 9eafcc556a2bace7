"""Cutting a network where one tensor alone carries everything, and running the pieces one picture at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper, numpy_helper

from pipelines.arrays import Array
from pipelines.errors import PipelineError
from pipelines.graph.tensors import stored

LARGEST_KEPT = 1 << 18  # elements a picture: a wider tensor is computed again rather than kept for all pictures


@dataclass(frozen=True)
class Block:
    """Nodes [start, stop) of the graph: `source` is all that they read of what is computed before them."""

    source: str
    result: str
    start: int
    stop: int


def blocks_of(model: onnx.ModelProto, example: Array) -> list[Block]:
    """The graph as a chain of blocks, `example` being one picture. PipelineError where it has more than one input.

    A cut lies where a single computed tensor, not a wide one, is all that the rest of the graph reads: about one block
    for each residual block.
    """
    graph = model.graph
    fixed = fixed_names(graph)
    inputs = [one.name for one in graph.input if one.name not in fixed]
    if len(inputs) != 1:
        raise PipelineError(f"the model has {len(inputs)} inputs", "correction feeds one picture to one input")
    source, start = inputs[0], 0
    cuts = _cuts(graph, fixed, source)
    [widths] = run(model, source, [example], [name for name, _ in cuts])
    size, blocks = example.size, []
    for (name, stop), array in zip(cuts, widths, strict=True):
        if array.size <= max(size, LARGEST_KEPT) or stop == len(graph.node):
            blocks.append(Block(source, name, start, stop))
            source, start, size = name, stop, array.size
    return blocks


def _cuts(graph: onnx.GraphProto, fixed: set[str], source: str) -> list[tuple[str, int]]:
    """(tensor, place): what all nodes from that place on read is that tensor alone; the last is the output."""
    last = {name: place for place, node in enumerate(graph.node) for name in reads(node)}
    live, cuts = {source}, []
    for place, node in enumerate(graph.node):
        live.update(name for name in node.output if name and name not in fixed)
        live = {name for name in live if last.get(name, -1) > place}
        if len(live) == 1 and live != {source}:
            (source,) = live
            cuts.append((source, place + 1))
    return [*cuts, (graph.output[0].name, len(graph.node))]


def outputs_in(model: onnx.ModelProto, block: Block) -> set[str]:
    """Names of what the block's nodes compute."""
    return {name for node in model.graph.node[block.start : block.stop] for name in node.output}


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the node reads, those of nested graphs included."""
    yield from (name for name in node.input if name)
    for one in node.attribute:
        for graph in [one.g] if one.HasField("g") else one.graphs:
            for inner in graph.node:
                yield from reads(inner)
            yield from (value.name for value in graph.output)


def fixed_names(graph: onnx.GraphProto) -> set[str]:
    """Names of what depends on no input."""
    fixed = set(stored(graph))
    for node in graph.node:
        if all(name in fixed for name in reads(node)):
            fixed.update(node.output)
    return fixed


def submodel(model: onnx.ModelProto, feeds: Mapping[str, Array], wanted: Sequence[str]) -> onnx.ModelProto:
    """The nodes between `feeds` (name -> one example) and `wanted`, as a model of their own."""
    graph = model.graph
    needed, names = [], set(wanted) - set(feeds)
    for node in reversed(graph.node):
        if names & set(node.output):
            needed.append(node)
            names.update(name for name in reads(node) if name not in feeds)
    made = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    made.graph.name = "part"
    made.graph.node.extend(reversed(needed))
    made.graph.initializer.extend(one for one in graph.initializer if one.name in names or one.name in wanted)
    for name, array in feeds.items():
        kind = numpy_helper.from_array(array[:0]).data_type
        made.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    return made


def run(model: onnx.ModelProto, name: str, pictures: Sequence[Array], wanted: Sequence[str]) -> Iterator[list[Array]]:
    """`wanted` for each picture, the tensor `name` being given; each in the shape that the graph gives it."""
    from pipelines.inference import session

    asked = [one for one in wanted if one != name]
    if not asked:
        yield from ([picture] * len(wanted) for picture in pictures)
        return
    running = session(submodel(model, {name: pictures[0]}, asked).SerializeToString())
    for picture in pictures:
        found = dict(zip(asked, running.run(asked, {name: picture}), strict=True))
        found[name] = picture
        yield [found[one] for one in wanted]
