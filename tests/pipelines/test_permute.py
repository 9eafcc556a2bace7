"""Reordering never changes what a network computes, and never keeps less."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser
from random_graphs import networks

from pipelines.arrays import Array
from pipelines.checks.finding import Finding
from pipelines.checks.permuted import AS_RUN, BUILT, EXACT, permuted_equals_original
from pipelines.errors import PipelineError
from pipelines.graph.gather import with_gathers
from pipelines.graph.groups import channel_groups
from pipelines.graph.mask import mask_magnitude
from pipelines.graph.tensors import stored, values_of
from pipelines.sparsity.pattern import NMPattern
from pipelines.sparsity.permute import PermuteReport, apply_permutations, permute_channels
from pipelines.sparsity.stack import Stack

TWO_OF_FOUR = NMPattern(2, 4)
QUICK = "channel_swap"  # enough where the question is not how much is found; fast without compiled kernels too

# a bottleneck with a shortcut, a grouped convolution, a join, and a classifier
NETWORK = """
    c1 = Conv <pads=[1,1,1,1]> (x, w1, b1)
    n1 = BatchNormalization (c1, scale, shift, mean, variance)
    r1 = Relu (n1)
    c2 = Conv <pads=[1,1,1,1], group=2> (r1, w2)
    r2 = PRelu (c2, slope)
    c3 = Conv (r2, w3, b3)
    sum = Add (c3, r1)
    join = Concat <axis=1> (sum, r2)
    c4 = Conv (join, w4, b4)
    pool = GlobalAveragePool (c4)
    flat = Flatten (pool)
    y = Gemm <transB=1> (flat, w5, b5)
