"""What a toolchain's limits say about one network: findings that name node, limit and remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from pipelines.contract import Form, GateFinding
from pipelines.errors import first_line
from pipelines.gate.operators import operator_faults, type_faults
from pipelines.graph.facts import Graph, all_nodes, opset_of
from pipelines.graph.fix.names import is_plain
from pipelines.graph.shapes import without_shape
from pipelines.graph.weights import name_of
from pipelines.vendors.limits import Limits


@dataclass(frozen=True)
class Faults:
    """Makes findings about one network."""

    form: Form
    limits: Limits

    def whole(self, limit: str, remedy: str, fix: str = "", op: str = "") -> GateFinding:
        """About the whole file."""
        return GateFinding(
            form=self.form,
            severity="error",
            node="",
            op=op,
            limit=limit,
            remedy=remedy,
            fix=fix,
            origin=self.limits.origin,
        )


def examine(model: onnx.ModelProto, limits: Limits, form: Form, file_bytes: int) -> list[GateFinding]:
    """All findings: of the file, of its versions, shapes and names, then of operators in graph order.

    Where the file is no valid ONNX nothing is said of its graph: it would be guessed.
    """
    make = Faults(form, limits)
    found = list(_file(model, make, file_bytes))
    if invalid := _invalid(model, make):
        return [*found, invalid]
    graph = Graph(model)
    found += [*_input(graph, make), *_shapes(model, graph, make)]
    found += [*_names(model, make), *type_faults(graph, limits, form), *operator_faults(graph, limits, form)]
    return found


def _invalid(model: onnx.ModelProto, make: Faults) -> GateFinding | None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # ValidationError, InferenceError, and what protobuf raises
        return make.whole(f"onnx {onnx.__version__} finds the file invalid: {_line(error)}", "export it again")
    return None


def _line(error: Exception) -> str:
    """The checker's answer in one line: the first that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next(iter(lines), first_line(error))[:300]


def _file(model: onnx.ModelProto, make: Faults, file_bytes: int) -> Iterator[GateFinding]:
    limits = make.limits
    opset, (low, high) = opset_of(model), limits.opset
    if not low <= opset <= high:
        wanted = f"{low} to {high}" if low != high else str(low)
        nearest = min(max(opset, low), high)
        yield make.whole(f"opset {opset}: {wanted} is taken", f"export it at opset {nearest}", "convert_opset", "opset")
    if model.ir_version > limits.ir_version:
        yield make.whole(
            f"IR version {model.ir_version}: at most {limits.ir_version} is taken",
            "write it with that IR version",
            "convert_ir",
            "IR",
        )
    if file_bytes > limits.file_bytes:
        yield make.whole(
            f"the file has {file_bytes / 2**20:,.1f} MiB: at most {limits.file_bytes / 2**20:,.1f} are taken",
            "choose a smaller model",
        )


def _input(graph: Graph, make: Faults) -> Iterator[GateFinding]:
    if len(graph.inputs) != 1:
        names = ", ".join(graph.inputs[:4]) or "none"
        yield make.whole(f"{len(graph.inputs)} inputs ({names}): one picture goes to one input", "export one input")
    for name in graph.inputs:
        shape = graph.shape(name)
        if shape is None or None in shape or 0 in shape:
            told = "no shape" if shape is None else f"shape [{', '.join(str(size or '?') for size in shape)}]"
            yield make.whole(
                f"the input {name} has {told}: a chip takes static shapes only",
                "export it with a fixed shape",
                "static_shapes",
            )
        if (found := graph.dtype(name)) and found not in make.limits.dtypes:
            taken = ", ".join(sorted(make.limits.dtypes))
            fix = "single_precision" if found == "float64" else ""
            yield make.whole(f"the input {name} is {found}: {taken} is taken", f"export it with {taken}", fix)


def _shapes(model: onnx.ModelProto, graph: Graph, make: Faults) -> Iterator[GateFinding]:
    """One finding for all: where the input is open, all of them are."""
    stated = make.limits.all_shapes
    open_ones = without_shape(model)
    if not stated:
        open_ones = [name for name in open_ones if graph.static(name) is None]
    if open_ones:
        what = "state no shape" if stated else "have shapes that can't be inferred"
        first = graph.producer(open_ones[0])
        by = f" of {name_of(first)}" if first is not None else ""
        yield make.whole(
            f"{len(open_ones)} tensors {what}, first {open_ones[0]}{by}: every shape must be known",
            "state them: a run in onnxruntime tells",
            "static_shapes",
        )


def _names(model: onnx.ModelProto, make: Faults) -> Iterator[GateFinding]:
    limits = make.limits
    length = limits.name_length
    if not limits.ascii_names and length is None:
        return
    names = [name for node in all_nodes(model.graph) for name in (node.name, *node.input, *node.output)]
    names += [value.name for value in (*model.graph.input, *model.graph.output, *model.graph.initializer)]
    for name in dict.fromkeys(names):
        if limits.ascii_names and not is_plain(name):
            yield make.whole(f"the name {name!a}: printable ASCII is taken", "rename it", "plain_names")
        elif length is not None and len(name) > length:
            told = f"the name {name[:40]}... has {len(name)} characters: at most {length} are taken"
            yield make.whole(told, "rename it", "plain_names")
