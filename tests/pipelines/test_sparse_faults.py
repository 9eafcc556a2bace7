"""Each way in which a reordered, masked or corrected file can be wrong is put into a good run, and must be named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import pictures
from onnx import numpy_helper
from spoiling import Run

from pipelines.contract import CORRECTIONS, PICTURED, RunReport, RunRequest
from pipelines.graph.groups import channel_groups
from pipelines.sparsity.pattern import NMPattern

PATTERN = NMPattern(2, 4)
Start = Callable[..., Run]


def tensor(model: onnx.ModelProto, name: str) -> Any:
    return next(numpy_helper.to_array(one) for one in model.graph.initializer if one.name == name)


def moved_bias(run: Run) -> str:
    """A bias that reordering moved."""
    exported, permuted = (onnx.load(str(run.inputs[name])) for name in ("export/model.onnx", "sparsify/permuted.onnx"))
    return next(
        one.name
        for one in exported.graph.initializer
        if len(one.dims) == 1 and not np.array_equal(numpy_helper.to_array(one), tensor(permuted, one.name))
    )


def first_sparse(run: Run) -> tuple[str, int]:
    """The first weight with the pattern, and its input-channel axis."""
    record = json.loads(run.inputs["sparsify/sparsify.json"].read_text())
    return record["layers"][0]["initializer"], record["layers"][0]["axis"]


# reordering


def test_a_producer_that_is_reordered_without_its_bias_is_found(start: Start) -> None:
    run = start()
    name = moved_bias(run)
    as_exported = tensor(onnx.load(str(run.inputs["export/model.onnx"])), name)
    for file in ("sparsify/permuted.onnx", "sparsify/model.onnx"):  # or the pruned file would tell
        run.set_tensor(file, name, lambda values: as_exported)
    outcome = run.verify()
    assert outcome.status == "failed"
    assert outcome.reason.startswith("reordered file is the original, its channels reordered: ")
    assert name in outcome.reason
    failed = {one["name"]: one["detail"] for one in run.findings() if one["status"] == "failed"}
    assert "first in" in failed["reordered equals original in float64"]
    assert "sparse file is the dense one, pruned" not in failed


def test_a_consumer_with_two_channels_swapped_is_found(start: Start) -> None:
    run = start()
    name, axis = first_sparse(run)

    def swapped(values: Any) -> Any:
        order = np.arange(values.shape[axis])
        order[[0, 1]] = 1, 0  # inside one group of four: the pattern still holds
        return np.take(values, order, axis)

    for file in ("sparsify/permuted.onnx", "sparsify/model.onnx"):
        run.set_tensor(file, name, swapped)
    outcome = run.verify()
    assert outcome.reason.startswith("reordered file is the original, its channels reordered: ")
    assert name in outcome.reason
    assert "reordered equals original in float64" in [
        one["name"] for one in run.findings() if one["status"] == "failed"
    ]


def test_an_order_that_is_not_the_file_s_is_found(start: Start) -> None:
    run = start()
    path = run.inputs["sparsify/permutation.json"]
    record = json.loads(path.read_text())
    record["groups"][0]["permutation"][:2] = reversed(record["groups"][0]["permutation"][:2])
    path.write_text(json.dumps(record))
    assert run.verify().reason.startswith("reordered file is the original, its channels reordered: ")


def test_an_order_that_is_none_is_found(start: Start) -> None:
    run = start()
    path = run.inputs["sparsify/permutation.json"]
    record = json.loads(path.read_text())
    record["groups"][0]["permutation"][0] = record["groups"][0]["permutation"][1]
    path.write_text(json.dumps(record))
    assert run.verify().reason.startswith("reordered file is the original, its channels reordered: ")


# masks


def shifted(dense: Any, axis: int) -> Any:
    return np.where(np.roll(PATTERN.mask(dense, axis), 1, axis), dense, np.float32(0))


def rolled_groups(dense: Any, axis: int) -> Any:
    return np.where(np.roll(PATTERN.mask(dense, axis), 4, axis), dense, np.float32(0))


def along_outputs(dense: Any, axis: int) -> Any:
    return np.where(PATTERN.mask(dense, 0 if axis else 1), dense, np.float32(0))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (shifted, "2:4 holds in the file: "),
        (along_outputs, "2:4 holds in the file: "),
        (rolled_groups, "sparse file is"),
    ],
)
def test_a_mask_that_is_off_by_one_channel_or_along_the_wrong_axis_is_found(
    start: Start, fault: Callable[[Any, int], Any], said: str
) -> None:
    run = start()
    name, axis = first_sparse(run)
    dense = tensor(onnx.load(str(run.inputs["sparsify/permuted.onnx"])), name)
    run.set_tensor("sparsify/model.onnx", name, lambda values: fault(dense, axis))
    outcome = run.verify()
    assert outcome.status == "failed"
    assert outcome.reason.startswith(said)
    assert name in outcome.reason


def test_a_layer_left_dense_that_nobody_asked_for_is_found(start: Start) -> None:
    run = start()
    name, _ = first_sparse(run)
    dense = tensor(onnx.load(str(run.inputs["sparsify/permuted.onnx"])), name)
    run.set_tensor("sparsify/model.onnx", name, lambda values: dense)
    path = run.inputs["sparsify/sparsify.json"]
    record = json.loads(path.read_text())
    record["keep"] = [record["layers"][0]["node"]]  # what the record says is no excuse
    path.write_text(json.dumps(record))
    assert run.verify().reason.startswith("2:4 holds in the file: ")


def test_a_layer_that_is_kept_by_name_stays_as_it_was(start: Start) -> None:
    run = start(keep=("*Gemm*",))
    assert run.verify().status == "ok"
    record = json.loads(run.inputs["sparsify/sparsify.json"].read_text())
    (kept,) = [one for one in record["left_dense"] if one["reason"] == "kept dense, as asked"]
    run.set_tensor(
        "sparsify/model.onnx", kept["initializer"], lambda values: np.where(values > 0, values, np.float32(0))
    )
    assert kept["initializer"] in run.verify().reason


def test_a_budget_that_is_not_reached_is_found(start: Start, data: Any) -> None:
    run = start(budget=0.5, calibration=pictures(data, "calibration"))
    assert run.verify().status == "ok"
    record = json.loads(run.inputs["sparsify/sparsify.json"].read_text())
    (sparse,) = record["layers"]
    run.inputs["sparsify/sparsify.json"].write_text(json.dumps({**record, "keep": [*record["keep"], sparse["node"]]}))
    assert run.verify().reason.startswith("budget is reached: 2:4 on 0.00% of the weights that could have it")


# correction


@pytest.mark.parametrize("method", ["match", "obs"])
def test_a_corrected_file_verifies_and_a_corrupted_weight_or_bias_in_it_is_named(
    start: Start, data: Any, method: str
) -> None:
    run = start(correct=method, calibration=pictures(data, "calibration"))
    good = run.verify()
    assert (good.status, good.reason) == ("ok", "")
    name, _ = first_sparse(run)
    run.set_tensor("sparsify/model.onnx", name, lambda values: values * np.float32(1.0001))
    assert run.verify().reason == (
        f"sparse file is the dense one, pruned and corrected: {name} is not what correction left"
    )


def test_a_corrected_file_whose_record_was_made_to_fit_still_has_to_have_its_zeros(start: Start, data: Any) -> None:
    from pipelines.graph.tensors import fingerprint

    run = start(correct="match", calibration=pictures(data, "calibration"))
    name, axis = first_sparse(run)
    dense = tensor(onnx.load(str(run.inputs["sparsify/permuted.onnx"])), name)
    wrong = rolled_groups(dense, axis)
    run.set_tensor("sparsify/model.onnx", name, lambda values: wrong)
    path = run.inputs["sparsify/sparsify.json"]
    record = json.loads(path.read_text())
    record["corrected"][name] = fingerprint(wrong)
    path.write_text(json.dumps(record))
    assert f"values of {name} should be zero, the first at" in run.verify().reason


def test_a_tensor_that_is_no_layer_s_is_no_correction(start: Start, data: Any) -> None:
    from pipelines.checks.corrected_file import pruned_and_corrected
    from pipelines.graph.tensors import changed_tensors

    run = start(correct="match", calibration=pictures(data, "calibration"))
    dense, sparse = (onnx.load(str(run.inputs[f"sparsify/{name}.onnx"])) for name in ("permuted", "model"))
    for model in (dense, sparse):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "other"))
    sparse.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.zeros(2, np.float32), "other"))
    record = json.loads(run.inputs["sparsify/sparsify.json"].read_text())
    record["corrected"] = changed_tensors(dense, sparse)
    finding = pruned_and_corrected(dense, sparse, PATTERN, (), record)
    assert finding.detail == "other is no weight and no bias, and differs from the dense file"


# what a run leaves


def test_a_run_leaves_its_orders_its_layers_and_what_they_cost(start: Start) -> None:
    run = start(gather=True)
    report: RunReport = run.report
    facts = next(stage.facts for stage in report.stages if stage.name == "sparsify")
    assert facts["groups_permuted"] == 2
    assert facts["retained_reordered_share"] > facts["retained_as_exported_share"]  # type: ignore[operator]
    assert facts["retained_magnitude_share"] == pytest.approx(facts["retained_reordered_share"])
    assert facts["compressed_bytes"] < facts["dense_weights_bytes"]  # type: ignore[operator]
    assert facts["gather_nodes"] > 0  # type: ignore[operator]
    exported = onnx.load(str(run.inputs["export/model.onnx"]))
    told = json.loads(run.inputs["sparsify/permutation.json"].read_text())
    names = [one["name"] for one in (*told["groups"], *told["unpermuted"])]
    assert sorted(names) == sorted(group.name for group in channel_groups(exported))
    assert all(one["reason"] for one in told["unpermuted"])


def test_the_same_request_leaves_the_same_bytes(
    request_for: Callable[..., RunRequest], run_all: Callable[..., RunReport]
) -> None:
    reports = [run_all(request_for(number, use_cache=False)) for number in (1, 2)]
    first, second = ({a.path: a.sha256 for a in report.artifacts} for report in reports)
    assert first == second


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keep": ("/no/such",)}, "--keep: no layer that takes 2:4 is called '/no/such'"),
        ({"keep": ("*",)}, "--keep leaves every layer dense; name fewer"),
        ({"correct": "match"}, "--correct and --keep auto need calibration pictures"),
        ({"correct": "norms"}, "no batch norm is left in the file"),
        ({"sparsity": "2:32"}, "no layer can follow 2:32"),
    ],
)
def test_what_can_not_be_done_is_one_line(
    request_for: Callable[..., RunRequest], run_all: Callable[..., RunReport], changes: dict[str, Any], said: str
) -> None:
    report = run_all(request_for(**changes))
    stage = next(stage for stage in report.stages if stage.name == "sparsify")
    assert (stage.status, report.ok) == ("failed", False)
    assert stage.reason.startswith(said)


def test_the_letterbox_names_the_corrections_that_there_are() -> None:
    from pipelines.sparsity import reconstruct

    assert (CORRECTIONS, PICTURED) == (reconstruct.METHODS, reconstruct.PICTURED)
