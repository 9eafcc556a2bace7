"""What was measured decides over what is documented, and is recorded whole or not at all."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import msgspec
import pytest

from envs.errors import CheckFailed, LockError, WrongUse
from envs.matching import measure as measuring
from envs.matching.answer import match, what_was_measured
from envs.matching.cells import Planned, Try, plan
from envs.matching.facts import MATRIX, Matrix, known_matrix, read_matrix
from envs.matching.measured import MEASURED, Cell, Measured, Result, observations, read_measured, record
from envs.matching.question import asked, order_of
from envs.matching.solve import Search
from envs.paths import cache_root
from envs.verbs.match import match as verb

DAY = dt.date(2026, 11, 1)
VERSIONS = {
    "torch": "2.0.1",
    "torchvision": "0.15.2",
    "onnx": "1.14.1",
    "onnxruntime": "1.15.1",
    "numpy": "1.25.2",
    "protobuf": "3.20.3",
    "onnxsim": "0.7.3",
}


def cell(*results: Result, versions: dict[str, str] = VERSIONS) -> Cell:
    return Cell(python="3.10", versions=versions, day=DAY, result=results)


def run(opset: int, ir: int, error: str = "") -> Result:
    difference = None if error else 1e-6
    return Result(what="run", exporter="torchscript", opset=opset, ir=ir, max_difference=difference, error=error)


def matrix_with(folder: Path, *cells: Cell) -> Matrix:
    for name in ("packages.toml", "toolchains.toml"):
        (folder / name).write_text((MATRIX / name).read_text())
    (folder / MEASURED).unlink(missing_ok=True)
    for one in cells:
        record(folder / MEASURED, one)
    return read_matrix(folder)


def fits(matrix: Matrix, **fixed: str) -> bool:
    wanted = {"toolchain": "onnxruntime", "python": "3.10", **fixed}
    return Search(order_of(matrix, "onnxruntime")).best([*asked(matrix, wanted), *matrix.facts]) is not None


def test_a_run_that_went_well_lifts_what_the_documentation_forbids(tmp_path: Path) -> None:
    asked_for = {"onnxruntime": "1.15.1", "ir": "9", "opset": "13"}
    assert not fits(matrix_with(tmp_path), **asked_for)
    after = matrix_with(tmp_path, cell(run(13, 9)))
    assert fits(after, **asked_for)
    assert not fits(after, onnxruntime="1.15.1", ir="10", opset="13")  # only what was seen


def test_a_run_that_failed_forbids_what_the_documentation_allows(tmp_path: Path) -> None:
    asked_for = {"onnxruntime": "1.15.1", "ir": "8", "opset": "17"}
    assert fits(matrix_with(tmp_path), **asked_for)
    after = matrix_with(tmp_path, cell(run(17, 8, "it differs")))
    assert not fits(after, **asked_for)
    assert fits(after, onnxruntime="1.15.1", ir="8", opset="16")
    answer = match(after, {"toolchain": "onnxruntime", "python": "3.10", **asked_for})
    assert ("measured", "it differs") in {(one.origin, one.source) for one in answer.conflict}


def test_an_import_that_failed_forbids_what_was_in_the_process_together(tmp_path: Path) -> None:
    failed = Result(what="import", package="onnxruntime", loaded=("numpy",), error="ImportError: no")
    after = matrix_with(tmp_path, cell(failed))
    assert not fits(after, onnxruntime="1.15.1", numpy="1.25.2")
    assert fits(after, onnxruntime="1.15.1", numpy="1.24.4")
    assert fits(after, onnxruntime="1.16.3", numpy="1.25.2")


def test_an_export_that_failed_is_of_that_torch_exporter_and_opset(tmp_path: Path) -> None:
    failed = Result(what="export", exporter="torchscript", opset=18, error="wrote opset 17")
    after = matrix_with(tmp_path, cell(failed))
    assert not fits(after, torch="2.0.1", opset="18")
    assert fits(after, torch="2.0.1", opset="17")
    assert fits(after, torch="2.4.1", opset="18")


def test_what_an_installer_enforces_is_not_lifted(tmp_path: Path) -> None:
    versions = {**VERSIONS, "onnx": "1.13.1", "protobuf": "4.25.4"}
    after = matrix_with(tmp_path, cell(run(13, 7), versions=versions))
    assert not fits(after, onnx="1.13.1", protobuf="4.25.4")


def test_an_import_that_went_well_lifts_nothing() -> None:
    good = Result(what="import", package="onnx", loaded=("numpy",))
    assert observations(Measured(cell=(cell(good),))) == ()


def test_the_checkouts_own_results_are_kept_by_its_own_answers() -> None:
    matrix = known_matrix()
    for one in observations(matrix.measured):
        values = dict(one.values)
        against = [fact for fact in matrix.facts if fact.parts <= set(values) and fact.broken_by(values)]
        if one.ok:
            assert not [fact for fact in against if fact.origin == "documentation"]
        else:
            assert [fact for fact in against if fact.origin == "measured"]


def test_a_recorded_set_is_told_with_its_answer(tmp_path: Path) -> None:
    matrix = matrix_with(tmp_path, cell(run(13, 7)))
    fixed = {"toolchain": "onnxruntime", "python": "3.10", "opset": "13", **VERSIONS}
    assert "2026-11-01" in match(matrix, fixed).measured
    assert match(matrix, {**fixed, "numpy": "1.24.4"}).measured == ""
    failed = cell(run(13, 7, "it differs"))
    assert "refused: it differs" in what_was_measured([failed], {**fixed, "exporter": "torchscript"})


def test_recording_replaces_the_same_cell_keeps_the_others_and_is_whole(tmp_path: Path) -> None:
    path = tmp_path / MEASURED
    other = cell(run(13, 7), versions={**VERSIONS, "numpy": "1.24.4"})
    record(path, cell(run(13, 7, "first")))
    record(path, other)
    record(path, cell(run(13, 7)))
    stored = {one.versions["numpy"]: one for one in read_measured(path).cell}
    assert stored == {"1.25.2": cell(run(13, 7)), "1.24.4": other}
    assert [file.name for file in tmp_path.iterdir()] == [MEASURED]
    text = path.read_text()
    record(path, other)
    assert path.read_text() == text  # the same results, the same bytes


def test_a_cell_is_an_environment_of_exactly_its_versions() -> None:
    planned = Planned(python="3.10", versions=VERSIONS, tries=(Try(exporter="torchscript", opset=13, irs=(7,)),))
    spec = measuring.cell_spec(planned)
    assert spec.packages == VERSIONS
    assert spec.data == ()
    assert all(source.version.startswith("3.10.") for source in spec.interpreter)


def test_the_scratch_cache_reads_the_users_store_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path))
    monkeypatch.delenv("EDGEKILN_STORE", raising=False)
    with measuring.scratch_cache() as folder:
        assert cache_root() == folder
        assert os.environ["EDGEKILN_STORE"] == str(tmp_path / "store")
        folder.mkdir(parents=True)
        (folder / "large").write_bytes(b"0")
    assert cache_root() == tmp_path
    assert "EDGEKILN_STORE" not in os.environ
    assert not folder.exists()


def test_a_measured_surprise_is_told() -> None:
    matrix = msgspec.structs.replace(
        known_matrix(),
        facts=tuple(fact for fact in known_matrix().facts if fact.origin != "measured" and not fact.lifted),
    )
    assert measuring.surprises(matrix, cell(run(13, 7))) == []
    (told,) = measuring.surprises(matrix, cell(run(13, 7, "it differs")))
    assert "it differs" in told
    assert any("against" in line for line in measuring.surprises(matrix, cell(run(13, 10))))


def test_the_opset_that_is_asked_for_is_tried() -> None:
    (planned,) = plan(known_matrix(), {"torch": "2.6.0", "opset": "16"}, everything=False)
    assert {one.opset for one in planned.tries} == {13, 16, 20}
    assert all(one.exporter == "torchscript" for one in planned.tries)
    with pytest.raises(WrongUse, match=r"3\.10"):
        plan(known_matrix(), {"python": "3.12"}, everything=False)


def test_a_question_without_a_set_has_no_cell_to_measure() -> None:
    with pytest.raises(CheckFailed, match="invoke match"):
        plan(known_matrix(), {"toolchain": "sigmastar", "opset": "17"}, everything=False)


def test_measuring_records_a_refusing_resolver_as_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise LockError("cell.toml has no solution: uv ended with 1: cause: Because of numpy")

    monkeypatch.setattr(measuring, "make_lock", refuse)
    monkeypatch.setattr(measuring, "SPACE_NEEDED", 0)

    class Quiet:
        def say(self, line: str) -> None:
            pass

    planned = Planned(python="3.10", versions=VERSIONS, tries=())
    made = measuring.measure(planned, tmp_path / "cache", Quiet())  # type: ignore[arg-type]
    assert made.error == "Because of numpy"
    assert made.result == ()


def test_cells_other_than_all_are_wrong_use() -> None:
    with pytest.raises(WrongUse, match="--cells"):
        verb({}, measure=True, cells="some", as_json=False)
