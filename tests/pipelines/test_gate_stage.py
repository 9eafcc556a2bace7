"""The check stage: what it hands to the converter, when it fails, and that one line says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import stand_in_tool
from conftest import by_name
from onnx import numpy_helper

from pipelines import vendors
from pipelines.arrays import load_arrays
from pipelines.contract import GateFinding, RunReport, RunRequest, VendorOptions
from pipelines.gate import mend as mending
from pipelines.graph.fix import Goal
from pipelines.graph.weights import check_pattern
from pipelines.inference import load_outputs, outputs_of
from pipelines.runner import run
from pipelines.sparsity.pattern import NMPattern
from pipelines.stages import plan
from pipelines.vendors import rules
from pipelines.vendors.limits import Limits

NAME = "stand-in"
GOOD = stand_in_tool.LIMITS
SMALL = replace(GOOD, rules=(rules.kernel_area("Conv", 1, "documentation"),))  # the network's kernels are 3x3
OLD = replace(GOOD, opset=(9, 11), ir_version=6)


@pytest.fixture
def gate(
    request_for: Callable[..., RunRequest], workspace: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunReport]:
    """Runs the plan up to the gate, with the stand-in tool's limits as given."""
    monkeypatch.setitem(vendors.MODULES, NAME, "stand_in_tool")

    def go(limits: Limits = GOOD, number: int = 1, **options: Any) -> RunReport:
        monkeypatch.setattr(stand_in_tool, "VENDOR", stand_in_tool.StandIn(limits=limits))
        request = request_for(number, vendor=VendorOptions(vendor=NAME, **options), use_cache=False)
        stages = [one for one in plan(request) if one.name not in ("verify", "convert", "collect")]
        return run(request, stages, workspace, data, lambda event: None)

    return go


def made(report: RunReport, workspace: Path) -> Path:
    return workspace / report.run_folder / "artifacts"


def findings(report: RunReport, workspace: Path) -> list[GateFinding]:
    return msgspec.json.decode((made(report, workspace) / "check/check.json").read_bytes(), type=list[GateFinding])


def test_an_environment_without_a_toolchain_skips_it(run_all: Any, request_for: Any) -> None:
    stage = by_name(run_all(request_for()))["check"]
    assert (stage.status, stage.reason) == ("skipped", "environment test has no toolchain")


def test_networks_within_the_limits_are_handed_over_as_they_are(
    gate: Callable[..., RunReport], workspace: Path
) -> None:
    report = gate(unstructured=0.75)
    stage = by_name(report)["check"]
    assert stage.status == "ok", stage.reason
    assert stage.facts == {"gate_findings": 0, "gate_errors": 0, "gate_warnings": 0, "gate_fixed": 0}
    folder = made(report, workspace)
    for form, source in (("dense", "export"), ("sparse", "sparsify")):
        assert (folder / f"check/{form}.onnx").read_bytes() == (folder / f"{source}/model.onnx").read_bytes()
    images = load_arrays(folder / "preprocess/inputs.npz")["images"]
    for form in ("dense", "sparse", "unstructured"):
        expected = outputs_of(folder / f"check/{form}.onnx", images)
        for left, right in zip(load_outputs(folder / f"check/{form}.npz"), expected, strict=True):
            np.testing.assert_array_equal(left, right)
    assert findings(report, workspace) == []


def test_unstructured_zeros_lie_in_the_layers_that_the_pattern_covers(
    gate: Callable[..., RunReport], workspace: Path
) -> None:
    folder = made(gate(unstructured=0.75), workspace) / "check"
    dense, sparse, other = (onnx.load(str(folder / f"{form}.onnx")) for form in ("dense", "sparse", "unstructured"))
    for before, pattern, zeros in zip(*(one.graph.initializer for one in (dense, sparse, other)), strict=True):
        kept, covered, array = (numpy_helper.to_array(one) for one in (before, pattern, zeros))
        if array.ndim > 1 and not covered.all():
            assert np.count_nonzero(array == 0) == round(0.75 * array.size)
            assert np.abs(kept[array == 0]).max() <= np.abs(array[array != 0]).min()
        else:
            np.testing.assert_array_equal(array, kept)


def test_an_error_fails_the_stage_in_one_line_and_its_findings_are_kept(
    gate: Callable[..., RunReport], workspace: Path
) -> None:
    report = gate(SMALL)
    stage = by_name(report)["check"]
    found = findings(report, workspace)
    assert stage.status == "failed"
    assert stage.facts["gate_errors"] == len(found) > 2
    first = found[0]
    assert stage.reason == (
        f"dense: {first.node} (Conv): kernel 3x3: at most 1 in all; use a smaller kernel (and {len(found) - 1} more)"
    )
    assert {one.form for one in found} == {"dense", "sparse"}


def test_a_warning_never_fails_it(gate: Callable[..., RunReport]) -> None:
    warned = replace(GOOD, rules=(rules.kernel_area("Conv", 1, "documentation", severity="warning"),))
    stage = by_name(gate(warned))["check"]
    assert stage.status == "ok"
    assert stage.facts["gate_warnings"] == stage.facts["gate_findings"] != 0


def test_what_can_be_mended_fails_until_it_is_asked_for(gate: Callable[..., RunReport], workspace: Path) -> None:
    stage = by_name(gate(OLD))["check"]
    assert stage.status == "failed"
    assert stage.reason.startswith("dense: opset 13: 9 to 11 is taken; export it at opset 11; --fix mends it (and ")
    report = gate(OLD, number=2, fix=True, unstructured=0.75)
    stage = by_name(report)["check"]
    assert stage.status == "ok", stage.reason
    assert (stage.facts["gate_fixed"], stage.facts["gate_errors"]) == (6, 0)
    folder = made(report, workspace)
    for form in ("dense", "sparse", "unstructured"):
        model = onnx.load(str(folder / f"check/{form}.onnx"))
        assert (model.opset_import[0].version, model.ir_version) == (11, 6)
    sparse = onnx.load(str(folder / "check/sparse.onnx"))
    assert check_pattern(sparse, NMPattern(2, 4)) == []
    changes = json.loads((folder / "check/mended.json").read_text())
    assert changes["sparse"] == ["convert_opset: opset 13 is 11", "convert_ir: IR 7 is 6"]


def test_a_mend_that_fills_the_zeros_is_refused(
    gate: Callable[..., RunReport], monkeypatch: pytest.MonkeyPatch, workspace: Path
) -> None:
    def fills(model: onnx.ModelProto, goal: Goal) -> tuple[onnx.ModelProto, list[str]]:
        changed = onnx.ModelProto.FromString(model.SerializeToString())
        changed.ir_version = goal.ir_version
        for tensor in changed.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.dtype == np.float32:
                tensor.CopyFrom(numpy_helper.from_array(np.where(array == 0, np.float32(1e-12), array), tensor.name))
        return changed, ["IR is lower"]

    monkeypatch.setitem(mending.PASSES, "convert_ir", fills)  # type: ignore[arg-type]
    report = gate(replace(GOOD, ir_version=6), fix=True)
    assert by_name(report)["check"].status == "failed"
    (sparse,) = (one for one in findings(report, workspace) if one.form == "sparse")
    assert "convert_ir can't: a layer of " in sparse.remedy
    assert "it followed 2:4" in sparse.remedy
    folder = made(report, workspace)
    assert (folder / "check/sparse.onnx").read_bytes() == (folder / "sparsify/model.onnx").read_bytes()
