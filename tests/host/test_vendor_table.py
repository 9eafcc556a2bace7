"""`invoke vendors --table`: the newest conversion of each toolchain and target, and every number where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from envs.contract import Conversion, ConversionReport, RunReport, StageResult, Weights, encode
from envs.errors import EngineError, WrongUse
from envs.vendor_table import HEADINGS, markdown, newest, origins, rows, tables, zeros
from envs.verbs import vendors as verb

MODEL = "onnx_tv_resnet18"
Convert = Callable[..., Path]


def conversion(form: str = "dense", variant: str = "int8", **more: Any) -> Conversion:
    fields: dict[str, Any] = {"status": "ok", "file_bytes": 12 << 20, "cycles": 5_000_000, "cosine_centred": 0.98}
    return Conversion(form=form, variant=variant, **{**fields, "agreement_top1": 1.0, **more})  # type: ignore[arg-type]


@pytest.fixture
def convert(workspace: Path) -> Convert:
    """Leaves a run with a conversion report in the workspace, as the pipeline does."""

    def make(run: str, *made: Conversion, vendor: str = "vela", target: str = "u85", status: str = "ok") -> Path:
        folder = workspace / MODEL / run
        file = folder / "artifacts" / "convert" / "convert.json"
        file.parent.mkdir(parents=True)
        report = ConversionReport(
            vendor=vendor,
            target=target,
            versions={"tool": "1.0"},
            pattern="2:4",
            unstructured=0.8,
            calibration_pictures=40,
            labelled=20,
            rows=made or (conversion(),),
        )
        file.write_bytes(encode(report))
        told = RunReport(
            run_id=run,
            model=MODEL,
            env=vendor,
            engine="local",
            lock_digest="sha256:0",
            pipeline_digest="sha256:1",
            run_folder=f"{MODEL}/{run}",
            weights=Weights(kind="random", seed=0),
            versions={},
            stages=(StageResult(name="convert", status=status, elapsed_s=1.0, cached=False),),  # type: ignore[arg-type]
            artifacts=(),
        )
        (folder / "report.json").write_bytes(encode(told))
        return folder

    return make


def cells(row: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(HEADINGS, row, strict=True))


def test_the_newest_run_of_each_toolchain_and_target_counts(convert: Convert) -> None:
    convert("20260101-000000-001", target="u55")
    convert("20260102-000000-001", target="u85")
    convert("20260103-000000-001", target="u85")
    convert("20260101-000000-002", vendor="mnn", target="")
    assert [(one.report.vendor, one.report.target, one.run) for one in newest(MODEL)] == [
        ("mnn", "", f"{MODEL}/20260101-000000-002"),
        ("vela", "u55", f"{MODEL}/20260101-000000-001"),
        ("vela", "u85", f"{MODEL}/20260103-000000-001"),
    ]


def test_a_run_whose_converter_failed_counts_and_one_that_goes_on_does_not(convert: Convert) -> None:
    convert("20260101-000000-001", conversion(status="failed", reason="cosine 0.1"), status="failed")
    (convert("20260102-000000-001") / "report.json").unlink()
    convert("20260103-000000-001", status="skipped")
    (found,) = newest(MODEL)
    assert found.run == f"{MODEL}/20260101-000000-001"
    assert cells(rows([found])[0])["RESULT"] == "failed: cosine 0.1"


def test_sizes_and_cycles_of_a_sparse_network_are_also_a_share_of_its_own_format_s_dense_one(convert: Convert) -> None:
    made = [
        conversion(variant="fp16", file_bytes=24 << 20),
        conversion(),
        conversion("sparse", file_bytes=9 << 20, cycles=3_000_000),
        conversion("unstructured", "fp16", file_bytes=12 << 20, cycles=None),
    ]
    convert("20260101-000000-001", *made)
    told = [cells(row) for row in rows(newest(MODEL))]
    assert [(row["FORMAT"], row["NETWORK"]) for row in told] == [
        ("fp16", "dense"),
        ("fp16", "80% zeros"),
        ("int8", "dense"),
        ("int8", "2:4"),
    ]
    assert [row["FILE"] for row in told] == ["24.00 MiB", "12.00 MiB (0.50x)", "12.00 MiB", "9.00 MiB (0.75x)"]
    assert [row["CYCLES"] for row in told] == ["5,000,000", "-", "5,000,000", "3,000,000 (0.60x)"]


def test_what_is_not_known_is_a_dash_and_never_zero(convert: Convert) -> None:
    convert("20260101-000000-001", conversion(cosine_centred=None, agreement_top1=None), conversion("sparse"))
    dense, sparse = (cells(row) for row in rows(newest(MODEL)))
    assert (dense["WEIGHTS"], sparse["WEIGHTS"], dense["CENTRED COSINE"], dense["TOP-1 AGREES"]) == ("-", "-", "-", "-")
    assert (dense["TOP-1"], sparse["CENTRED COSINE"]) == ("-", "0.9800")


def test_a_sparse_network_without_a_dense_one_has_no_share(convert: Convert) -> None:
    convert("20260101-000000-001", conversion("sparse"))
    assert cells(rows(newest(MODEL))[0])["FILE"] == "12.00 MiB"


def test_labelled_pictures_that_are_right_are_counted(convert: Convert) -> None:
    convert("20260101-000000-001", conversion(top1=0))
    assert cells(rows(newest(MODEL))[0])["TOP-1"] == "0 / 20"


def test_it_is_said_what_it_was_measured_with(convert: Convert) -> None:
    convert("20260101-000000-001", conversion(ran_by="simulator 1.0"), conversion("sparse"))
    run = f"{MODEL}/20260101-000000-001"
    assert origins(newest(MODEL)) == [("vela", "u85", "tool 1.0", "simulator 1.0", "40", "random", run)]


def test_what_a_tool_made_of_the_zeros_is_a_table_of_its_own_where_one_says_something(convert: Convert) -> None:
    convert("20260101-000000-001", conversion(), vendor="mnn", target="")
    assert len(list(tables(MODEL, newest(MODEL)))) == 2
    convert("20260101-000000-002", conversion(), conversion("sparse", sparsity="stored packed"))
    assert zeros(newest(MODEL)) == [("vela", "u85", "int8", "2:4", "stored packed")]
    assert len(list(tables(MODEL, newest(MODEL)))) == 3


def test_a_page_has_every_row_with_every_cell(convert: Convert) -> None:
    convert("20260101-000000-001", conversion(), conversion("sparse", status="failed", reason="a | b"))
    text = markdown(MODEL, newest(MODEL))
    table = text.split("\n\n")[1].splitlines()
    assert len(table) == 4
    assert {line.count("|") for line in table} == {len(HEADINGS) + 1}
    assert "failed: a / b" in table[-1]


def test_without_a_conversion_the_next_step_is_told(workspace: Path) -> None:
    with pytest.raises(WrongUse, match=r"no run of 'x' has converted it; `invoke run --model x --env NAME` does"):
        newest("x")


@pytest.mark.parametrize("file", ["report.json", "artifacts/convert/convert.json"])
def test_a_file_that_is_none_is_named(convert: Convert, file: str) -> None:
    (convert("20260101-000000-001") / file).write_bytes(b"{}")
    with pytest.raises(EngineError, match=file) as caught:
        newest(MODEL)
    assert "\n" not in str(caught.value)


def test_the_verb_prints_each_form(convert: Convert, capsys: pytest.CaptureFixture[str]) -> None:
    convert("20260101-000000-001")
    for asked, start in (((False, False), MODEL), ((True, False), f"### {MODEL}"), ((False, True), "{")):
        assert verb.vendors(True, "", *asked) == 0
        assert capsys.readouterr().out.lstrip().startswith(start)
