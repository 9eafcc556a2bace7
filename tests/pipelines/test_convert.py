"""The convert stage: whatever a tool does, the report says in one line what came of it, and garbage never passes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from conftest import by_name, pictures
from stand_in_tool import FAULTS

from pipelines import vendors
from pipelines.contract import Conversion, ConversionReport, Part, RunReport, RunRequest, VendorOptions, stages_of
from pipelines.runner import run
from pipelines.stages import plan
from pipelines.vendors import vendor
from pipelines.vendors.base import Vendor

NAME = "stand-in"


@pytest.fixture
def convert(
    request_for: Callable[..., RunRequest],
    run_all: Callable[..., RunReport],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., RunReport]:
    """Runs the plan with the stand-in tool as the environment's toolchain."""
    custom = tmp_path / "custom"
    custom.mkdir()
    (custom / "sitecustomize.py").write_text(
        f"from pipelines import vendors\nvendors.MODULES[{NAME!r}] = 'stand_in_tool'\n"
    )
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(custom), here, os.environ["PYTHONPATH"]]))
    monkeypatch.setitem(vendors.MODULES, NAME, "stand_in_tool")

    def go(number: int = 1, calibration: bool = True, **options: Any) -> RunReport:
        asked = VendorOptions(vendor=NAME, **options)
        fit = pictures(data, "calibration") if calibration else ()
        return run_all(request_for(number, vendor=asked, calibration=fit))

    return go


def rows(report: RunReport, workspace: Path) -> dict[tuple[str, str], Conversion]:
    path = workspace / report.run_folder / "artifacts/convert/convert.json"
    made = msgspec.json.decode(path.read_bytes(), type=ConversionReport)
    return {(row.form, row.variant): row for row in made.rows}


def test_every_network_is_converted_to_every_format_and_compared(
    convert: Callable[..., RunReport], workspace: Path
) -> None:
    report = convert(unstructured=0.8)
    assert report.ok, [(stage.name, stage.reason) for stage in report.stages]
    found = rows(report, workspace)
    assert list(found) == [(f, v) for f in ("dense", "sparse", "unstructured") for v in ("fp32", "int8")]
    for (form, variant), row in found.items():
        assert row.status == "ok"
        assert row.cosine_centred is not None
        assert row.cosine_centred > 0.999
        assert row.agreement_top1 == 1.0
        assert row.file == f"{form}/{variant}/model.bin"
        artifact = next(a for a in report.artifacts if a.path == f"artifacts/convert/{row.file}")
        assert artifact.bytes == row.file_bytes
        log = workspace / report.run_folder / "artifacts/convert" / row.log
        assert log.read_text() == f"stand-in converts {form} to {variant}\n"
    assert found["dense", "fp32"].against_dense_cosine_centred == pytest.approx(1.0)
    assert found["sparse", "fp32"].against_dense_cosine_centred != found["sparse", "fp32"].cosine_centred


REASONS = {
    "garbage": "centred cosine to onnxruntime",
    "constant": "the same for every picture",
    "crash": "stand-in was killed by SIGSEGV: E: assertion failed in pass 7",
    "hang": "did not end within 2 s",
    "nothing": "left no model.bin",
    "refusal": "Conv_0 is too wide for the chip; make it narrower",
    "traceback": "Conv_0",
    "other-shape": "the ONNX file's 2x10",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_in_one_line_and_what_worked_is_kept(
    fault: str, convert: Callable[..., RunReport], workspace: Path
) -> None:
    report = convert(variants=("fp32", fault))
    stage = by_name(report)["convert"]
    assert stage.status == "failed"
    assert REASONS[fault] in stage.reason
    assert "\n" not in stage.reason
    found = rows(report, workspace)
    assert {row.status for (_, variant), row in found.items() if variant == "fp32"} == {"ok"}
    assert {row.status for (_, variant), row in found.items() if variant == fault} == {"failed"}
    assert by_name(report)["collect"].status == "ok"


def test_what_nothing_here_can_run_is_skipped_and_never_ok(convert: Callable[..., RunReport], workspace: Path) -> None:
    row = rows(convert(variants=("unrun",)), workspace)["dense", "unrun"]
    assert (row.status, row.reason) == ("skipped", "not compared: this chip has no simulator")
    assert (row.cycles, row.cosine_centred) == (7, None)


def test_a_full_disk_is_named_whatever_the_tool_says(
    convert: Callable[..., RunReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: SimpleNamespace(free=4096) if "convert" in str(path) else real(path)
    )
    stage = by_name(convert(variants=("traceback", "fp32")))["convert"]
    assert (stage.status, stage.reason) == (
        "failed",
        "the workspace's disk is full; free some space and run again",
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"target": "chip-z"}, "stand-in has no target 'chip-z' here; these are: chip-a, chip-b"),
        (
            {"target": "chip-b", "variants": ("int8",)},
            "does not convert to 'int8' for chip-b; these are: fp32",
        ),
        ({"calibration": False}, "stand-in needs calibration pictures for int8; give --calibration FOLDER"),
    ],
)
def test_what_the_tool_does_not_offer_is_refused_in_one_line(
    options: dict[str, Any], reason: str, convert: Callable[..., RunReport]
) -> None:
    stage = by_name(convert(**options))["convert"]
    assert stage.status == "failed"
    assert reason in stage.reason


def test_two_parts_leave_the_report_of_one(
    convert: Callable[..., RunReport],
    request_for: Callable[..., RunRequest],
    workspace: Path,
    data: Path,
) -> None:
    whole = convert(variants=("fp32",))
    request = request_for(
        2, vendor=VendorOptions(vendor=NAME, variants=("fp32",)), calibration=pictures(data, "calibration")
    )
    stages = stages_of(request)
    cut = stages.index("check")
    parts = tuple(
        Part(env=env, lock_digest=request.lock_digest, stages=names)
        for env, names in (("exporter", stages[:cut]), ("tool", stages[cut:]))
    )
    request = msgspec.structs.replace(request, parts=parts)
    for place in range(2):
        assert not (workspace / request.run_folder / "report.json").exists()
        report = run(request, plan(request), workspace, data, lambda event: None, place)
    assert [(s.name, s.status) for s in report.stages] == [(s.name, s.status) for s in whole.stages]
    assert [stage.env for stage in report.stages] == ["exporter"] * cut + ["tool"] * (len(stages) - cut)
    assert report.artifacts == whole.artifacts


@pytest.mark.parametrize("name", sorted(vendors.MODULES))
def test_an_adapter_keeps_the_protocol(name: str) -> None:
    tool: Vendor = vendor(name)
    assert tool.name == name
    assert tool.limits.opset[0] <= 13 <= tool.limits.opset[1]
    for target in tool.targets or ("",):
        offered = tool.variants(target)
        assert len({one.name for one in offered}) == len(offered)
        assert all(0 < one.floor <= 1 for one in offered)
    assert isinstance(tool.cause(""), str)