"""
SHAPES = {
    "w1": (16, 3, 3, 3), "b1": (16,), "scale": (16,), "shift": (16,), "mean": (16,), "variance": (16,),
    "w2": (24, 8, 3, 3), "slope": (24, 1, 1), "w3": (16, 24, 1, 1), "b3": (16,), "w4": (32, 40, 1, 1), "b4": (32,),
    "w5": (10, 32), "b5": (10,),
}  # fmt: skip


def network(text: str = NETWORK, shapes: Mapping[str, tuple[int, ...]] = SHAPES, channels: int = 3) -> onnx.ModelProto:
    """`x` [1, channels, 6, 6] to `y`; the stored tensors are uniform in 0.1 .. 1, by a seed, half of them negative."""
    head = f'<ir_version: 7, opset_import: ["": 13, "other": 1]> net (float[1,{channels},6,6] x) => (float[n,c] y)'
    model = parser.parse_model(f"{head} {{ {text} }}")
    random = np.random.default_rng(1)
    for name, shape in shapes.items():
        array = random.uniform(0.1, 1.0, shape) * (1 if name == "variance" else random.choice([-1, 1], shape))
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def picture(model: onnx.ModelProto, seed: int = 0) -> Array:
    given = next(one for one in model.graph.input if one.name not in stored(model.graph))
    shape = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def proved(original: onnx.ModelProto, permuted: onnx.ModelProto, orders: Mapping[str, Array]) -> dict[str, Finding]:
    found = permuted_equals_original(original, permuted, picture(original), orders)
    return {one.name: one for one in found}


def random_orders(model: onnx.ModelProto, seed: int = 0) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {group.name: random.permutation(group.size) for group in channel_groups(model) if group.permutable}


def change(model: onnx.ModelProto, name: str, array: Array) -> None:
    stored(model.graph)[name].CopyFrom(numpy_helper.from_array(array, name))


def names_changed(before: onnx.ModelProto, after: onnx.ModelProto) -> set[str]:
    left, right = values_of(before), values_of(after)
    return {name for name in left if not np.array_equal(left[name], right[name])}


def plain(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(model=networks(), seed=st.integers(0, 1000))
def test_any_order_of_all_groups_leaves_a_random_network_as_it_is(model: onnx.ModelProto, seed: int) -> None:
    orders = random_orders(model, seed)
    findings = proved(model, apply_permutations(model, orders), orders)
    assert [one.status for one in findings.values()] == ["ok"] * 3, findings


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(model=networks(), pattern=st.sampled_from([TWO_OF_FOUR, NMPattern(1, 2), NMPattern(2, 3)]))
def test_searching_a_random_network_never_keeps_less_and_reports_what_the_mask_keeps(
    model: onnx.ModelProto, pattern: NMPattern
) -> None:
    permuted, report = permute_channels(model, pattern, strategy=QUICK, threads=1)
    before, after = (
        sum(one.retained_magnitude for one in mask_magnitude(one, pattern)[1]) for one in (model, permuted)
    )
    assert report.retained_before == pytest.approx(before)
    assert report.retained_after == pytest.approx(after)
    assert report.retained_before <= report.retained_after <= report.bound * (1 + 1e-9)
    assert {one.status for one in proved(model, permuted, report.permutations).values()} == {"ok"}
    told = {one.name for one in report.groups} | {one.name for one in report.unpermuted}
    assert told == {one.name for one in channel_groups(model)}
    assert all(one.reason for one in report.unpermuted)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(model=networks(), seed=st.integers(0, 1000))
def test_gathers_in_front_of_any_layers_leave_a_random_network_as_it_is(model: onnx.ModelProto, seed: int) -> None:
    groups, orders = channel_groups(model), random_orders(model, seed)
    readers = {group.name: [place.tensor for place in group.places] for group in groups}
    gathered = with_gathers(model, groups, orders, readers)
    findings = permuted_equals_original(model, gathered, picture(model))
    assert [one.status for one in findings] == ["ok"] * 2, findings


def test_a_network_keeps_more_and_computes_the_same() -> None:
    model = network()
    permuted, report = permute_channels(model, TWO_OF_FOUR)
    assert report.retained_after > report.retained_before * 1.01
    assert all(one.after > one.before for one in report.groups)
    assert 0 < report.efficacy <= 1
    assert {one.status for one in proved(model, permuted, report.permutations).values()} == {"ok"}


def test_only_tensors_that_hold_reordered_channels_change() -> None:
    model = network()
    permuted, report = permute_channels(model, TWO_OF_FOUR, strategy=QUICK)
    held = {
        place.tensor for group in channel_groups(model) if group.name in report.permutations for place in group.places
    }
    assert names_changed(model, permuted) <= held
    assert [node.SerializeToString() for node in model.graph.node] == [
        node.SerializeToString() for node in permuted.graph.node
    ]


def test_the_same_bytes_whatever_the_threads() -> None:
    made = [permute_channels(network(), TWO_OF_FOUR, seed=3, threads=threads, iterations=500) for threads in (1, 2, 1)]
    assert len({plain(model) for model, _ in made}) == 1
    assert len({msgspec.json.encode(report.record()) for _, report in made}) == 1


def test_progress_counts_every_search() -> None:
    seen: list[tuple[int, int]] = []
    _, report = permute_channels(
        network(), TWO_OF_FOUR, strategy=QUICK, progress=lambda done, of: seen.append((done, of))
    )
    assert seen == [(nth + 1, len(seen)) for nth in range(len(seen))]
    assert len(seen) >= len(report.groups) > 0


def test_a_record_in_json_is_the_report_without_times() -> None:
    _, report = permute_channels(network(), TWO_OF_FOUR, strategy=QUICK)
    again = msgspec.json.decode(msgspec.json.encode(report.record()), type=PermuteReport)
    assert (again.elapsed_s, again.kernels) == (0, "")
    assert again.record() == report.record()
    assert all((again.permutations[name] == order).all() for name, order in report.permutations.items())


def test_where_nothing_can_be_reordered_the_file_stays_and_each_group_has_its_reason() -> None:
    model = network("y = Conv (x, w)", {"w": (8, 16, 1, 1)}, channels=16)
    permuted, report = permute_channels(model, TWO_OF_FOUR, strategy=QUICK)
    assert plain(permuted) == plain(model)
    assert not report.groups
    assert report.retained_after == report.retained_before
    assert report.unpermuted
    assert all(one.reason for one in report.unpermuted)


def test_two_layers_that_share_a_weight_are_reordered_together() -> None:
    text = "a = Conv (x, w1) b = Relu (a) c = Conv (b, shared) d = Tanh (c) e = Conv (d, shared) y = GlobalMaxPool (e)"
    model = network(text, {"w1": (16, 3, 1, 1), "shared": (16, 16, 1, 1)})
    orders = random_orders(model)
    assert {one.status for one in proved(model, apply_permutations(model, orders), orders).values()} == {"ok"}
    permuted, report = permute_channels(model, TWO_OF_FOUR, strategy=QUICK)
    assert {one.status for one in proved(model, permuted, report.permutations).values()} == {"ok"}


def test_channels_that_don_t_divide_into_m_are_reordered_too() -> None:
    model = network(
        "a = Conv (x, w1) b = Relu (a) c = Conv (b, w2) y = Relu (c)", {"w1": (10, 3, 1, 1), "w2": (9, 10, 1, 1)}
    )
    permuted, report = permute_channels(model, TWO_OF_FOUR, strategy=QUICK)
    assert [one.size for one in report.groups] == [10]
    assert report.retained_after > report.retained_before
    assert {one.status for one in proved(model, permuted, report.permutations).values()} == {"ok"}


def test_channels_behind_others_that_don_t_divide_into_m_fall_on_the_pattern_s_own_groups() -> None:
    text = "a = Conv (x, w1) b = Conv (x, w2) c = Concat <axis=1> (a, b) d = Conv (c, w3) y = Relu (d)"
    model = network(text, {"w1": (6, 3, 1, 1), "w2": (18, 3, 1, 1), "w3": (32, 24, 1, 1)})
    permuted, report = permute_channels(model, TWO_OF_FOUR, strategy=QUICK)
    assert 18 in [one.size for one in report.groups]
    assert report.efficacy > 0.1
    assert {one.status for one in proved(model, permuted, report.permutations).values()} == {"ok"}


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 4))
def test_an_order_laid_out_behind_a_lead_is_an_order_whose_groups_are_whole(m: int, size: int, lead: int) -> None:
    pattern, lead = NMPattern(1, m + 1), lead % (m + 1)
    order = np.random.default_rng(0).permutation(size)
    laid = Stack(0, size, (), lead, ()).laid_out(order, pattern)
    assert sorted(laid) == list(range(size))
    whole = max(0, size - lead) // pattern.m * pattern.m
    assert list(laid[min(lead, size - whole) :][:whole]) == list(order[:whole])


def test_layers_that_stay_dense_don_t_count() -> None:
    model = network()
    dense = "Conv of c4"
    _, report = permute_channels(model, TWO_OF_FOUR, strategy=QUICK, keep=[dense])
    assert "w4" not in {name for group in report.groups for name in group.consumers}
    alone = sum(one.retained_magnitude for one in mask_magnitude(model, TWO_OF_FOUR, [dense])[1])
    assert report.retained_before == pytest.approx(alone)


def test_importance_of_one_changes_nothing_and_others_are_what_is_maximised() -> None:
    model = network()
    _, unweighted = permute_channels(model, TWO_OF_FOUR, strategy=QUICK)
    _, ones = permute_channels(model, TWO_OF_FOUR, strategy=QUICK, weighting={"w4": np.ones(40), "w2": np.ones((2, 8))})
    assert ones.permutations.keys() == unweighted.permutations.keys()
    assert all((ones.permutations[name] == order).all() for name, order in unweighted.permutations.items())
    importance = np.random.default_rng(2).uniform(0, 10, 40)
    permuted, weighted = permute_channels(model, TWO_OF_FOUR, strategy=QUICK, weighting={"w4": importance})
    assert weighted.weighted
    assert weighted.retained_after > weighted.retained_before
    assert {one.status for one in proved(model, permuted, weighted.permutations).values()} == {"ok"}


def test_a_gather_in_front_of_each_layer_computes_the_same_and_leaves_producers_alone() -> None:
    model = network()
    _, report = permute_channels(model, TWO_OF_FOUR, strategy=QUICK)
    consumers = {group.name: group.consumers for group in report.groups}
    gathered = with_gathers(model, channel_groups(model), report.permutations, consumers)
    assert names_changed(model, gathered) == {name for names in consumers.values() for name in names}
    assert sum(node.op_type == "Gather" for node in gathered.graph.node) > 0
    findings = {one.name: one for one in permuted_equals_original(model, gathered, picture(model))}
    assert {one.status for one in findings.values()} == {"ok"}, findings
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(gathered, strict_mode=True), full_check=True)


def test_levels_of_a_quantised_network_move_with_their_scales() -> None:
    text = """
        d1 = DequantizeLinear <axis=0> (q1, s1, z1) a = Conv (x, d1)
        aq = QuantizeLinear (a, sa, za) ad = DequantizeLinear (aq, sa, za)
        d2 = DequantizeLinear <axis=0> (q2, s2, z2) y = Conv (ad, d2)
    """
    model, random = network(text, {"s1": (16,), "s2": (8,)}), np.random.default_rng(0)
    change(model, "s1", abs(values_of(model)["s1"]) / 50)
    change(model, "s2", abs(values_of(model)["s2"]) / 50)
    for name, array in {
        "q1": random.integers(-127, 128, (16, 3, 1, 1)),
        "q2": random.integers(-127, 128, (8, 16, 1, 1)),
        "z1": np.zeros(16),
        "z2": np.zeros(8),
        "za": np.zeros(()),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.int8), name))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.05), "sa"))
    permuted, report = permute_channels(model, TWO_OF_FOUR, strategy=QUICK)
    assert [one.consumers for one in report.groups] == [("q2",)]
    assert names_changed(model, permuted) == {"q1", "q2", "s1"}
    assert {one.status for one in proved(model, permuted, report.permutations).values()} == {"ok"}


def test_an_output_near_zero_is_judged_by_what_float32_can_say_of_it() -> None:
    text = "a = Conv (x, w1) b = Relu (a) c = Conv (b, w2) d = Sub (c, far) y = Sigmoid (d)"
    model = network(text, {"w1": (64, 3, 1, 1), "w2": (4, 64, 1, 1)})
    model.graph.initializer.append(numpy_helper.from_array(np.float32(60), "far"))
    orders = random_orders(model)
    findings = proved(model, apply_permutations(model, orders), orders)
    assert {one.status for one in findings.values()} == {"ok"}
    assert findings[EXACT].value <= 1e-12


class TestWhatIsWrongIsNamed:
    def test_weights_that_are_not_numbers(self) -> None:
        model = network()
        broken = values_of(model)["w4"].copy()
        broken[3, 4] = np.nan
        change(model, "w4", broken)
        with pytest.raises(PipelineError, match="Conv of c4: w4 holds values that are not finite"):
            permute_channels(model, TWO_OF_FOUR, strategy=QUICK)

    def test_a_layer_or_weight_that_is_not_there(self) -> None:
        with pytest.raises(ValueError, match="keep: the model has no layer 'conv9'"):
            permute_channels(network(), TWO_OF_FOUR, strategy=QUICK, keep=["conv9"])
        with pytest.raises(ValueError, match="weighting: the model has no weight 'w9'"):
            permute_channels(network(), TWO_OF_FOUR, strategy=QUICK, weighting={"w9": np.ones(4)})

    def test_a_strategy_that_is_none_even_where_nothing_is_searched(self) -> None:
        model = network("y = Conv (x, w)", {"w": (8, 3, 1, 1)})
        with pytest.raises(ValueError, match="strategy: 'best' is none of"):
            permute_channels(model, TWO_OF_FOUR, strategy="best")

    def test_importance_of_another_length_or_below_zero(self) -> None:
        with pytest.raises(ValueError, match=r"weighting: w4 has 40 input channels, not \[39\]"):
            permute_channels(network(), TWO_OF_FOUR, strategy=QUICK, weighting={"w4": np.ones(39)})
        with pytest.raises(ValueError, match="weighting: that of w4"):
            permute_channels(network(), TWO_OF_FOUR, strategy=QUICK, weighting={"w4": -np.ones(40)})

    def test_what_is_no_order(self) -> None:
        model = network()
        name, order = next(iter(random_orders(model).items()))
        for wrong in (order[1:], np.zeros_like(order), order + 1, order.astype(float)):
            with pytest.raises(ValueError, match=re.escape(f"that of {name} is no order of its {len(order)} channels")):
                apply_permutations(model, {name: wrong})
        with pytest.raises(ValueError, match="permutations: the model has no channel group 'nobody'"):
            apply_permutations(model, {"nobody": order})

    def test_an_order_of_a_group_that_can_t_have_one(self) -> None:
        model = network()
        fixed = next(one for one in channel_groups(model) if one.reason)
        with pytest.raises(ValueError, match="can't be reordered"):
            apply_permutations(model, {fixed.name: np.arange(fixed.size)})

    def test_an_unknown_operator_keeps_its_channels_and_is_the_reason(self) -> None:
        text = "a = Conv (x, w1) b = other.Scramble (a) c = Conv (b, w2) y = Relu (c)"
        model = network(text, {"w1": (16, 3, 1, 1), "w2": (8, 16, 1, 1)})
        permuted, report = permute_channels(model, TWO_OF_FOUR, strategy=QUICK)
        assert plain(permuted) == plain(model)
        assert any("Scramble" in one.reason for one in report.unpermuted)
        findings = proved(model, permuted, {})
        assert findings[EXACT].status == findings[AS_RUN].status == "skipped"
        assert "Scramble" in findings[EXACT].detail
        assert "Scramble" in findings[AS_RUN].detail

    def test_weights_in_another_file_stay_where_they_are(self) -> None:
        model = network()
        tensor = stored(model.graph)["w4"]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="elsewhere.bin")
        permuted, report = permute_channels(model, TWO_OF_FOUR, strategy=QUICK)
        assert "w4" not in {name for group in report.groups for name in group.consumers}
        assert stored(permuted.graph)["w4"].SerializeToString() == tensor.SerializeToString()

    def test_a_type_that_numpy_does_not_hold(self) -> None:
        text = "a = Conv (x, w1) s = Cast <to=1> (half) b = Mul (a, s) c = Conv (b, w2) y = Relu (c)"
        model = network(text, {"w1": (16, 3, 1, 1), "w2": (8, 16, 1, 1)})
        model.graph.initializer.add(
            name="half", dims=[16, 1, 1], data_type=onnx.TensorProto.BFLOAT16, raw_data=bytes(range(32))
        )
        permuted, _ = permute_channels(model, TWO_OF_FOUR, strategy=QUICK)
        assert stored(permuted.graph)["half"].raw_data == bytes(range(32))


class TestTheProofFindsWhatIsWrong:
    def wrong(self, name: str, spoil: object) -> dict[str, Finding]:
        model = network()
        orders = random_orders(model)
        permuted = apply_permutations(model, orders)
        array = values_of(permuted)[name].copy()
        change(permuted, name, spoil(array))  # type: ignore[operator]
        return proved(model, permuted, orders)

    def test_a_swapped_pair_of_channels(self) -> None:
        def swap(array: Array) -> Array:
            array[:, [2, 7]] = array[:, [7, 2]]
            return array

        findings = self.wrong("w4", swap)
        assert {one.status for one in findings.values()} == {"failed"}
        assert "w4" in findings[BUILT].detail
        assert "first in c4 of node Conv of c4" in findings[EXACT].detail

    def test_a_producer_without_its_bias(self) -> None:
        findings = self.wrong("b1", lambda array: values_of(network())["b1"])
        assert {one.status for one in findings.values()} == {"failed"}
        assert "b1" in findings[BUILT].detail
        assert "first in c1" in findings[EXACT].detail

    def test_one_weight_by_its_last_bits(self) -> None:
        def nudge(array: Array) -> Array:
            array[0, 0] *= 1 + 3e-7
            return array

        findings = self.wrong("w5", nudge)
        assert findings[BUILT].status == findings[EXACT].status == "failed"  # onnxruntime's own rounding hides it
        assert "at y" in findings[EXACT].detail

    def test_values_that_are_none(self) -> None:
        findings = self.wrong("b5", lambda array: array * np.float32(np.nan))
        assert {one.status for one in findings.values()} == {"failed"}
        assert "finite" in findings[AS_RUN].detail

    def test_what_a_head_of_zeros_hides(self) -> None:
        model = network()
        change(model, "w5", np.zeros((10, 32), np.float32))
        orders = random_orders(model)
        permuted = apply_permutations(model, orders)
        change(permuted, "b1", values_of(model)["b1"])
        findings = proved(model, permuted, orders)
        assert findings[AS_RUN].status == "ok"
        assert findings[EXACT].status == "failed"
        assert findings[EXACT].value == 0
        assert "first in c1" in findings[EXACT].detail

    def test_another_node(self) -> None:
        model = network()
        permuted = network(NETWORK.replace("Relu (n1)", "LeakyRelu (n1)"))
        assert proved(model, permuted, {})[BUILT].status == "failed"
