"""What a toolchain accepts, as data: the gate reads it, an adapter states it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Origin = Literal["measured", "package metadata", "documentation"]
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Rule:
    """One limit of one operator. `check` gives "" where the node keeps it, else what stands there and what is allowed.

    Its arguments: the onnx.NodeProto, and the graph it stands in (pipelines.graph.facts.Graph: shapes, dtypes, values).
    """

    op: str
    name: str
    check: Callable[[Any, Any], str]
    remedy: str
    origin: Origin
    fix: str = ""  # the graph pass that mends it
    severity: Severity = "error"


@dataclass(frozen=True)
class Limits:
    """`operators` None: the tool's list is not known, and none is refused for not being in it.

    What every toolchain here takes needs no field: one input of static shape, and shapes that can be inferred.
    """

    opset: tuple[int, int]  # lowest and highest accepted
    ir_version: int  # highest accepted
    origin: Origin  # of opset and IR
    operators: frozenset[str] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)  # operator -> what to do instead
    rules: tuple[Rule, ...] = ()
    dtypes: frozenset[str] = frozenset({"float32"})  # of inputs, weights and what is computed; indices may be integers
    ascii_names: bool = False  # tensor and node names with other characters break it
    name_length: int | None = None  # most characters of a name
    all_shapes: bool = False  # it infers none: the file itself must state every tensor's shape
    file_bytes: int = 2**31 - 1  # largest file; protobuf's own limit
