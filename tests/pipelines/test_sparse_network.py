"""Running from compressed weights: the compiled kernels against NumPy, whole graphs against onnxruntime, and faults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from random_graphs import networks
from small_networks import pictures

from pipelines import native
from pipelines.checks.sparse_equals_dense import sparse_equals_dense
from pipelines.executor import evaluate, kernels, network
from pipelines.executor.network import SparseNetwork
from pipelines.executor.panels import pack
from pipelines.graph.mask import mask_magnitude
from pipelines.sparsity.compressed import compress
from pipelines.sparsity.gpu import run_on_gpu
from pipelines.sparsity.pattern import NMPattern

compiled = pytest.mark.skipif(native.load() is None, reason=native.why_missing() or "compiled")


def model_of(nodes: list[Any], shape: tuple[int, ...], **tensors: Any) -> onnx.ModelProto:
    held = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "g", [x], [onnx.ValueInfoProto(name="y")], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def floats(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def masked(pattern: NMPattern, axis: int, *shape: int, seed: int = 0) -> Any:
    dense = floats(*shape, seed=seed)
    return np.where(pattern.mask(dense, axis), dense, np.float32(0))


def same_as_exact(model: onnx.ModelProto, x: Any, pattern: NMPattern, runs: int = 2) -> SparseNetwork:
    """Twice: buffers of the first run are used again by the second."""
    made = SparseNetwork(model, pattern)
    exact = evaluate(model, {"x": x})["y"]
    for _ in range(runs):
        found = made.run({"x": x.copy()})["y"]
        assert found.shape == exact.shape
        assert np.abs(found - exact).max(initial=0) <= 1e-5 * max(1, np.abs(exact).max(initial=0))
    return made


@compiled
@settings(deadline=None, max_examples=120)
@given(st.data())
def test_any_convolution_equals_its_float64_value(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels = data.draw(st.sampled_from([1, 3, 4, 8, 10, 20])) * groups
    filters = data.draw(st.sampled_from([1, 7, 16, 17, 48, 80])) * groups
    kernel = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    size = data.draw(st.tuples(st.integers(5, 9), st.integers(5, 9)))
    pattern = data.draw(
        st.sampled_from([NMPattern(*pair) for pair in [(1, 2), (2, 4), (1, 4), (3, 4), (4, 8), (2, 8)]])
    )
    attributes = {
        "group": groups,
        "strides": data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        "dilations": data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        "pads": data.draw(st.tuples(*[st.integers(0, 2)] * 4)),
    }
    after = data.draw(st.sampled_from(["nothing", "relu", "clip", "residual", "residual relu", "broadcast relu"]))
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y" if after == "nothing" else "h"], **attributes)]
    tensors = {"low": np.array(-0.5, np.float32), "high": np.array(1, np.float32)}
    if "residual" in after:  # a second convolution of the same shape, whose value is added
        nodes.append(helper.make_node("Conv", ["x", "v"], ["other"], **attributes))
        nodes.append(helper.make_node("Add", ["other", "h"], ["y" if after == "residual" else "sum"]))
        tensors["v"] = masked(pattern, 1, filters, channels // groups, *kernel, seed=3)
    if after == "broadcast relu":
        nodes.append(helper.make_node("GlobalAveragePool", ["h"], ["mean"]))
        nodes.append(helper.make_node("Relu", ["mean"], ["level"]))
        nodes.append(helper.make_node("Add", ["level", "h"], ["sum"]))
    if after.endswith("relu"):
        nodes.append(helper.make_node("Relu", ["h" if after == "relu" else "sum"], ["y"]))
    if after == "clip":
        nodes.append(helper.make_node("Clip", ["h", "low", "high"], ["y"]))
    weight = masked(pattern, 1, filters, channels // groups, *kernel, seed=1)
    batch = data.draw(st.integers(1, 2))
    model = model_of(nodes, (batch, channels, *size), w=weight, b=floats(filters, seed=2), **tensors)
    same_as_exact(model, floats(batch, channels, *size), pattern)


@compiled
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_product_equals_its_float64_value(data: st.DataObject) -> None:
    channels, rows = data.draw(st.sampled_from([4, 6, 32])), data.draw(st.sampled_from([1, 16, 33, 100]))
    kind = data.draw(st.sampled_from(["Gemm", "Gemm transposed", "MatMul"]))
    pattern = data.draw(st.sampled_from([NMPattern(2, 4), NMPattern(3, 4), NMPattern(4, 8)]))
    weight = masked(pattern, 0, channels, rows)
    bias = floats(rows, seed=2)
    if kind == "MatMul":
        x = floats(2, 3, channels, seed=1)
        nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["b", "h"], ["s"])]
    else:
        x = floats(data.draw(st.integers(1, 6)), channels, seed=1)
        transposed = kind.endswith("transposed")
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["s"], transB=int(transposed))]
        weight = np.ascontiguousarray(weight.T) if transposed else weight
    nodes.append(helper.make_node("Relu", ["s"], ["y"]))
    same_as_exact(model_of(nodes, x.shape, w=weight, b=bias), x, pattern)


@compiled
@pytest.mark.parametrize("after", ["", "Relu"])
@pytest.mark.parametrize("other", ["Abs", "GlobalAveragePool"])  # of the output's shape; broadcast
def test_what_is_added_to_a_depthwise_convolution_is_not_lost(other: str, after: str) -> None:
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["h"], group=4)]
    nodes.append(helper.make_node(other, ["x"], ["other"]))
    nodes.append(helper.make_node("Add", ["other", "h"], ["sum" if after else "y"]))
    nodes += [helper.make_node(after, ["sum"], ["y"])] if after else []
    weights = {"w": floats(4, 1, 1, 1, seed=1), "b": floats(4, seed=2)}
    made = same_as_exact(model_of(nodes, (1, 4, 5, 5), **weights), floats(1, 4, 5, 5), NMPattern(2, 4))
    assert made.kinds[0].kernel == "depthwise"


@compiled
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_depthwise_convolution_and_max_pool_equal_their_float64_value(data: st.DataObject) -> None:
    channels = data.draw(st.sampled_from([4, 16, 20, 35]))
    size = data.draw(st.tuples(st.integers(6, 19), st.integers(6, 19)))
    strides = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pads = data.draw(st.tuples(*[st.integers(0, 2)] * 4))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], group=channels, strides=strides, pads=pads, dilations=[1, 2]),
        helper.make_node("MaxPool", ["h"], ["p"], kernel_shape=[2, 2], pads=[1, 0, 0, 1], ceil_mode=1),
        helper.make_node("Conv", ["p", "v"], ["y"]),
    ]
    tensors = {"w": floats(channels, 1, 3, 2, seed=1), "v": masked(NMPattern(2, 4), 1, 8, channels, 1, 1, seed=2)}
    made = same_as_exact(model_of(nodes, (1, channels, *size), **tensors), floats(1, channels, *size), NMPattern(2, 4))
    assert made.kinds[0].kernel == "depthwise"


def small_network() -> onnx.ModelProto:
    """A residual block with a padded convolution, a branch of its own shape, and a classifier."""
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "d"], ["s"]),
        helper.make_node("Add", ["c", "s"], ["t"]),
        helper.make_node("Relu", ["t"], ["u"]),
        helper.make_node("GlobalAveragePool", ["u"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "e"], ["y"], transB=1),
    ]
    tensors = {"a": floats(32, 8, 3, 3), "b": floats(32, 32, 3, 3, seed=1), "d": floats(32, 8, 1, 1, seed=2)}
    made, _ = mask_magnitude(model_of(nodes, (1, 8, 9, 9), **tensors, e=floats(10, 32, seed=3)), NMPattern(2, 4))
    return made


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.sampled_from([NMPattern(2, 4), NMPattern(1, 4), NMPattern(4, 8)]))
def test_any_network_equals_its_float64_value(model: onnx.ModelProto, pattern: NMPattern) -> None:
    made = mask_magnitude(model, pattern)[0]
    network, feeds = SparseNetwork(made, pattern), {"x": pictures(model, 1)}
    exact = evaluate(made, feeds)
    for _ in range(2):
        found = network.run(feeds)
        for name, value in exact.items():
            limit = 1e-4 * max(1, np.abs(value).max(initial=0))
            np.testing.assert_allclose(found[name], value, rtol=0, atol=limit, err_msg=name)


@compiled
def test_what_follows_a_layer_is_run_with_it() -> None:
    made = same_as_exact(small_network(), floats(1, 8, 9, 9), NMPattern(2, 4), runs=3)
    assert [(kind.kernel, kind.slots) for kind in made.kinds] == [("nm", 2)] * 4
    assert sum(kind.weight_bytes for kind in made.kinds[:3]) == 0.53125 * 4 * (32 * 8 * 9 + 32 * 32 * 9 + 32 * 8)


@compiled
def test_another_size_of_input_and_the_first_one_again() -> None:
    model, made = small_network(), SparseNetwork(small_network(), NMPattern(2, 4))
    for size in ((9, 9), (7, 12), (9, 9)):
        x = floats(1, 8, *size, seed=size[0])
        exact = evaluate(model, {"x": x})["y"]
        assert np.abs(made.run({"x": x})["y"] - exact).max() < 1e-5 * np.abs(exact).max()


@compiled
@pytest.mark.parametrize("level", native.levels())
def test_every_level_computes_the_same_network(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = native.load(level)
    kernels.kernel.cache_clear()
    monkeypatch.setattr(kernels, "load", lambda: library)
    same_as_exact(small_network(), floats(1, 8, 9, 9), NMPattern(2, 4))
    kernels.kernel.cache_clear()


def test_without_kernels_it_runs_in_numpy_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "load", lambda: None)
    monkeypatch.setattr(network, "why_missing", lambda: "nothing was compiled")
    made = same_as_exact(small_network(), floats(1, 8, 9, 9), NMPattern(2, 4))
    assert made.announcement == "no compiled kernels: nothing was compiled; running in NumPy"
    assert made.kinds == []


def test_panels_hold_what_the_weight_holds() -> None:
    weight = masked(NMPattern(2, 4), 1, 100, 8, 3)
    made = pack(weight)
    assert (made.slots, made.values.size, made.control.size) == (2, 112 * 4 * 3, 7 * 4 * 3)
    lanes, dense = np.arange(16, dtype=np.uint32) * 2, np.zeros((112, 8, 3), np.float32)
    values, control, first = made.values, made.control, 0
    for blocks in (4, 2, 1):  # seven blocks of 16 rows
        count = 3 * 2 * 2 * blocks
        which = (control[:count, None] >> lanes & 3).reshape(3, 2, 2, blocks, 16)
        each = values[: count * 16].reshape(which.shape)
        for (tap, group, slot, block, lane), place in np.ndenumerate(which):
            dense[(first + block) * 16 + lane, 4 * group + place, tap] += each[tap, group, slot, block, lane]
        values, control, first = values[count * 16 :], control[count:], first + blocks
    assert np.array_equal(dense[:100], weight)


@pytest.mark.parametrize("pattern", [NMPattern(2, 4), NMPattern(4, 8)])
def test_the_check_holds_for_a_masked_network(pattern: NMPattern) -> None:
    model, _ = mask_magnitude(small_network(), pattern)
    found = sparse_equals_dense(model, pattern, floats(2, 8, 9, 9))
    assert found.status == "ok", found.detail
    assert "4 compressed weights" in found.detail


@pytest.mark.parametrize("fault", ["a swapped index", "a shifted axis", "a changed value"])
def test_the_check_finds_a_fault_of_the_compressed_form(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(weight: Any, pattern: NMPattern, axis: int) -> Any:
        made = compress(weight, pattern, axis)
        if fault == "a swapped index":
            metadata = made.metadata.copy()
            metadata[0] ^= 0x0C  # the second index of the first group
            return replace(made, metadata=metadata)
        if fault == "a shifted axis":
            return replace(made, values=np.roll(made.values, 1, axis=0))
        values = made.values.copy()
        values.reshape(-1)[0] += 1
        return replace(made, values=values)

    monkeypatch.setattr(network, "compress", faulty)
    found = sparse_equals_dense(small_network(), NMPattern(2, 4), floats(1, 8, 9, 9))
    assert found.status == "failed"
    assert "largest difference" in found.detail and "y [" in found.detail and "picture 0" in found.detail


def test_the_check_is_skipped_with_its_reason_where_nothing_can_be_said() -> None:
    dense = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], (1, 8, 4, 4), w=floats(8, 8, 1, 1))
    found = sparse_equals_dense(dense, NMPattern(2, 4), floats(1, 8, 4, 4))
    assert (found.status, found.detail) == ("skipped", "no weight holds 2:4")
    dense.graph.node[0].op_type = "Mystery"
    found = sparse_equals_dense(dense, NMPattern(2, 4), floats(1, 8, 4, 4))
    assert found.status == "skipped"
    assert "the operator Mystery is not known" in found.detail


def test_a_gpu_without_sparse_units_is_skipped_with_its_reason() -> None:
    import torch

    if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0):
        pytest.skip("this machine has such a GPU")
    found = run_on_gpu(masked(NMPattern(2, 4), 1, 64, 64), floats(8, 64))
    assert found.status == "skipped"
    assert found.reason
    assert found.outputs is None
