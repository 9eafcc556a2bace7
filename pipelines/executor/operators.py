"""The table of operators: name -> function over arrays. Each family of operators has a file that fills it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import helper

from pipelines.arrays import Array
from pipelines.errors import PipelineError
from pipelines.graph.weights import name_of

Result = Array | tuple[Array, ...]
Function = TypeVar("Function", bound=Callable[..., Result])
OPERATORS: dict[str, Callable[..., Result]] = {}


@dataclass(frozen=True)
class Call:
    """What an operator knows beside its inputs: its node, the opset, and the type that floats have here."""

    node: onnx.NodeProto
    opset: int
    dtype: np.dtype[Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, node: onnx.NodeProto, opset: int, dtype: np.dtype[Any]) -> Call:
        """The node's call, attributes decoded (text as str)."""
        return cls(node, opset, dtype, {one.name: _decoded(one) for one in node.attribute})

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or the operator's default."""
        return self.attributes.get(name, default)

    def refuse(self, what: str) -> PipelineError:
        """The error for a form of the operator that is not known here."""
        return PipelineError(f"{name_of(self.node)}: {self.node.op_type} {what} can't be evaluated")


def operator(*names: str) -> Callable[[Function], Function]:
    """Registers `function(call, *inputs)` for these operators; an omitted optional input comes as None."""

    def register(function: Function) -> Function:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def _decoded(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value


def whole_numbers(values: Array) -> list[int]:
    """A tensor of sizes or axes as a list."""
    return [int(one) for one in np.ravel(values)]


def axes_of(call: Call, given: Array | None) -> list[int] | None:
    """Axes that newer opsets give as an input and older ones as an attribute; None where neither does."""
    if given is not None:
        return whole_numbers(given)
    return None if call.get("axes") is None else [int(one) for one in call.get("axes")]
