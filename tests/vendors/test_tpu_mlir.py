"""TPU-MLIR for real: what its adapter states, what its files compute, what it makes of zeros."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipelines.arrays import save_arrays
from pipelines.checks.parity import shortfall
from pipelines.errors import PipelineError
from pipelines.vendors import tpu_mlir
from pipelines.vendors.tpu_mlir import CHIPS, VENDOR
from tests.vendors.converting import convert, network, thinned


@pytest.mark.parametrize(("target", "variant"), [("bm1684x", "fp16"), ("bm1684x", "int8"), ("cv181x", "int8")])
def test_a_converted_file_computes_what_onnxruntime_does(target: str, variant: str, tmp_path: Path) -> None:
    made = convert("tpu-mlir", variant, network(), tmp_path, target=target)
    assert not made.converted.error, made.log
    assert made.parity is not None
    assert not shortfall(made.parity, made.floor)
    assert made.file.suffix == f".{CHIPS[target].suffix}"
    assert f"on an emulated {target}" in made.converted.ran_by
    counted = made.converted.cycles is not None
    assert counted == (CHIPS[target].suffix == "bmodel")
    assert [one.name for one in made.file.parent.iterdir()] == [made.file.name]


def test_zeros_take_as_much_room_and_time_as_any_weight(tmp_path: Path) -> None:
    dense = convert("tpu-mlir", "fp32", network(), tmp_path / "dense")
    thin = convert("tpu-mlir", "fp32", thinned(network()), tmp_path / "thin", form="unstructured")
    assert not thin.converted.error, thin.log
    assert thin.converted.sparsity.startswith("zeros stored: ")
    assert dense.converted.sparsity == ""
    assert thin.converted.weight_bytes == dense.converted.weight_bytes
    assert thin.converted.cycles == dense.converted.cycles
    assert thin.file.stat().st_size == dense.file.stat().st_size


def test_an_operator_that_it_does_not_know_gives_one_line(tmp_path: Path) -> None:
    made = convert("tpu-mlir", "fp32", _ended_by("Asin"), tmp_path)
    assert "Op not support" in made.converted.error and "Asin" in made.converted.error
    assert "\n" not in made.converted.error
    assert "Asin" not in (VENDOR.limits.operators or ())


def test_a_file_that_is_no_onnx_gives_one_line(tmp_path: Path) -> None:
    whole = network().SerializeToString()
    made = convert("tpu-mlir", "fp32", whole[: len(whole) // 2], tmp_path)
    assert "model.onnx" in made.converted.error
    assert "\n" not in made.converted.error


def test_a_variant_that_the_chip_does_not_have_gives_one_line(tmp_path: Path) -> None:
    made = convert("tpu-mlir", "fp16", network(), tmp_path, target="cv181x")
    assert "no variant 'fp16' for cv181x" in made.converted.error


@pytest.mark.parametrize(("off", "passes"), [(0.0, True), (0.001, True), (0.02, False), (float("nan"), False)])
def test_a_file_that_runs_unlike_its_lowered_network_is_refused(
    off: float, passes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = np.zeros((3, 3, 4, 4), np.float32)
    save_arrays(tmp_path / "judged.npz", {"images": pictures})
    (tmp_path / "network_chip_int8_sym_tpu.mlir").touch()

    def execute(self: tpu_mlir._Tools, how: str, file: str, images: Path, outputs: str) -> Path:
        """Stands in for both simulators: outputs of 1, those of the emulated chip `off` from it."""
        count = 3 if how == "lowered" else 1
        save_arrays(tmp_path / outputs, {"output_0": np.full((count, 5), 1 + off * (count == 1), np.float32)})
        return tmp_path / outputs

    monkeypatch.setattr(tpu_mlir._Tools, "execute", execute)
    tools = tpu_mlir._Tools(tmp_path, 1, "")
    if passes:
        outputs, apart = tpu_mlir._judge(tools, "dense.bmodel", tmp_path / "judged.npz", alike=2**-7)
        assert outputs.is_file() and apart == pytest.approx(off, abs=1e-6)
    else:
        with pytest.raises(PipelineError, match="computes something else"):
            tpu_mlir._judge(tools, "dense.bmodel", tmp_path / "judged.npz", alike=2**-7)


def test_the_operators_of_its_limits_are_those_of_its_converter() -> None:
    source = (tpu_mlir._package() / "python" / "transform" / "OnnxConverter.py").read_text("utf-8")
    table = source.partition("self.onnxop_factory = {")[2].partition("}")[0]
    known = {name for name in re.findall(r'"(\w+)": lambda', table) if onnx.defs.has(name)}
    assert VENDOR.limits.operators == known


def test_its_own_c_library_is_left_out() -> None:
    assert not (tpu_mlir._package() / "lib" / "third_party" / "libc.so.6").exists()


def _ended_by(op: str) -> onnx.ModelProto:
    model = network()
    model.graph.node.append(helper.make_node(op, ["output"], ["last"], "last"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("last", TensorProto.FLOAT, [1, 10]))
    return model
