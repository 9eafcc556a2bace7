"""The matrix as data: every fact has an origin, every version parses, every recorded cell is of known versions."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from envs.errors import SpecError
from envs.matching.cells import FILE, plan, read_wishes
from envs.matching.facts import MATRIX, known_matrix, read_matrix
from envs.matching.measured import MEASURED, read_measured
from envs.matching.values import NAMES, NONE, PARTS
from envs.spec import load_spec, spec_names
from envs.toml import parse_toml

HEAD = "[wheels]\n[default_opset]\n[[facts]]\n"
ORIGINS = {"measured", "package metadata", "documentation"}
NAMED_BY_THE_ISSUE = {
    *("sigmastar", "rknn", "acuity", "tpu-mlir", "openvino", "ncnn", "mnn", "vela", "horizon", "d-robotics", "hailo"),
    *("ti", "vitis-ai", "ascend", "tensorrt-8", "tensorrt-9", "tensorrt-10", "tensorrt-11"),
}


def test_every_fact_has_an_origin_and_a_source() -> None:
    for fact in known_matrix().facts:
        assert fact.origin in ORIGINS, fact
        assert fact.source.strip(), fact
        assert fact.parts <= set(PARTS), fact


def test_every_preference_has_an_origin_and_names_known_values() -> None:
    matrix = known_matrix()
    for toolchain in matrix.toolchains:
        for preference in toolchain.prefers:
            assert preference.origin in ORIGINS
            assert preference.source.strip()
            for part, value in preference.needs.items():
                assert value in matrix.values[part], (toolchain.name, part, value)


def test_every_version_parses_and_every_specifier_means_something() -> None:
    matrix = known_matrix()
    for part, known in matrix.values.items():
        assert len(set(known)) == len(known)
        if part not in NAMES:
            assert all(value == NONE or Version(value) for value in known)
    for fact in matrix.facts:
        for part, spec in (*fact.when, *((fact.then,) if fact.then else ())):
            if part in NAMES or spec in (NONE, "present"):
                continue
            if spec[0] in "<>=!~":
                assert SpecifierSet(spec)
            else:
                assert spec in matrix.values[part], (fact.source, part, spec)


def test_a_when_without_any_known_release_would_be_a_dead_row() -> None:
    matrix = known_matrix()
    for fact in matrix.facts:
        for part, spec in fact.when:
            values = [value for value in matrix.values[part] if value != NONE]
            if spec[0] in "<>=!~":
                assert any(SpecifierSet(spec).contains(value, prereleases=True) for value in values), (part, spec)


def test_the_toolchains_of_the_issue_are_there_and_their_environments_exist() -> None:
    toolchains = {one.name: one for one in known_matrix().toolchains}
    assert set(toolchains) >= NAMED_BY_THE_ISSUE
    documented_only = {name for name, one in toolchains.items() if not one.environment}
    assert "sigmastar" in spec_names()
    assert toolchains["sigmastar"].environment == "sigmastar"
    assert {"hailo", "ascend", "ti"} <= documented_only


@pytest.mark.parametrize("name", spec_names())
def test_the_pins_of_every_environment_here_break_no_fact(name: str) -> None:
    spec = load_spec(name)
    toolchain = next((one.name for one in known_matrix().toolchains if one.environment == name), "onnxruntime")
    pins = {part: version for part, version in spec.packages.items() if part in PARTS}
    chosen = {**pins, "python": spec.python, "toolchain": toolchain}
    assert [str(fact) for fact in known_matrix().facts if fact.broken_by(chosen)] == []


def test_every_torch_has_its_default_opset_and_its_torchvision() -> None:
    matrix = known_matrix()
    assert set(matrix.default_opset) == set(matrix.values["torch"])
    wanted = {fact.then[1] for fact in matrix.facts if dict(fact.when).keys() == {"torchvision"} and fact.then}
    for torch in matrix.values["torch"]:
        assert any(spec == torch or (spec[0] == ">" and torch in SpecifierSet(spec)) for spec in wanted), torch


def test_every_recorded_cell_is_of_known_versions_and_tells_what_happened() -> None:
    matrix = known_matrix()
    cells = read_measured(MATRIX / MEASURED).cell
    for cell in cells:
        assert cell.python in matrix.values["python"]
        for part, version in cell.versions.items():
            assert version in matrix.values[part], (part, version)
        assert cell.error or cell.result
        for one in cell.result:
            assert one.what == "import" or one.exporter
            if one.what == "run":
                assert one.error or one.max_difference is not None
    assert len({tuple(sorted(cell.versions.items())) for cell in cells}) == len(cells)


def test_ten_python_3_10_cells_over_the_torches_are_recorded_and_some_failed() -> None:
    cells = [cell for cell in read_measured(MATRIX / MEASURED).cell if cell.python == "3.10"]
    assert len(cells) >= 10
    torches = {cell.versions["torch"] for cell in cells}
    assert {"1.12.1", max(torches, key=Version)} <= torches
    assert len(torches) >= 8
    assert any(one.error for cell in cells for one in cell.result)
    assert any(one.what == "run" and not one.error for cell in cells for one in cell.result)


def test_the_planned_cells_can_be_planned() -> None:
    wishes = read_wishes(MATRIX / FILE)
    planned = plan(known_matrix(), {}, everything=True)
    assert len(planned) == len(wishes) >= 10
    for wish, cell in zip(wishes, planned, strict=True):
        assert {part: cell.versions[part] for part in wish.forced} == wish.forced
        assert {one.opset for one in cell.tries} >= {13, *wish.beyond}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "origin = 'rumour'\nsource = 's'\nrows = []\n", "origin"),
        (HEAD + "source = 's'\nrows = []\n", "origin"),
        (
            HEAD + "origin = 'measured'\nsource = 's'\nrows = [{ when = { troch = '1' }, then = { onnx = '1' } }]\n",
            "troch",
        ),
    ],
)
def test_a_row_without_origin_or_about_an_unknown_part_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "packages.toml").write_text(text)
    (tmp_path / "toolchains.toml").write_text((MATRIX / "toolchains.toml").read_text())
    with pytest.raises(SpecError) as raised:
        read_matrix(tmp_path)
    assert said in str(raised.value)


def test_the_files_are_toml_that_a_person_can_read() -> None:
    for name in ("packages.toml", "toolchains.toml", FILE):
        assert parse_toml(MATRIX / name)
        assert max(map(len, (MATRIX / name).read_text("utf-8").splitlines())) <= 200
