"""Findings of single nodes: operators that a tool does not know, limits of those that it does, number formats."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from pipelines.contract import Form, GateFinding
from pipelines.graph.facts import Graph, all_nodes
from pipelines.graph.weights import name_of
from pipelines.vendors.limits import Limits, Rule

# what mends an operator that a tool does not take
_MENDS = {
    "BatchNormalization": "simplify",
    "Constant": "constants_to_initializers",
    "Dropout": "drop_identities",
    "Identity": "drop_identities",
    "Max": "min_max_to_clip",
    "Min": "min_max_to_clip",
    "Shape": "simplify",
    "Size": "simplify",
}
_FLOATS = {"float16", "float32", "float64", "bfloat16"}
_LEVELS = {"int8", "uint8"}


def operator_faults(graph: Graph, limits: Limits, form: Form) -> Iterator[GateFinding]:
    """In graph order: an operator that is not taken, else what its limits say."""
    by_op: dict[str, list[Rule]] = {}
    for rule in limits.rules:
        by_op.setdefault(rule.op, []).append(rule)
    for node in all_nodes(graph.model.graph):
        if remedy := _refusal(node, limits):
            yield GateFinding(
                form=form,
                severity="error",
                node=name_of(node),
                op=_op(node),
                limit=f"{_op(node)} is not taken",
                remedy=remedy,
                fix=_mend(node, graph),
                origin=limits.origin,
            )
            continue
        for rule in by_op.get(node.op_type, []) if node.domain in ("", "ai.onnx") else []:
            if said := rule.check(node, graph):
                yield GateFinding(
                    form=form,
                    severity=rule.severity,
                    node=name_of(node),
                    op=node.op_type,
                    limit=said,
                    remedy=rule.remedy,
                    fix=_possible(rule, node, graph),
                    origin=rule.origin,
                )


def type_faults(graph: Graph, limits: Limits, form: Form) -> Iterator[GateFinding]:
    """Number formats that are not taken, each once, at the first node that reads or makes one."""
    seen: set[str] = set()
    for node in graph.nodes:
        for name in (*node.input, *node.output):
            found = graph.dtype(name)
            if not found or found in seen or found in limits.dtypes or not _computed(found, name, graph):
                continue
            seen.add(found)
            taken = ", ".join(sorted(limits.dtypes))
            yield GateFinding(
                form=form,
                severity="error",
                node=name_of(node),
                op=node.op_type,
                limit=f"{name} is {found}: {taken} is taken",
                remedy=f"export it with {taken}",
                fix="single_precision" if found == "float64" else "",
                origin=limits.origin,
            )


def _computed(dtype: str, name: str, graph: Graph) -> bool:
    """Whether it is a number that the chip computes with, and no index, size or condition."""
    if dtype in _FLOATS:
        return True
    shape = graph.shape(name)
    return dtype in _LEVELS and graph.is_stored(name) and shape is not None and len(shape) > 1


def _refusal(node: onnx.NodeProto, limits: Limits) -> str:
    """What to do instead of that operator; "" where it is taken."""
    op = _op(node)
    if op in limits.refused:
        return limits.refused[op]
    if limits.operators is not None and op not in limits.operators:
        return "export it without that operator, or end the network before it"
    if node.domain not in ("", "ai.onnx") and limits.operators is None:
        return "use ONNX's own operators"
    return ""


def _mend(node: onnx.NodeProto, graph: Graph) -> str:
    if node.domain in ("", "ai.onnx") and node.op_type != "Constant":
        made = [name for name in node.output if name]
        if made and all(graph.is_fixed(name) for name in made):
            return "fold_constants"
    return _MENDS.get(node.op_type, "") if node.domain in ("", "ai.onnx") else ""


def _possible(rule: Rule, node: onnx.NodeProto, graph: Graph) -> str:
    """The rule's pass where it can help: folding does nothing for what the picture decides."""
    if rule.fix != "fold_constants":
        return rule.fix
    return rule.fix if any(graph.is_fixed(name) and not graph.is_stored(name) for name in node.input if name) else ""


def _op(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else str(node.op_type)
