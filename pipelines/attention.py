"""Exporting attention below opset 14: torch's fused operator, said in operators that opset 13 has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

FIRST_WITH_ATTENTION = 14
_OPERATOR = "aten::scaled_dot_product_attention"


@contextlib.contextmanager
def attention_exportable(opset: int) -> Iterator[None]:
    """While open, torch.onnx.export knows fused attention at `opset` too.

    torch says it in MatMul, Softmax and shape arithmetic, all older than 14, but registers that from 14 on only.
    torch before 2.0 has no such operator, and nothing is done.
    """
    import torch
    from torch.onnx import symbolic_opset14

    known = getattr(symbolic_opset14, "scaled_dot_product_attention", None)
    if known is None or opset >= FIRST_WITH_ATTENTION:
        yield
        return
    torch.onnx.register_custom_op_symbolic(_OPERATOR, known, opset)
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(_OPERATOR, opset)
