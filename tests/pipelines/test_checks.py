"""verify must fail on what is wrong: each fault is put into a good run, and must be named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import MODULE
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from spoiling import Run

from pipelines.checks.agreement import agreement, hits, top_classes
from pipelines.checks.exported import exported_equals_framework
from pipelines.checks.preprocessing import declared
from pipelines.checks.sparse_file import only_pruned
from pipelines.checks.sparse_outputs import sparse_outputs
from pipelines.contract import RunReport, RunRequest
from pipelines.graph.mask import mask_magnitude
from pipelines.models.base import Preprocessing
from pipelines.models.lite0 import EfficientNetLite0
from pipelines.sparsity.pattern import NMPattern

Make = Callable[..., RunRequest]
Go = Callable[..., RunReport]


@pytest.fixture
def good(start: Callable[..., Run]) -> Run:
    return start()


def test_an_unspoiled_run_verifies(good: Run) -> None:
    outcome = good.verify()
    assert (outcome.status, outcome.reason) == ("ok", "")
    saved = json.loads((good.out / "verify.json").read_text())
    assert {one["status"] for one in saved["findings"]} == {"ok"}


def test_a_corrupted_weight_in_the_exported_file_is_found(good: Run) -> None:
    def spoil(values: Any) -> None:
        values.flat[0] += 0.5

    name = good.change_tensor("export/model.onnx", 0, spoil)
    outcome = good.verify()
    assert outcome.status == "failed"
    assert outcome.reason.startswith("exported equals torch: largest difference")
    assert any(name in one["detail"] for one in json.loads((good.out / "verify.json").read_text())["findings"])


def test_a_corrupted_weight_in_the_sparse_file_is_named(good: Run) -> None:
    def spoil(values: Any) -> None:
        place = tuple(np.argwhere(values != 0)[0])
        values[place] *= np.float32(1.0001)  # kept, the pattern still holds, the outputs hardly move

    name = good.change_tensor("sparsify/model.onnx", 2, spoil)
    outcome = good.verify()
    assert outcome.status == "failed"
    assert "sparse file is the dense one, pruned" in outcome.reason
    assert name in outcome.reason


def test_a_corrupted_weight_outside_the_pattern_is_named_too(good: Run) -> None:
    def spoil(values: Any) -> None:
        values.flat[5] = 9.0

    name = good.change_tensor("sparsify/model.onnx", 0, spoil)  # the stem is left dense
    assert name in good.verify().reason


def test_a_broken_group_of_four_is_named_with_layer_row_and_group(good: Run) -> None:
    def spoil(values: Any) -> None:
        values[6, 4:8] = 0.25

    name = good.change_tensor("sparsify/model.onnx", 2, spoil)
    outcome = good.verify()
    assert outcome.status == "failed"
    assert outcome.reason.startswith("2:4 holds in the file: ")
    assert f"({name}), row [6" in outcome.reason
    assert "group 1 (channels 4 to 7) keeps 4 of 4" in outcome.reason


def test_the_wrong_zeros_are_found(good: Run) -> None:
    """2:4 holds, but what was pruned is not what has the least magnitude."""

    def spoil(values: Any) -> None:
        kept = tuple(np.argwhere(values != 0)[0])
        values[kept] = 0

    good.change_tensor("sparsify/model.onnx", 2, spoil)
    assert "neither kept nor pruned" in good.verify().reason


@pytest.mark.parametrize(
    ("fault", "change"),
    [
        ("wrong mean", lambda images: images + np.float32(1 / 128)),
        ("BGR", lambda images: np.ascontiguousarray(images[:, ::-1])),
        ("shifted crop", lambda images: np.roll(images, 1, axis=3)),
        ("pictures swapped", lambda images: np.ascontiguousarray(images[::-1])),
        ("NaN", lambda images: np.where(np.arange(images.size).reshape(images.shape) == 7, np.nan, images)),
    ],
)
def test_a_wrong_preprocessing_is_found(good: Run, fault: str, change: Callable[[Any], Any]) -> None:
    good.change_images(lambda images: change(images).astype(np.float32))
    outcome = good.verify()
    assert outcome.status == "failed", fault
    assert outcome.reason.startswith("preprocessing repeats: largest difference"), outcome.reason
    assert ".png" in outcome.reason


def test_functions_of_a_module_that_disagree_are_found(request_for: Make, run_all: Go) -> None:
    other = MODULE.replace("return image_preprocess(path).transpose", "return -image_preprocess(path).transpose")
    report = run_all(request_for(module=other))
    stage = next(stage for stage in report.stages if stage.name == "verify")
    assert stage.status == "failed"
    assert stage.reason.startswith("onnx_preprocess equals image_preprocess: largest difference")


def test_a_graph_that_differs_in_more_than_weights_is_found(good: Run) -> None:
    path = good.inputs["sparsify/model.onnx"]
    model = onnx.load(str(path))
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Sigmoid"
    onnx.save(model, str(path))
    reason = good.verify().reason
    assert "node " in reason and "Relu" in reason and " differs" in reason


def test_versions_that_differ_are_found(good: Run) -> None:
    dense = onnx.load(str(good.inputs["export/model.onnx"]))
    sparse, _ = mask_magnitude(dense, NMPattern(2, 4))
    sparse.ir_version -= 1
    assert "nodes, inputs, outputs or versions" in only_pruned(dense, sparse, NMPattern(2, 4)).detail


def test_a_sparse_file_that_does_not_run_is_found_and_its_fault_named(good: Run) -> None:
    path = good.inputs["sparsify/model.onnx"]
    model = onnx.load(str(path))
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "NoSuchOperator"
    onnx.save(model, str(path))
    reason = good.verify().reason
    assert reason.startswith("sparse file is the dense one, pruned: node ")
    assert reason.endswith("differs (and 1 more)")
    assert "the file does not run: " in (good.out / "verify.json").read_text()


def test_sparse_outputs_of_another_shape_are_found(good: Run) -> None:
    images = np.load(good.inputs["preprocess/inputs.npz"])["images"]
    file = good.inputs["sparsify/model.onnx"]
    outputs, finding = sparse_outputs(file, images, [np.zeros((2, 11))], lambda done, total: None)
    assert (outputs, finding.status) == ([], "failed")
    assert finding.detail == "outputs of shapes [[2, 10]], not [[2, 11]]"


def test_outputs_that_are_not_finite_are_found(good: Run) -> None:
    def spoil(values: Any) -> None:
        values[:] = np.inf

    good.change_tensor("sparsify/model.onnx", 2, spoil)
    outcome = good.verify()
    assert outcome.status == "failed"
    numbers = ("agreement_top1", "cosine", "cosine_centred", "sparse_max_abs_diff")
    assert [outcome.facts[name] for name in numbers] == [None] * 4  # undefined is None, never NaN
    text = (good.out / "verify.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    findings = {one["name"]: one["status"] for one in json.loads(text)["findings"]}
    assert findings["sparse outputs are finite"] == "failed"


def test_without_labels_or_real_weights_accuracy_is_skipped_with_its_reason(good: Run) -> None:
    facts = good.verify().facts
    assert facts["dense_top1"] is None
    assert facts["accuracy_reason"] == "weights: random"


# the declaration, checked against the models' own code on the locked pictures


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vit_b_16"])
def test_the_declaration_gives_torchvision_s_own_tensors(locked_data: Path, name: str) -> None:
    from pipelines.models.tv import TorchvisionModel

    model = TorchvisionModel(f"onnx_tv_{name}")
    for picture in sorted(locked_data.glob("*/*/data/*.[jp][pn]g"))[::5]:
        difference = np.abs(model.preprocess(picture) - declared(picture, model.preprocessing())).max()
        assert difference <= 1e-5, picture.name


def test_the_declaration_of_lite0_gives_its_own_tensors(locked_data: Path) -> None:
    model = EfficientNetLite0()
    for picture in sorted(locked_data.glob("*/*/data/*.[jp][pn]g"))[::5]:
        assert np.abs(model.preprocess(picture) - declared(picture, model.preprocessing())).max() <= 1e-5


def test_the_declaration_of_a_grey_square_is_arithmetic(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), (51, 102, 204)).save(tmp_path / "grey.png")
    how = Preprocessing(
        order="resize-crop", resize=20, crop=10, interpolation="bilinear", scale=255.0, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    tensor = declared(tmp_path / "grey.png", how)
    assert tensor.shape == (1, 3, 10, 10)
    assert np.allclose(tensor[0, :, 4, 4], [-1.2, -0.4, 1.2])


# agreement, in numbers that can be checked by hand


def test_agreement_of_equal_outputs_is_whole() -> None:
    outputs = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)
    found = agreement(outputs, outputs)
    assert (found.top1, found.max_abs_diff) == (1.0, 0.0)
    assert found.cosine == pytest.approx(1.0)
    assert found.cosine_centred == pytest.approx(1.0)


def test_agreement_by_hand() -> None:
    found = agreement(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 1.0], [0.0, 2.0]]))
    assert (found.top1, found.cosine, found.max_abs_diff) == (0.5, 0.5, 1.0)


def test_what_is_undefined_is_none_and_never_nan() -> None:
    found = agreement(np.zeros((1, 1)), np.ones((1, 1)))
    assert (found.top1, found.cosine, found.cosine_centred) == (None, None, None)


@given(st.permutations(range(7)))
def test_the_best_classes_are_sorted_scores(order: list[int]) -> None:
    scores = np.array([order], np.float32)
    assert [order[place] for place in top_classes(scores)[0]] == [6, 5, 4, 3, 2]
    assert hits(top_classes(scores), [order.index(5)], within=1) == 0
    assert hits(top_classes(scores), [order.index(5)], within=5) == 1
    assert hits(top_classes(scores), [None], within=5) == 0


@given(st.floats(1e-12, 1e6))
def test_a_difference_that_matters_fails_at_any_scale(scale: float) -> None:
    """Random networks may answer with tiny numbers: a fixed limit would let anything pass."""
    reference = [np.array([[scale, 0.0]])]
    assert exported_equals_framework([np.array([[scale, scale * 1e-3]])], reference).status == "failed"
    assert exported_equals_framework([np.array([[scale * (1 + 1e-6), 0.0]])], reference).status == "ok"


def test_equal_scores_rank_nothing() -> None:
    assert agreement(np.zeros((2, 5)), np.zeros((2, 5))).top1 is None
