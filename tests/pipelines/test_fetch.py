"""fetch: weights are the ones that were asked for, or the stage says why not; never others in their place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from conftest import by_name

from pipelines.contract import RunReport, RunRequest, Weights
from pipelines.safe_load import load_state

Make = Callable[..., RunRequest]
Go = Callable[..., RunReport]


def state_of(report: RunReport, workspace: Path) -> dict[str, torch.Tensor]:
    return load_state(workspace / report.run_folder / "artifacts/fetch/state.pth")


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


def random(seed: int) -> Weights:
    return Weights(kind="random", seed=seed)


def saved(state: dict[str, Any], path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_seed_decides_the_weights(request_for: Make, run_all: Go, workspace: Path) -> None:
    first, same, other = (
        state_of(run_all(request_for(number, weights=random(seed), use_cache=False)), workspace)
        for number, seed in ((1, 5), (2, 5), (3, 6))
    )
    assert equal(first, same)
    assert not equal(first, other)


@pytest.mark.parametrize(("kind", "root"), [("file", "runs/small/2"), ("published", "data")])
def test_weights_of_a_file_are_loaded_as_they_are(
    request_for: Make, run_all: Go, workspace: Path, tmp_path: Path, kind: Any, root: str
) -> None:
    state = state_of(run_all(request_for(1)), workspace)
    state["0.bias"] += 1
    sha256 = saved(state, tmp_path / root / "input/weights.pth")
    report = run_all(request_for(2, weights=Weights(kind=kind, file="input/weights.pth", sha256=sha256)))
    assert report.ok, [stage.reason for stage in report.stages]
    assert equal(state_of(report, workspace), state)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (Weights(kind="published"), "weights of the kind 'published' without a file"),
        (Weights(kind="file", file="input/weights.pth"), "weights of the kind 'file' without a file"),
        (Weights(kind="random"), "random weights without a seed"),
        (Weights(kind="published", file="gone.pth", sha256="0" * 64), "gone.pth is missing"),
        (Weights(kind="published", file="two/a.png", sha256="0" * 64), "a.png is corrupt"),
    ],
)
def test_weights_that_can_not_be_had_fail_the_stage(
    request_for: Make, run_all: Go, weights: Weights, said: str
) -> None:
    report = by_name(run_all(request_for(weights=weights)))
    assert report["fetch"].status == "failed"
    assert said in report["fetch"].reason
    assert report["export"].status == "skipped"


def test_only_a_module_brings_weights(request_for: Make, run_all: Go) -> None:
    request = request_for(model="onnx_tv_squeezenet1_1", weights=Weights(kind="module"))
    stage = by_name(run_all(msgspec.structs.replace(request, module=None)))["fetch"]
    assert stage.status == "failed"
    assert stage.reason.startswith("onnx_tv_squeezenet1_1 is no module that could bring weights")


def test_weights_that_no_onnx_file_can_hold_fail_before_they_are_written(
    request_for: Make, run_all: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.stages.fetch.ONNX_LIMIT_BYTES", 1000)
    stage = by_name(run_all(request_for()))["fetch"]
    assert (stage.status, stage.outputs) == ("failed", ())
    assert stage.reason.startswith("small: its weights take 0.0 GiB, one ONNX file holds less than 2")


def test_a_file_of_code_in_place_of_weights_fails_and_does_not_run(
    request_for: Make, run_all: Go, tmp_path: Path, data: Path
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path / "pwned").touch, ()

    sha256 = saved({"0.bias": Evil()}, data / "weights.pth")
    stage = by_name(run_all(request_for(weights=Weights(kind="published", file="weights.pth", sha256=sha256))))["fetch"]
    assert stage.status == "failed"
    assert "weights.pth can't be loaded as weights" in stage.reason
    assert not (tmp_path / "pwned").exists()
