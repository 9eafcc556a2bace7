"""Keeping the answers: a layer as a matrix, the best weights under a mask, whole networks, what to leave dense."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pipelines.arrays import Array
from pipelines.errors import PipelineError
from pipelines.graph.tensors import changed_tensors, values_of
from pipelines.graph.weights import check_pattern
from pipelines.inference import outputs_of
from pipelines.sparsity.pattern import NMPattern
from pipelines.sparsity.permute import permute_channels
from pipelines.sparsity.reconstruct import PICTURED, activation_norms, calibration_images, choose_dense, correct
from pipelines.sparsity.reconstruct.blocks import blocks_of, outputs_in, run
from pipelines.sparsity.reconstruct.linear import linears_of
from pipelines.sparsity.reconstruct.moments import Moments, moments, scales, shifts
from pipelines.sparsity.reconstruct.norms import Channels, clipped
from pipelines.sparsity.reconstruct.sensitivity import divergence, worst_that_fit
from pipelines.sparsity.reconstruct.solve import least_squares, magnitude_mask, normal_equations, obs_mask

TWO_OF_FOUR = NMPattern(2, 4)


def model_of(nodes: list[onnx.NodeProto], weights: dict[str, Array], shape: list[int]) -> onnx.ModelProto:
    """One input `x`, one output `y`."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def residual_network(seed: int = 0, classes: int = 6) -> onnx.ModelProto:
    """Stem, inverted residual with a depthwise convolution, head without a bias, classifier."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    weights = {
        "w0": normal(8, 3, 3, 3),
        "b0": normal(8),
        "w1": normal(16, 8, 1, 1),
        "b1": normal(16),
        "w2": normal(16, 1, 3, 3),
        "b2": normal(16),
        "w3": normal(8, 16, 1, 1),
        "b3": normal(8),
        "w4": normal(24, 8, 1, 1),
        "w5": normal(classes, 24),
        "b5": normal(classes),
        "low": np.float32(0),
        "high": np.float32(6),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], name="stem", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Clip", ["c0", "low", "high"], ["a0"]),
        node("Conv", ["a0", "w1", "b1"], ["c1"], name="expand"),
        node("Relu", ["c1"], ["a1"]),
        node("Conv", ["a1", "w2", "b2"], ["c2"], name="depthwise", group=16, pads=[1, 1, 1, 1]),
        node("Relu", ["c2"], ["a2"]),
        node("Conv", ["a2", "w3", "b3"], ["c3"], name="project"),
        node("Add", ["c3", "a0"], ["s"]),
        node("Conv", ["s", "w4"], ["c4"], name="head"),
        node("Relu", ["c4"], ["a4"]),
        node("GlobalAveragePool", ["a4"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w5", "b5"], ["y"], name="classifier", transB=1),
    ]
    return model_of(nodes, weights, [1, 3, 12, 12])


def pictures(count: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 3, 12, 12)).astype(np.float32)


def covariance(random: np.random.Generator, size: int) -> Array:
    samples = random.standard_normal((4 * size, size)) @ random.standard_normal((size, size))
    return samples.T @ samples / len(samples) + 0.1 * np.eye(size)


# a layer as a matrix


@st.composite
def layers(draw: st.DrawFn) -> tuple[onnx.ModelProto, list[int]]:
    """A Conv in one to three dimensions, a Gemm or a MatMul, with or without a bias."""
    op = draw(st.sampled_from(["Conv", "Conv", "Gemm", "MatMul"]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bias = draw(st.booleans())
    if op != "Conv":
        c, k = draw(st.integers(1, 9)), draw(st.integers(1, 5))
        transposed = op == "Gemm" and draw(st.booleans())
        weights = {"w": random.standard_normal((k, c) if transposed else (c, k)).astype(np.float32)}
        shape = [draw(st.integers(1, 3)), c]
        options: dict[str, Any] = {"transB": 1} if transposed else {}
    else:
        groups, dims = draw(st.sampled_from([1, 2, 3])), draw(st.integers(1, 3))
        c, k = draw(st.integers(1, 4)), groups * draw(st.integers(1, 3))
        kernel = [draw(st.integers(1, 3)) for _ in range(dims)]
        options = {
            "group": groups,
            "strides": [draw(st.integers(1, 2)) for _ in range(dims)],
            "dilations": [draw(st.integers(1, 2)) for _ in range(dims)],
            "pads": [draw(st.integers(0, 2)) for _ in range(2 * dims)],
        }
        weights = {"w": random.standard_normal((k, c, *kernel)).astype(np.float32)}
        shape = [1, groups * c, *(draw(st.integers(5, 7)) for _ in range(dims))]
    names = ["x", "w"]
    if bias and op != "MatMul":
        weights["b"] = random.standard_normal(k).astype(np.float32)
        names.append("b")
    nodes = [helper.make_node(op, names, ["y"], name="layer", **options)]
    if bias and op == "MatMul":
        weights["b"] = random.standard_normal(k).astype(np.float32)
        nodes = [helper.make_node(op, names, ["m"], name="layer"), helper.make_node("Add", ["b", "m"], ["y"])]
    return model_of(nodes, weights, shape), shape


@settings(deadline=None, max_examples=60)
@given(layers())
def test_a_layer_is_its_matrix_times_the_columns_of_its_input(drawn: tuple[onnx.ModelProto, list[int]]) -> None:
    model, shape = drawn
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    [one] = linears_of(model)
    [(y,)] = run(model, "x", [x], ["y"])
    held = values_of(model)
    matrix = one.matrix(held["w"]).astype(np.float64)
    assert np.array_equal(one.stored(matrix).astype(np.float32), held["w"])
    made = matrix @ one.columns(x).astype(np.float64)
    if one.bias:
        made += held["b"].reshape(len(made), -1, 1)
    assert np.allclose(made, one.rows(y), rtol=1e-4, atol=1e-4)


def test_a_layer_that_another_reads_too_is_no_linear() -> None:
    weight = np.ones((4, 4, 1, 1), np.float32)
    nodes = [helper.make_node("Conv", [a, "w"], [b], name=b) for a, b in (("x", "m"), ("m", "y"))]
    assert linears_of(model_of(nodes, {"w": weight}, [1, 4, 2, 2])) == []


@pytest.mark.parametrize(("name", "value"), [("alpha", 2.0), ("beta", 0.5), ("transA", 1)])
def test_a_scaled_or_turned_product_is_no_linear(name: str, value: float) -> None:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], **{name: value})
    assert linears_of(model_of([node], {"w": np.ones((4, 4), np.float32)}, [4, 4])) == []


# moments


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))
def test_moments_are_those_of_all_positions_together(seed: int, groups: int, k: int, d: int) -> None:
    random = np.random.default_rng(seed)
    pairs = [(random.standard_normal((groups, d, p)), random.standard_normal((groups, k, p))) for p in (3, 5, 2)]
    x, y = (np.concatenate([pair[place] for pair in pairs], axis=-1) for place in (0, 1))
    for group, seen in enumerate(moments(pairs)):
        both = np.cov(np.vstack([x[group], y[group]]), bias=True).reshape(d + k, d + k)
        assert np.allclose(seen.xx, both[:d, :d]) and np.allclose(seen.yx, both[d:, :d])
        assert np.allclose(seen.y_variance, np.diag(both)[d:]) and np.allclose(seen.y_mean, y[group].mean(-1))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_a_scaled_and_shifted_row_has_the_wanted_mean_and_deviation(seed: int) -> None:
    random = np.random.default_rng(seed)
    x, wanted, matrix = (random.standard_normal(shape) for shape in ((1, 6, 50), (1, 3, 50), (3, 6)))
    [seen] = moments([(x + 2, 3 * wanted - 1)])
    matrix *= scales(matrix, seen)[:, None]
    made = matrix @ (x[0] + 2) + shifts(matrix, seen)[:, None]
    assert np.allclose(made.mean(1), (3 * wanted[0] - 1).mean(1)) and np.allclose(made.std(1), 3 * wanted[0].std(1))


def test_a_row_that_is_all_zeros_or_wanted_constant_keeps_its_scale() -> None:
    seen = Moments(np.zeros(2), np.zeros(2), np.eye(2), np.zeros((2, 2)), np.array([1.0, 0.0]))
    assert np.array_equal(scales(np.array([[0.0, 0.0], [1.0, 2.0]]), seen), [1.0, 1.0])


# the best weights


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_one_group_is_judged_by_its_true_error(seed: int) -> None:
    """Against all six masks, each solved exactly."""
    random = np.random.default_rng(seed)
    hessian, weight = covariance(random, 4), random.standard_normal((5, 4))
    mask = obs_mask(weight, hessian, TWO_OF_FOUR, 4)

    def error(row: Array, kept: Array) -> float:
        difference = least_squares(kept[None], hessian, row[None] @ hessian)[0] - row
        return float(difference @ hessian @ difference)

    every = [np.isin(np.arange(4), pair) for pair in itertools.combinations(range(4), 2)]
    for row, kept in zip(weight, mask, strict=True):
        assert error(row, kept) <= min(error(row, other) for other in every) + 1e-9


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 2), (2, 4), (4, 8), (6, 12)]), st.sampled_from([7, 8, 12]))
def test_uncorrelated_inputs_make_it_magnitude(seed: int, ratio: tuple[int, int], run_of: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((3, 2 * run_of))
    pattern = NMPattern(*ratio)
    mask = obs_mask(weight, np.eye(2 * run_of), pattern, run_of)
    assert np.array_equal(mask, magnitude_mask(weight, pattern, run_of))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 2), (2, 4), (1, 4), (8, 16)]))
def test_the_mask_keeps_n_of_every_m_within_a_kernel_position(seed: int, ratio: tuple[int, int]) -> None:
    random = np.random.default_rng(seed)
    pattern = NMPattern(*ratio)
    weight = random.standard_normal((4, 3 * 18))
    mask = obs_mask(weight, covariance(random, weight.shape[1]), pattern, 18)
    groups = [
        mask[:, 18 * r + c : min(18 * r + c + pattern.m, 18 * r + 18)]
        for r in range(3)
        for c in range(0, 18, pattern.m)
    ]
    assert all((one.sum(1) == min(pattern.n, one.shape[1])).all() for one in groups)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_least_squares_is_a_minimum_and_zero_outside_the_mask(seed: int) -> None:
    random = np.random.default_rng(seed)
    hessian, target = covariance(random, 8), random.standard_normal((3, 8))
    mask = random.random((3, 8)) < 0.5
    solved = least_squares(mask, hessian, target)
    assert not solved[~mask].any()
    assert np.allclose((solved @ hessian - target)[mask], 0, atol=1e-8)


def test_without_any_error_upstream_the_dense_weights_solve_the_equations() -> None:
    random = np.random.default_rng(0)
    xx, matrix = covariance(random, 6), random.standard_normal((4, 6))
    seen = Moments(np.zeros(6), np.zeros(4), xx, matrix @ xx, ((matrix @ xx) * matrix).sum(1))
    hessian, target = normal_equations(matrix, seen)
    assert np.allclose(np.linalg.solve(hessian, target.T).T, matrix)


def test_a_layer_that_sees_constants_keeps_its_weights() -> None:
    matrix = np.array([[1.0, -2.0]])
    seen = Moments(np.ones(2), np.zeros(1), np.zeros((2, 2)), np.zeros((1, 2)), np.zeros(1))
    hessian, target = normal_equations(matrix, seen)
    assert np.allclose(np.linalg.solve(hessian, target.T).T, matrix)


# blocks


def test_the_blocks_run_one_after_another_are_the_network() -> None:
    model, images = residual_network(), pictures(2)
    chain = blocks_of(model, images[:1])
    now = [image[None] for image in images]
    for block in chain:
        now = [one for (one,) in run(model, block.source, now, [block.result])]
    assert np.allclose(np.concatenate(now), outputs_of(model.SerializeToString(), images)[0], atol=1e-5)
    assert [name for block in chain for name in sorted(outputs_in(model, block))] and chain[0].start == 0
    assert all(a.stop == b.start and a.result == b.source for a, b in itertools.pairwise(chain))


def test_no_cut_lies_inside_a_residual_block() -> None:
    cuts = {block.result for block in blocks_of(residual_network(), pictures(1))}
    assert "a0" in cuts and "s" in cuts and not cuts & {"c1", "a1", "c2", "a2", "c3"}


def test_a_network_of_two_inputs_is_refused() -> None:
    model = residual_network()
    model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1]))
    with pytest.raises(PipelineError, match="2 inputs"):
        blocks_of(model, pictures(1))


# whole networks


@pytest.mark.parametrize("method", ["none", *PICTURED])
@pytest.mark.parametrize("pattern", [NMPattern(2, 4), NMPattern(1, 4), NMPattern(4, 8)])
def test_every_method_leaves_the_pattern_strict(method: str, pattern: NMPattern) -> None:
    sparse, report = correct(residual_network(), pattern, pictures(6), method=method)
    assert check_pattern(sparse, pattern) == []
    assert report.method == method and report.uncorrected == ()
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(sparse))


def test_correction_brings_the_answers_back() -> None:
    """On pictures that it has not seen."""
    dense, unseen = residual_network(), pictures(40, seed=9)
    wanted = outputs_of(dense.SerializeToString(), unseen)[0]
    errors = []
    for method in ("none", *PICTURED):
        sparse, _ = correct(dense, TWO_OF_FOUR, pictures(40), method=method)
        errors.append(float(((outputs_of(sparse.SerializeToString(), unseen)[0] - wanted) ** 2).mean()))
    assert errors[0] > errors[1] > errors[2]


def test_matched_outputs_have_the_dense_mean_and_deviation() -> None:
    dense, images = residual_network(), pictures(12)
    sparse, report = correct(dense, TWO_OF_FOUR, images, method="match")
    wanted, made = (outputs_of(model.SerializeToString(), images)[0] for model in (dense, sparse))
    assert np.allclose(made.mean(0), wanted.mean(0), atol=1e-5) and np.allclose(made.std(0), wanted.std(0), atol=1e-5)
    assert [one.node for one in report.layers] == ["expand", "depthwise", "project", "head", "classifier"]


def test_only_weights_and_biases_from_the_first_sparse_layer_on_change() -> None:
    dense = residual_network()
    sparse, report = correct(dense, TWO_OF_FOUR, pictures(6))
    assert set(changed_tensors(dense, sparse)) == {"w1", "b1", "w2", "b2", "w3", "b3", "w4", "w4_bias", "w5", "b5"}
    assert report.added_biases == ("head",)
    for before, after in zip(dense.graph.node, sparse.graph.node, strict=True):
        assert before.name == "head" or before == after


def test_a_kept_layer_stays_dense_and_is_matched() -> None:
    dense = residual_network()
    sparse, report = correct(dense, TWO_OF_FOUR, pictures(6), keep=["project"])
    before, after = (values_of(model)["w3"] for model in (dense, sparse))
    ratio = after / before
    assert np.allclose(ratio, ratio[:, :1], rtol=1e-4) and not np.allclose(ratio, 1.0)  # one factor a row
    assert report.kept == ("project",) and [one.sparse for one in report.layers].count(False) == 2
    assert check_pattern(sparse, TWO_OF_FOUR, ["project"]) == []


def test_keeping_all_layers_changes_nothing() -> None:
    dense = residual_network()
    sparse, report = correct(dense, TWO_OF_FOUR, pictures(2), keep=["expand", "project", "head", "classifier"])
    assert changed_tensors(dense, sparse) == {} and report.layers == ()


def test_the_same_pictures_give_the_same_bytes() -> None:
    first, second = (
        correct(residual_network(), TWO_OF_FOUR, pictures(5))[0].SerializeToString(deterministic=True) for _ in range(2)
    )
    assert first == second


def test_half_precision_stays_half_precision() -> None:
    random = np.random.default_rng(0)
    half = (random.standard_normal((8, 8)) / 3).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "w"], ["m"], name="product"),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    model = model_of(nodes, {"w": half}, [1, 8])
    sparse, _ = correct(model, TWO_OF_FOUR, random.standard_normal((30, 8)).astype(np.float32))
    assert values_of(sparse)["w"].dtype == np.float16 and check_pattern(sparse, TWO_OF_FOUR) == []


def test_a_shared_weight_is_masked_and_said_to_be_uncorrected() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 8, 1, 1)).astype(np.float32)
    nodes = [helper.make_node("Conv", [a, "w"], [b], name=b) for a, b in (("x", "m"), ("m", "y"))]
    sparse, report = correct(model_of(nodes, {"w": weight}, [1, 8, 2, 2]), TWO_OF_FOUR, np.ones((2, 8, 2, 2), "f4"))
    assert [node for node, _ in report.uncorrected] == ["m"] and check_pattern(sparse, TWO_OF_FOUR) == []


def normed(seed: int = 3) -> onnx.ModelProto:
    """A norm, an activation and a convolution, twice; the norms are not folded."""
    random = np.random.default_rng(seed)
    weights: dict[str, Array] = {"low": np.float32(0), "high": np.float32(1.5)}
    nodes, last = [], "x"
    for place in "ab":
        shapes = {"scale": random.random(16) + 0.5, "shift": random.standard_normal(16)}
        shapes |= {"mean": random.standard_normal(16) / 4, "variance": random.random(16) + 0.5}
        weights |= {f"{name}_{place}": value.astype(np.float32) for name, value in shapes.items()}
        weights[f"w_{place}"] = (random.standard_normal((16, 16, 1, 1)) / 4).astype(np.float32)
        norm = [last, *(f"{name}_{place}" for name in shapes)]
        nodes += [
            helper.make_node("BatchNormalization", norm, [f"n_{place}"]),
            helper.make_node("Clip", [f"n_{place}", "low", "high"], [f"a_{place}"]),
            helper.make_node("Conv", [f"a_{place}", f"w_{place}"], [f"c_{place}"], name=f"conv_{place}"),
        ]
        last = f"c_{place}"
    return model_of([*nodes, helper.make_node("Identity", [last], ["y"])], weights, [1, 16, 4, 4])


def test_norms_that_are_not_folded_are_matched_too() -> None:
    """What follows a convolution does not matter: its own output is matched."""
    dense, images = normed(), np.random.default_rng(0).standard_normal((10, 16, 4, 4)).astype(np.float32)
    sparse, report = correct(dense, TWO_OF_FOUR, images, method="match")
    assert report.added_biases == ("conv_a", "conv_b")
    wanted, made = (outputs_of(model.SerializeToString(), images)[0] for model in (dense, sparse))
    for of in (np.mean, np.std):
        assert np.allclose(of(made, axis=(0, 2, 3)), of(wanted, axis=(0, 2, 3)), atol=1e-4)


def test_without_pictures_the_norms_give_the_first_mean_and_deviation_back() -> None:
    """On inputs as the norm expects them."""
    dense, random = normed(), np.random.default_rng(0)
    mean, variance = (values_of(dense)[name][:, None, None] for name in ("mean_a", "variance_a"))
    images = (mean + np.sqrt(variance) * random.standard_normal((800, 16, 4, 4))).astype(np.float32)
    sparse, report = correct(dense, TWO_OF_FOUR, images[:0], method="norms")
    assert [one.node for one in report.layers] == ["conv_a", "conv_b"] and check_pattern(sparse, TWO_OF_FOUR) == []
    pairs = [run(model, "x", [one[None] for one in images], ["c_a"]) for model in (dense, sparse)]
    wanted, made = (np.concatenate([one for (one,) in found]) for found in pairs)
    assert np.allclose(made.mean((0, 2, 3)), wanted.mean((0, 2, 3)), atol=0.03)
    assert np.allclose(made.std((0, 2, 3)), wanted.std((0, 2, 3)), rtol=0.03)


def test_without_norms_nothing_can_be_said_without_pictures() -> None:
    with pytest.raises(PipelineError, match="no batch norm"):
        correct(residual_network(), TWO_OF_FOUR, pictures(0), method="norms")


@settings(deadline=None, max_examples=25)
@given(
    st.floats(-3, 3),
    st.floats(0.1, 3),
    st.sampled_from([(0.0, np.inf), (0.0, 6.0), (-1.0, 1.0), (-np.inf, 0.5), (-np.inf, np.inf)]),
)
def test_a_clipped_normal_variable_has_the_moments_of_its_integral(mean: float, std: float, limits: Any) -> None:
    grid = np.linspace(-9, 9, 40001)
    density = np.exp(-grid * grid / 2)
    density /= density.sum()
    held = np.clip(mean + std * grid, *limits)
    expected = (held * density).sum()
    found = clipped(Channels(np.array([mean]), np.array([std**2])), *limits)
    assert found.mean[0] == pytest.approx(expected, abs=1e-3)
    assert found.variance[0] == pytest.approx((held * held * density).sum() - expected**2, abs=3e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"method": "magic"}, "method"), ({"keep": ["stem"]}, "keep"), ({"images": pictures(0)}, "images")],
)
def test_impossible_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    arguments = {"images": pictures(1), **changes}
    with pytest.raises(ValueError, match=f"^{message}"):
        correct(residual_network(), TWO_OF_FOUR, arguments.pop("images"), **arguments)


# what to leave dense


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(1, 1000)), min_size=1, max_size=12),
    st.floats(0.01, 1.0),
)
def test_the_budget_is_held_and_no_further_layer_fits(found: list[tuple[float, int]], budget: float) -> None:
    sizes = [size for _, size in found]
    left = worst_that_fit([one for one, _ in found], sizes, budget)
    room = (1 - budget) * sum(sizes) - sum(sizes[place] for place in left)
    assert room >= -1e-9 * sum(sizes)
    assert all(size > room for place, size in enumerate(sizes) if place not in left)


def test_divergence_is_zero_for_equal_scores_and_blind_to_a_common_shift() -> None:
    scores = np.random.default_rng(0).standard_normal((5, 7))
    assert divergence(scores, scores + 3.0) == pytest.approx(0, abs=1e-12)
    assert divergence(scores, scores[::-1]) > 0


def test_the_choice_says_what_share_of_weights_and_of_work_is_sparse() -> None:
    dense = onnx.shape_inference.infer_shapes(residual_network())
    chosen = choose_dense(dense, TWO_OF_FOUR, pictures(4), 0.6)
    assert [one.node for one in chosen.layers] == ["expand", "project", "head", "classifier"]
    assert [one.macs for one in chosen.layers] == [128 * 36, 128 * 36, 192 * 36, 144]
    sparse = [one for one in chosen.layers if one.node not in chosen.dense]
    assert chosen.weights_share == sum(one.weights for one in sparse) / 592 >= 0.6 and chosen.dense
    assert chosen.macs_share == sum(one.macs or 0 for one in sparse) / (448 * 36 + 144)
    assert all(one.divergence > 0 for one in chosen.layers)


@pytest.mark.parametrize("budget", [0.0, 1.5, -1.0])
def test_an_impossible_budget_is_refused(budget: float) -> None:
    with pytest.raises(ValueError, match="^budget"):
        choose_dense(residual_network(), TWO_OF_FOUR, pictures(1), budget)


# crops


class Small:
    """A model's preprocessing and no more."""

    def preprocess(self, picture: Path) -> Array:
        with Image.open(picture) as opened:
            return np.asarray(opened.resize((4, 4)), np.float32).transpose(2, 0, 1)[None]


