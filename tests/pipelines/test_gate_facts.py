"""What is said of a graph without running it is what a run shows."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import networks
from small_networks import network, node, pictures

from pipelines.graph.facts import Graph, dtype_name
from pipelines.inference import largest_difference, limit_for, outputs_of, session
from pipelines.vendors.rules import clip_bounds, kernel_of, pads_of


@settings(deadline=None, max_examples=25)
@given(networks())
def test_shapes_types_and_what_is_fixed_are_those_of_a_run(model: onnx.ModelProto) -> None:
    graph = Graph(model)
    probe = onnx.ModelProto.FromString(model.SerializeToString())
    names = [name for one in graph.nodes for name in one.output]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in graph.outputs)
    running = session(probe.SerializeToString())
    first, second = (
        dict(zip(names, running.run(names, {"x": image[None]}), strict=True)) for image in pictures(model, 2)
    )
    for name in names:
        assert graph.shape(name) == first[name].shape
        assert graph.dtype(name) == first[name].dtype.name
        if graph.is_fixed(name):
            np.testing.assert_array_equal(first[name], second[name])
        if graph.is_stored(name):
            np.testing.assert_array_equal(graph.value(name), first[name])
        made_by = graph.producer(name)
        assert made_by is not None
        assert name in made_by.output
    for one in graph.nodes:
        assert all(one in graph.consumers(name) for name in one.input)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["SAME_UPPER", "SAME_LOWER"]),
    st.tuples(st.integers(5, 12), st.integers(5, 12)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_pads_that_are_not_stated_are_those_that_the_operator_takes(
    how: str, sides: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int]
) -> None:
    weight = np.random.default_rng(0).standard_normal((2, 4, *kernel)).astype(np.float32)
    shape = (1, 4, *sides)
    strides = (min(strides[0], kernel[0]), min(strides[1], kernel[1]))  # beyond it onnxruntime crops, ONNX pads by 0
    asked = network(node("Conv", "x w", auto_pad=how, strides=list(strides)), stored={"w": weight}, shape=shape)
    found = pads_of(asked.graph.node[0], Graph(asked))
    stated = network(node("Conv", "x w", pads=list(found), strides=list(strides)), stored={"w": weight}, shape=shape)
    reference, same = (outputs_of(one.SerializeToString(), pictures(one)) for one in (asked, stated))
    assert largest_difference(reference, same) <= limit_for(reference)


def test_what_is_not_known_is_none_and_never_a_guess() -> None:
    model = network(node("Gelu", output="g"), node("Relu", "g"), shape=("batch", 4, 8, 8))
    model.graph.node[0].domain = "com.example"
    graph = Graph(model)
    assert graph.shape("x") == (None, 4, 8, 8)
    assert (graph.static("x"), graph.shape("g"), graph.dtype("g"), graph.value("x")) == (None, None, "", None)
    assert graph.producer("x") is None
    assert kernel_of(model.graph.node[1], graph) == ()
    assert dtype_name(0) == ""


def test_a_bound_that_is_computed_is_not_known() -> None:
    stored = {"one": np.array(1, np.float32)}
    model = network(node("Add", "one one", "low"), node("Clip", "x low"), stored=stored)
    assert clip_bounds(model.graph.node[1], Graph(model)) is None


def test_chance_is_never_fixed() -> None:
    model = network(node("RandomUniform", "", "r", shape=[1, 4, 8, 8]), node("Add", "x r"))
    assert not Graph(model).is_fixed("r")
