"""Multiply-accumulates against the loop that defines them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipelines.graph.cost import elements_of, macs_of
from pipelines.graph.weights import weights_of


def layer(op: str, given: list[int], weight: list[int], **attributes: Any) -> onnx.ModelProto:
    held = [numpy_helper.from_array(np.zeros(weight, np.float32), "w")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, given)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node(op, ["x", "w"], ["y"], name="layer", **attributes)
    model = helper.make_model(
        helper.make_graph([node], "g", [x], [y], held), opset_imports=[helper.make_opsetid("", 13)], ir_version=7
    )
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (layer("Conv", [1, 3, 8, 8], [16, 3, 3, 3], pads=[1, 1, 1, 1]), 16 * 8 * 8 * 3 * 3 * 3),
        (layer("Conv", [1, 8, 8, 8], [8, 1, 3, 3], group=8, strides=[2, 2]), 8 * 3 * 3 * 3 * 3),
        (layer("Conv", [1, 4, 10], [6, 4, 5]), 6 * 6 * 4 * 5),
        (layer("ConvTranspose", [1, 8, 4, 4], [8, 3, 2, 2], strides=[2, 2]), 8 * 4 * 4 * 3 * 2 * 2),
        (layer("ConvTranspose", [1, 8, 4, 4], [8, 3, 2, 2], group=2), 8 * 4 * 4 * 3 * 2 * 2),
        (layer("Gemm", [1, 32], [10, 32], transB=1), 320),
        (layer("MatMul", [1, 7, 32], [32, 10]), 7 * 320),
    ],
)
def test_multiply_accumulates_of_each_operator(model: onnx.ModelProto, wanted: int) -> None:
    assert macs_of(model) == {"layer": wanted}


def test_a_layer_whose_shapes_are_not_stated_is_left_out() -> None:
    model = layer("MatMul", [1, 7, 32], [32, 10])
    model.graph.output[0].type.Clear()
    assert macs_of(model) == {}


def test_a_shared_weight_is_stored_once() -> None:
    model = layer("MatMul", [8, 8], [8, 8])
    model.graph.node.append(helper.make_node("MatMul", ["y", "w"], ["z"], name="again"))
    assert elements_of(weights_of(model)) == 64
