"""ACUITY: network binaries made for real, and what is said where none can be."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from pipelines.checks.parity import shortfall
from pipelines.vendors.acuity import VENDOR
from tests.vendors.converting import Made, convert, network, patterned

MAGIC = b"VPMN"  # of a network binary


@cache
def _made(variant: str, form: str, folder: Path) -> Made:
    """A conversion takes the tool's start, half a minute of it: each is made once."""
    model = network(channels=64)
    if form == "dense":
        return convert("acuity", variant, model, folder / f"{variant}-dense")
    return convert("acuity", variant, patterned(model), folder / f"{variant}-sparse", form="sparse")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("acuity")


@pytest.mark.parametrize("variant", [one.name for one in VENDOR.variants("")])
def test_it_computes_the_same_network(variant: str, folder: Path) -> None:
    made = _made(variant, "dense", folder)
    assert not made.converted.error, made.log
    assert made.parity is not None
    assert not shortfall(made.parity, made.floor)
    assert made.file.read_bytes()[:4] == MAGIC
    assert made.converted.cycles is not None
    assert made.converted.cycles > 0


def test_uint8_drops_the_zeros_of_a_2_4_network_by_itself(folder: Path) -> None:
    dense, sparse = _made("uint8", "dense", folder), _made("uint8", "sparse", folder)
    assert dense.converted.weight_bytes is not None
    assert sparse.converted.weight_bytes is not None
    assert sparse.converted.weight_bytes < 0.85 * dense.converted.weight_bytes
    assert sparse.converted.sparsity.endswith(" of 1")
    assert sparse.file.stat().st_size < dense.file.stat().st_size


def test_its_weights_are_part_of_the_file(folder: Path) -> None:
    made = _made("uint8", "dense", folder)
    assert made.converted.weight_bytes is not None
    assert 0.5 * made.file.stat().st_size < made.converted.weight_bytes < made.file.stat().st_size


def test_a_file_that_is_no_network_gives_one_line(tmp_path: Path) -> None:
    made = convert("acuity", "uint8", b"no network", tmp_path / "made")
    assert "model.onnx is no ONNX file" in made.converted.error
    assert "\n" not in made.converted.error


def test_a_chip_that_the_package_has_no_compiler_for_is_refused(tmp_path: Path) -> None:
    made = convert("acuity", "uint8", network(), tmp_path / "made", target="NOSUCHCHIP_PID0X1")
    assert "NOSUCHCHIP_PID0X1" in made.converted.error
    assert VENDOR.targets[0] in made.converted.error


def test_an_unknown_variant_is_refused_with_those_it_has(tmp_path: Path) -> None:
    made = convert("acuity", "int4", network(), tmp_path / "made")
    assert made.converted.error == "acuity does not convert to 'int4'; it has uint8, int8, fp16"