def test_crops_are_those_of_the_seed_and_spread_over_the_pictures(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for place, path in enumerate(paths):
        Image.fromarray(random.integers(100 * place, 100 * place + 90, (30, 20, 3), np.uint8)).save(path)
    model: Any = Small()
    first, again, other = (calibration_images(paths, model, 6, seed) for seed in (0, 0, 1))
    assert first.shape == (6, 3, 4, 4) and np.array_equal(first, again) and not np.array_equal(first, other)
    assert [bool(one.max() < 95) for one in first] == [True, False] * 3
    assert len({one.tobytes() for one in first}) == 6
    with pytest.raises(ValueError, match="^paths"):
        calibration_images([], model, 1)
    with pytest.raises(ValueError, match="^count"):
        calibration_images(paths, model, 0)


def test_activation_norms_are_root_mean_squares_of_what_a_layer_reads() -> None:
    model, random = residual_network(), np.random.default_rng(1)
    images = random.standard_normal((3, 3, 12, 12)).astype(np.float32)
    norms = activation_norms(model, images)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("a0", "a1", "a2"))
    _, first, second, third = (one.astype(np.float64) for one in outputs_of(probe.SerializeToString(), images))
    np.testing.assert_allclose(norms["w1"], [np.sqrt((first**2).mean((0, 2, 3)))], rtol=1e-5)
    np.testing.assert_allclose(norms["w3"], [np.sqrt((third**2).mean((0, 2, 3)))], rtol=1e-5)
    assert norms["w2"].shape == (16, 1)  # a depthwise layer has a group for each channel
    reached = np.pad(second, [(0, 0), (0, 0), (1, 1), (1, 1)])
    by_hand = [
        sum((reached[:, channel, i : i + 6, j : j + 6] ** 2).mean() for i in range(3) for j in range(3)) / 9
        for channel in range(16)
    ]
    np.testing.assert_allclose(norms["w2"][:, 0], np.sqrt(by_hand), rtol=1e-5)


def test_an_order_weighted_by_activation_norms_keeps_more_of_what_they_weigh() -> None:
    model, random = residual_network(), np.random.default_rng(1)
    weighting = activation_norms(model, random.standard_normal((3, 3, 12, 12)).astype(np.float32))
    permuted, report = permute_channels(model, TWO_OF_FOUR, weighting=weighting)
    assert report.weighted
    assert report.retained_after > report.retained_before
    image = random.standard_normal((1, 3, 12, 12)).astype(np.float32)
    for before, after in zip(*(outputs_of(m.SerializeToString(), image) for m in (model, permuted)), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
