"""Where there are onnx and onnxruntime: what the exporting environments write is read, checked and run here."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def network(weight: np.ndarray) -> onnx.ModelProto:
    """A 1x1 convolution and a ReLU, in the opset and IR version that are exported for every converter."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6, 8, 8])
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    graph = helper.make_graph(nodes, "g", [given], [made], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    return model


def test_a_network_is_checked_and_run() -> None:
    """The convolution is a matrix product, whose values are known."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(6, 4, 1, 1)).astype(np.float32)
    picture = random.normal(size=(1, 4, 8, 8)).astype(np.float32)
    model = network(weight)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": picture})
    wanted = np.maximum(np.einsum("kc,ncyx->nkyx", weight[:, :, 0, 0], picture), 0)
    np.testing.assert_allclose(output, wanted, atol=1e-5)
