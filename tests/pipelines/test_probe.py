"""The probe of `invoke match --measure`: what works here works there, and what fails is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from pipelines import probe


@pytest.fixture(scope="module")
def network() -> tuple[Any, Any, Any]:
    return probe.make_network()


def results(network: tuple[Any, Any, Any], folder: Path, **asked: Any) -> dict[tuple[str, int], dict[str, Any]]:
    one = {"exporter": "torchscript", "opset": 13, "irs": [7], **asked}
    found = probe.try_export(*network, one, folder / "network.onnx", True)
    return {(result["what"], result.get("ir", 0)): result for result in found}


def test_the_answer_is_one_line_of_json_with_every_step() -> None:
    asked = {"imports": ["onnx", "numpy"], "tries": [{"exporter": "torchscript", "opset": 13, "irs": [7]}]}
    command = [sys.executable, "-m", "pipelines.probe", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert [one["error"] for one in told] == [""] * 5
    assert [one["what"] for one in told] == ["import", "import", "export", "check", "run"]
    assert told[0]["loaded"] == ["numpy"]
    assert told[-1]["max_difference"] < probe.TOLERANCE


def test_the_network_answers_differently_to_another_picture(network: tuple[Any, Any, Any]) -> None:
    import torch

    module, picture, expected = network
    with torch.no_grad():
        other = module(picture + 1).numpy()
    assert np.abs(other - expected).max() > 100 * probe.TOLERANCE * np.abs(expected).max()


def test_a_file_is_tried_with_each_ir_version_that_is_asked_for(network: tuple[Any, Any, Any], tmp_path: Path) -> None:
    found = results(network, tmp_path, irs=[7, 99])
    assert found["run", 7]["error"] == ""
    assert found["check", 99]["error"]
    assert found["run", 99]["error"]


def test_an_opset_that_no_exporter_writes_fails_in_one_line(network: tuple[Any, Any, Any], tmp_path: Path) -> None:
    (told,) = results(network, tmp_path, opset=99).values()
    assert told["what"] == "export"
    assert told["error"]
    assert "\n" not in told["error"]


def test_another_output_than_torch_gives_is_a_failure(network: tuple[Any, Any, Any], tmp_path: Path) -> None:
    module, picture, expected = network
    told = results((module, picture, expected + 1e-3 * np.abs(expected).max()), tmp_path)
    assert told["check", 7]["error"] == ""
    assert "differs from torch" in told["run", 7]["error"]


def test_a_broken_graph_is_seen_by_the_checker(network: tuple[Any, Any, Any], tmp_path: Path) -> None:
    module, picture, _ = network
    probe.export(module, picture, "torchscript", 13, tmp_path / "network.onnx")
    model = onnx.load(str(tmp_path / "network.onnx"))
    assert probe.check(model) == ""
    model.graph.node[0].input[0] = "nothing"
    assert probe.check(model)


def test_an_import_that_fails_says_why_and_what_was_loaded() -> None:
    told = probe.try_import("no_such_package", ["no_such_package", "numpy"])
    assert told["error"].startswith("ModuleNotFoundError")
    assert told["loaded"] == []


def test_an_error_is_told_in_one_line_without_paths() -> None:
    assert probe.one_line("\n  ImportError: /a/b/lib.so: missing\nmore") == "ImportError: lib.so: missing"
    long = probe.one_line("the start" + "x" * 1000 + "the reason")
    assert len(long) == probe.LONGEST
    assert long.startswith("the start")
    assert long.endswith("the reason")
