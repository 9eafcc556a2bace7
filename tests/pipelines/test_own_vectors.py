"""Vectors that exporters merged are apart again, so that each layer's channels can be reordered by themselves."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipelines.graph.groups import channel_groups
from pipelines.graph.own_vectors import with_own_vectors
from pipelines.inference import outputs_of


def two_layers() -> onnx.ModelProto:
    """Two convolutions with one bias, and a third in whose place that bias is read as something else."""
    random = np.random.default_rng(0)
    tensors = {name: random.standard_normal((8, 8, 1, 1)).astype(np.float32) for name in ("u", "v", "w")}
    tensors |= {"b": random.standard_normal(8).astype(np.float32), "b_1": np.ones(8, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "u", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "v", "b"], ["i"]),
        helper.make_node("Conv", ["i", "w", "b_1"], ["y"]),
    ]
    held = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 3, 3]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def test_each_layer_has_its_own_bias_and_the_outputs_are_the_same_bits() -> None:
    model = two_layers()
    made = with_own_vectors(model)
    assert [node.input[2] for node in made.graph.node if node.op_type == "Conv"] == ["b", "b_2", "b_1"]
    images = np.random.default_rng(1).standard_normal((2, 8, 3, 3)).astype(np.float32)
    before, after = (outputs_of(one.SerializeToString(), images)[0] for one in (model, made))
    assert np.array_equal(before, after)


def test_layers_are_reordered_apart_from_each_other() -> None:
    def permutable(model: onnx.ModelProto) -> int:
        return sum(group.permutable for group in channel_groups(model))

    assert (permutable(two_layers()), permutable(with_own_vectors(two_layers()))) == (1, 2)


def test_where_nothing_is_shared_nothing_changes() -> None:
    made = with_own_vectors(two_layers())
    assert with_own_vectors(made) == made


def test_a_weight_that_layers_share_stays_one() -> None:
    model = two_layers()
    model.graph.node[2].input[1] = "u"
    assert [node.input[1] for node in with_own_vectors(model).graph.node if node.op_type == "Conv"] == ["u", "u", "w"]
