"""Matrix products."""

from __future__ import annotations

import numpy as np

from pipelines.arrays import Array
from pipelines.executor.operators import Call, operator


@operator("MatMul")
def matmul(call: Call, a: Array, b: Array) -> Array:
    """NumPy's matmul is ONNX's."""
    del call
    made: Array = np.matmul(a, b)
    return made


@operator("Gemm")
def gemm(call: Call, a: Array, b: Array, c: Array | None = None) -> Array:
    """alpha * A' @ B' + beta * C."""
    product = (a.T if call.get("transA", 0) else a) @ (b.T if call.get("transB", 0) else b)
    if (alpha := call.get("alpha", 1.0)) != 1:
        product = alpha * product
    beta = call.get("beta", 1.0)
    return product if c is None else product + (c if beta == 1 else beta * c)


@operator("Einsum")
def einsum(call: Call, *inputs: Array) -> Array:
    """NumPy's einsum is ONNX's, but for spaces."""
    made: Array = np.einsum(call.get("equation").replace(" ", ""), *inputs, optimize=True)
    return made
