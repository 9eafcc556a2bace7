"""Laws of the algebra of axes, and what channel_groups promises whatever the operators are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.graph.channels.parts import Algebra, Parts, scaled
from pipelines.graph.groups import ChannelGroup, Place, channel_groups
from tests.pipelines.reordering import difference, graph, reordered

W = (8, 4, 3, 3)
A = "a = Conv <pads=[1,1,1,1]> (x, w) "


# an axis of 24 positions as runs (channels, inner); several axes of one length are joined pairwise
RUNS = st.lists(st.tuples(st.integers(1, 6), st.sampled_from([1, 1, 1, 2, 3, 4])), min_size=1, max_size=6)


def axis_of(algebra: Algebra, runs: list[tuple[int, int]], length: int) -> Parts:
    """Runs up to that length, and fixed positions behind them."""
    parts: list[tuple[int, int]] = []
    for size, inner in runs:
        if size * inner <= length:
            parts.append((algebra.fresh(size), inner))
            length -= size * inner
    return tuple(parts) + algebra.fixed(length, "the rest")


def positions(algebra: Algebra, parts: Parts, orders: dict[int, Any]) -> list[int]:
    """For each new position the old one, after every free variable took its order."""
    made: list[int] = []
    start = 0
    for variable, inner in algebra.resolved(parts):
        size = algebra.size[variable]
        order = range(size) if algebra.reason[variable] else orders.setdefault(variable, None) or range(size)
        made += [start + channel * inner + offset for channel in order for offset in range(inner)]
        start += size * inner
    return made


@settings(deadline=None, max_examples=150)
@given(st.lists(RUNS, min_size=2, max_size=5), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8))
def test_joined_axes_move_alike_under_every_order(axes: list[Any], joins: list[tuple[int, int]]) -> None:
    algebra = Algebra()
    made = [axis_of(algebra, runs, 24) for runs in axes]
    pairs = [(made[one % len(made)], made[other % len(made)]) for one, other in joins]
    for one, other in pairs:
        algebra.join(one, other, "cut otherwise")
    random = np.random.default_rng(0)
    orders = {number: list(random.permutation(size)) for number, size in enumerate(algebra.size)}
    for axis in made:
        assert algebra.length(axis) == 24
        assert sorted(positions(algebra, axis, orders)) == list(range(24))
    for one, other in pairs:
        assert positions(algebra, one, orders) == positions(algebra, other, orders)


@settings(deadline=None, max_examples=100)
@given(RUNS, st.integers(0, 24), st.integers(0, 24), st.integers(1, 3))
def test_segments_of_an_axis_are_the_axis(runs: Any, one: int, other: int, times: int) -> None:
    algebra = Algebra()
    axis = scaled(axis_of(algebra, runs, 24), times)
    first, second = sorted((one * times, other * times))
    pieces = [algebra.segment(axis, *borders) for borders in ((0, first), (first, second), (second, 24 * times))]
    assert [algebra.length(piece) for piece in pieces] == [first, second - first, 24 * times - second]
    assert algebra.resolved(pieces[0] + pieces[1] + pieces[2]) == algebra.resolved(axis) or any(
        algebra.size[variable] == 1 for variable, _ in algebra.resolved(axis)
    )  # a channel that a border cuts in two stays whole in the axis itself


def test_joining_with_a_part_of_itself_ends_and_pins_what_overlaps() -> None:
    algebra = Algebra()
    axis: Parts = ((algebra.fresh(12), 1),)
    rolled = algebra.segment(axis, 4, 12) + algebra.segment(axis, 0, 4)
    algebra.join(axis, rolled, "rolled")
    assert [algebra.size[variable] for variable, _ in algebra.resolved(axis)] == [4, 4, 4]
    assert len({variable for variable, _ in algebra.resolved(axis)}) == 1
    twice: Parts = ((algebra.fresh(6), 2),)
    algebra.join(twice, ((twice[0][0], 1),) * 2, "two scales")
    assert not algebra.is_free(twice)
    assert algebra.why(twice) == "two scales"


def test_a_long_roll_by_one_is_no_recursion() -> None:
    algebra = Algebra()
    axis: Parts = ((algebra.fresh(3000), 1),)
    algebra.join(axis, algebra.segment(axis, 1, 3000) + algebra.segment(axis, 0, 1), "rolled")
    assert not algebra.is_free(axis)


def by_name(model: Any) -> dict[str, ChannelGroup]:
    return {group.name: group for group in channel_groups(model)}


def test_places_say_where_the_channels_lie() -> None:
    group = by_name(graph(A + "f = Flatten(a) out = MatMul(f, v)", w=W, v=(288, 5)))["Conv of a"]
    assert group.places == (
        Place("w", 0, 0, 1, None, "producer", "Conv of a"),
        Place("v", 0, 0, 36, None, "consumer", "MatMul of out"),
    )
    assert [(spot.tensor, spot.axis, spot.start, spot.inner) for spot in group.activations] == [
        ("a", 1, 0, 1),
        ("f", 1, 0, 36),
    ]


def test_a_grouped_layer_has_one_place_a_block_of_rows() -> None:
    groups = by_name(graph(A + "d = Conv <group=2> (a, u) out = Conv(d, v)", w=W, u=(6, 4, 3, 3), v=(6, 6, 1, 1)))
    assert groups["Conv of a[4:8]"].places == (
        Place("w", 0, 4, 1, None, "producer", "Conv of a"),
        Place("u", 1, 0, 1, (3, 6), "consumer", "Conv of d"),
    )


def test_each_position_of_a_stored_tensor_is_in_one_group_at_most() -> None:
    text = A + "b = Conv <group=2, pads=[1,1,1,1]> (a, u) c = Concat <axis=1> (a, b) f = Flatten(c) out = MatMul(f, v)"
    model = graph(text, w=W, u=(8, 4, 3, 3), v=(576, 5))
    seen: set[tuple[Any, ...]] = set()
    for group in channel_groups(model):
        for place in group.places:
            for at in range(place.start, place.start + group.size * place.inner):
                assert (place.tensor, place.axis, place.rows, at) not in seen
                seen.add((place.tensor, place.axis, place.rows, at))


def test_the_same_model_gives_the_same_groups_and_stays_as_it_was() -> None:
    model = graph(A + "r = Relu(a) out = Conv(r, v)", w=W, v=(6, 8, 1, 1))
    before = model.SerializeToString(deterministic=True)
    assert channel_groups(model) == channel_groups(model)
    assert model.SerializeToString(deterministic=True) == before


def test_weights_in_constant_nodes_and_in_initializers_are_alike() -> None:
    model = graph(A + "r = Relu(a) out = Conv(r, v)", w=W, v=(6, 8, 1, 1))
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    del moved.graph.initializer[:], moved.graph.node[:]
    for tensor in model.graph.initializer:
        moved.graph.node.append(onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    moved.graph.node.extend(model.graph.node)
    assert channel_groups(moved) == channel_groups(model)
    assert difference(moved, reordered(moved)) < 1e-5


PINNED = {
    "dropout in training": (
        "r = Constant <value = float {0.5}> () t = Constant <value = bool {1}> () p = Dropout(a, r, t) ",
        "draws random",
    ),
    "unknown operator": ("p = Twist(a) ", "Twist of p is a Twist, through which"),
    "unknown domain": ("p = other.Relu(a) ", "Relu of p is a other.Relu, through which"),
    "too few inputs": ("p = Add() q = Concat <axis=1> (a, p) ", "does not have the inputs"),
    "rank of an input unknown": ("p = Mul(a, y) ", "the shape of y is not known"),
}


@pytest.mark.parametrize("name", PINNED)
def test_what_is_not_known_pins_what_it_touches_and_says_so(name: str) -> None:
    text, reason = PINNED[name]
    model = graph(A + text + "b = Conv(x, u) out = Conv(b, v)", w=W, u=W, v=(6, 8, 1, 1))
    model.graph.input.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None))
    groups = by_name(model)
    if "Add" not in text:
        assert reason in groups["Conv of a"].reason
    assert groups["Conv of b"].permutable


def test_dropout_at_inference_passes_channels_on() -> None:
    for values in ("0.5}> () t = Constant <value = bool {0}", "0.0}> () t = Constant <value = bool {1}"):
        text = A + f"r = Constant <value = float {{{values}> () p = Dropout(a, r, t) out = Conv(p, v)"
        assert by_name(graph(text, w=W, v=(6, 8, 1, 1)))["Conv of a"].permutable


def test_outer_tensors_that_a_nested_graph_reads_are_pinned() -> None:
    text = A + "k = ReduceMax <keepdims=0> (a) y = Greater(k, k) out = If <then_branch = p () => (float[1] r) "
    text += "{ r = Conv(a, v) }, else_branch = q () => (float[1] r2) { r2 = Neg(x) }> (y)"
    groups = by_name(graph(text, w=W, v=(6, 8, 1, 1)))
    assert groups["Conv of a"].reason == "If of out is a If with a graph inside"


def test_values_in_another_file_pin_their_groups() -> None:
    model = graph(A + "r = Relu(a) out = Conv(r, v)", w=W, v=(6, 8, 1, 1))
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    assert by_name(model)["Conv of a"].reason == "the values of w are in another file"


def test_weights_listed_as_inputs_may_be_fed_from_ir_4_on() -> None:
    model = graph(A + "r = Relu(a) out = Conv(r, v)", w=W, v=(6, 8, 1, 1))
    model.graph.input.append(onnx.helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, (6, 8, 1, 1)))
    assert by_name(model)["Conv of a"].reason == "it may be fed: it is listed as an input of the graph"
    model.ir_version = 3
    assert by_name(model)["Conv of a"].permutable


def test_a_weight_that_two_layers_read_along_its_two_axes_ties_both() -> None:
    text = "a = MatMul(x, w) r = Relu(a) t = Transpose(w) b = MatMul(r, t) s = MatMul(b, u) out = MatMul(s, v)"
    model = graph(text, given="float[3,4] y", w=(4, 8), u=(4, 8), v=(8, 2))
    model.graph.input[0].name = "x"
    assert {group.name: group.size for group in channel_groups(model) if group.permutable} == {
        "MatMul of a": 8,
        "MatMul of s": 8,
    }
    assert difference(model, reordered(model)) < 1e-5


def test_a_grouped_weight_that_is_also_read_whole_is_pinned() -> None:
    text = A + "d = Conv <group=2> (a, u) k = Mul(u, u) out = ReduceSum(k) o2 = Conv(d, v)"
    model = graph(text, made="out o2", w=W, u=(6, 4, 3, 3), v=(6, 6, 1, 1))
    groups = by_name(model)
    assert groups["Conv of a[0:4]"].reason == "its weight is also read by Mul of k"
    assert difference(model, reordered(model)) < 1e-5


def test_a_weight_that_layers_read_in_other_groups_is_pinned() -> None:
    text = A + "d = Conv <group=2> (a, u) o2 = Conv(d, v) out = Conv(x, u)"
    model = graph(text, made="out o2", w=W, u=(6, 4, 3, 3), v=(6, 6, 1, 1))
    assert by_name(model)["Conv of a[0:4]"].reason == "its weight is also read by Conv of out"
    assert difference(model, reordered(model)) < 1e-5


def test_a_value_that_steers_a_node_is_never_reordered() -> None:
    text = "s = Slice(x, n, m) out = MatMul(s, u) c = Cast <to=1> (n) a = MatMul(x, w) h = Add(a, c) o2 = MatMul(h, v)"
    start, end = np.asarray([0, 2]), np.asarray([8, 4])
    model = graph(text, given="float[8,4] x", made="out o2", u=(2, 2), w=(4, 2), n=start, m=end, v=(2, 3))
    assert by_name(model)["MatMul of a"].reason == "its values say what a node does"
    assert difference(model, reordered(model)) < 1e-5


def test_single_channels_side_by_side_are_one_pinned_group() -> None:
    model = graph(A + "d = Conv <group=4> (a, u) out = Conv(d, v)", w=W, u=(4, 2, 3, 3), v=(6, 4, 1, 1))
    groups = by_name(model)
    assert groups["Conv of d"].size == groups["inputs of Conv of out"].size == 4
    assert groups["Conv of d"].reason == "it is cut into single channels"
    assert groups["Conv of a[0:2]"].permutable


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 18, reason="this onnx has no GroupNormalization")
def test_group_normalization_keeps_channels_within_their_group() -> None:
    text = A + "n = GroupNormalization <num_groups=2> (a, s, b) out = Conv(n, v)"
    model = graph(text, opset=18, w=W, s=(2,), b=(2,), v=(6, 8, 1, 1))
    groups = by_name(model)
    assert groups["Conv of a[0:4]"].permutable
    assert groups["Conv of a[4:8]"].permutable
    assert difference(model, reordered(model)) < 1e-5


def test_channel_dimensions_before_opset_7_are_aligned_by_an_attribute() -> None:
    model = graph(A + "m = Mul <broadcast=1, axis=1> (a, c) out = Conv(m, v)", opset=6, w=W, c=(8,), v=(6, 8, 1, 1))
    assert {(place.tensor, place.axis) for place in by_name(model)["Conv of a"].places} == {
        ("w", 0),
        ("c", 0),
        ("v", 1),
    }
