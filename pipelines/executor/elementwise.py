"""Operators that treat every element alone, with NumPy's broadcasting (which is ONNX's)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.arrays import Array
from pipelines.executor.operators import OPERATORS, Call, operator

_UNARY: dict[str, Callable[[Array], Any]] = {
    "Abs": np.abs,
    "Neg": np.negative,
    "Ceil": np.ceil,
    "Floor": np.floor,
    "Round": np.rint,
    "Exp": np.exp,
    "Log": np.log,
    "Sqrt": np.sqrt,
    "Reciprocal": np.reciprocal,
    "Sign": np.sign,
    "Not": np.logical_not,
    "Sin": np.sin,
    "Cos": np.cos,
    "Tan": np.tan,
    "Asin": np.arcsin,
    "Acos": np.arccos,
    "Atan": np.arctan,
    "Sinh": np.sinh,
    "Cosh": np.cosh,
    "Tanh": np.tanh,
    "Asinh": np.arcsinh,
    "Acosh": np.arccosh,
    "Atanh": np.arctanh,
    "IsNaN": np.isnan,
    "Identity": np.asarray,
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Softplus": lambda x: np.logaddexp(x, 0).astype(x.dtype),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
}
_BINARY: dict[str, Callable[[Array, Array], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Equal": np.equal,
    "Greater": np.greater,
    "Less": np.less,
    "GreaterOrEqual": np.greater_equal,
    "LessOrEqual": np.less_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
}


def _ignoring_call(function: Callable[..., Any]) -> Callable[..., Array]:
    return lambda _, *inputs: function(*inputs)


OPERATORS.update({name: _ignoring_call(function) for table in (_UNARY, _BINARY) for name, function in table.items()})


@operator("Erf")
def erf(call: Call, x: Array) -> Array:
    """The C library's, exact to the last bits of a float64: NumPy has none."""
    del call
    made: Array = np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)
    return made


@operator("Gelu")
def gelu(call: Call, x: Array) -> Array:
    """x * Phi(x), or its tanh form."""
    tanh = call.get("approximate", "none") == "tanh"
    twice: Array = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)) if tanh else erf(call, x / math.sqrt(2))
    made: Array = 0.5 * x * (1 + twice)
    return made


@operator("Div")
def div(call: Call, a: Array, b: Array) -> Array:
    """Whole numbers are divided towards zero."""
    del call
    if a.dtype.kind not in "iu":
        return a / b
    quotient = np.abs(a) // np.abs(b) * np.sign(a) * np.sign(b)
    return quotient.astype(a.dtype)


@operator("Mod")
def mod(call: Call, a: Array, b: Array) -> Array:
    """With the divisor's sign, or the dividend's where fmod is set."""
    return np.fmod(a, b) if call.get("fmod", 0) else np.mod(a, b)


@operator("Pow")
def power(call: Call, a: Array, b: Array) -> Array:
    """Of the base's type."""
    del call
    if a.dtype.kind == "f" and b.size == 1 and float(b.ravel()[0]) == 2:
        return np.multiply(a, a) + np.zeros(b.shape, a.dtype)  # the norms' square; pow takes 20 times as long
    return np.power(a, b).astype(a.dtype)


@operator("Sum", "Min", "Max", "Mean")
def variadic(call: Call, *inputs: Array) -> Array:
    """Over any number of inputs."""
    kinds = {"Sum": np.add, "Mean": np.add, "Min": np.minimum, "Max": np.maximum}
    made: Array = functools.reduce(kinds[call.node.op_type], inputs)
    return made / len(inputs) if call.node.op_type == "Mean" else made


@operator("Where")
def where(call: Call, condition: Array, a: Array, b: Array) -> Array:
    """`a` where the condition holds, else `b`."""
    del call
    return np.where(condition, a, b)


@operator("IsInf")
def is_inf(call: Call, x: Array) -> Array:
    """Of the signs that are asked for."""
    found = np.isinf(x)
    if not call.get("detect_positive", 1):
        found &= x < 0
    if not call.get("detect_negative", 1):
        found &= x > 0
    return found


@operator("Clip")
def clip(call: Call, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    """Bounds are inputs since opset 11, attributes before."""
    least = call.get("min") if low is None else low
    most = call.get("max") if high is None else high
    if least is not None:
        x = np.maximum(x, np.asarray(least, x.dtype))
    return x if most is None else np.minimum(x, np.asarray(most, x.dtype))


@operator("LeakyRelu")
def leaky_relu(call: Call, x: Array) -> Array:
    """alpha * x below zero."""
    return np.where(x < 0, call.get("alpha", 0.01) * x, x)


@operator("PRelu")
def p_relu(call: Call, x: Array, slope: Array) -> Array:
    """slope * x below zero."""
    del call
    return np.where(x < 0, slope * x, x)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call, x: Array) -> Array:
    """x above alpha, else zero."""
    return np.where(x > call.get("alpha", 1.0), x, 0)


@operator("Elu", "Celu", "Selu")
def elu(call: Call, x: Array) -> Array:
    """The exponential units: each has its own scales."""
    kind = call.node.op_type
    alpha = call.get("alpha", 1.6732632423543772 if kind == "Selu" else 1.0)
    below = alpha * np.expm1(np.minimum(x, 0) / (alpha if kind == "Celu" else 1))
    made = np.where(x < 0, below, x)
    return made * call.get("gamma", 1.0507009873554805) if kind == "Selu" else made


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: Array) -> Array:
    """clip(alpha * x + beta, 0, 1)."""
    made: Array = np.clip(call.get("alpha", 0.2) * x + call.get("beta", 0.5), 0, 1)
    return made


@operator("Shrink")
def shrink(call: Call, x: Array) -> Array:
    """Towards zero by bias, zero within lambd."""
    bias, lambd = call.get("bias", 0.0), call.get("lambd", 0.5)
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0)).astype(x.dtype)


@operator("Dropout")
def dropout(call: Call, x: Array, ratio: Array | None = None, training: Array | None = None) -> tuple[Array, Array]:
    """Inference: what came in, and a mask that keeps all."""
    del ratio
    if training is not None and bool(training):
        raise call.refuse("in training mode")
    return x, np.ones(x.shape, bool)
