"""A small network as a person's module, two pictures that judge, one that fits, and a run of the whole pipeline."""

from __future__ import annotations

import hashlib
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from spoiling import Run

from pipelines.contract import Event, ExportOptions, Picture, RunReport, RunRequest, Weights
from pipelines.runner import run
from pipelines.stages import plan

MODULE = """
    import numpy as np
    import torch
    from PIL import Image


    def onnx_preprocess(path):
        return image_preprocess(path).transpose(0, 3, 1, 2)


    def image_preprocess(path, norm=True):
        resized = np.asarray(Image.open(path).convert("RGB").resize((16, 16)))[None]
        return ((resized - 127.0) / 128.0).astype(np.float32) if norm else resized


    def build_model():
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.nn.ReLU(),
            torch.nn.Conv2d(8, 16, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 10),
        )
"""


@pytest.fixture(scope="session")
def locked_data() -> Path:
    """The lock's pictures and weights."""
    if "EDGEKILN_TEST_DATA" not in os.environ:
        pytest.skip("EDGEKILN_TEST_DATA names no data folder; `invoke test` sets it")
    return Path(os.environ["EDGEKILN_TEST_DATA"])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures that a seed made: two that judge, one that fits."""
    folder = tmp_path / "data"
    random = np.random.default_rng(0)
    for name in ("two/a", "two/b", "calibration/c"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def pictures(data: Path, collection: str = "two") -> tuple[Picture, ...]:
    return tuple(
        Picture(
            path=path.relative_to(data).as_posix(),
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            collection=collection,
        )
        for path in sorted(data.glob(f"{collection}/*.png"))
    )


@pytest.fixture
def request_for(tmp_path: Path, data: Path) -> Callable[..., RunRequest]:
    """Makes a run folder with the module in it, and the request."""

    def make(number: int = 1, module: str = MODULE, **changes: Any) -> RunRequest:
        folder = f"small/{number}"
        place = tmp_path / "runs" / folder / "input" / "module"
        place.mkdir(parents=True, exist_ok=True)
        (place / "small.py").write_text(textwrap.dedent(module))
        fields: dict[str, Any] = {
            "run_id": str(number),
            "model": "small",
            "module": "input/module/small.py",
            "env": "test",
            "engine": "local",
            "lock_digest": "sha256:0",
            "pipeline_digest": "sha256:1",
            "run_folder": folder,
            "weights": Weights(kind="random", seed=0),
            "pictures": pictures(data),
            "export": ExportOptions(opset=13, ir_version=7, simplifier="onnxruntime"),
        }
        return RunRequest(**{**fields, **changes})

    return make


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def run_all(workspace: Path, data: Path) -> Callable[..., RunReport]:
    """Runs the plan over a request."""

    def go(request: RunRequest, events: list[Event] | None = None) -> RunReport:
        seen = events if events is not None else []
        return run(request, plan(request), workspace, data, seen.append)

    return go


@pytest.fixture
def start(
    request_for: Callable[..., RunRequest],
    run_all: Callable[..., RunReport],
    workspace: Path,
    data: Path,
    tmp_path: Path,
) -> Callable[..., Run]:
    """Runs the plan over a request, which must succeed; its files may then be spoiled."""

    def go(**changes: Any) -> Run:
        request = request_for(**changes)
        report = run_all(request)
        assert report.ok, [stage.reason for stage in report.stages]
        return Run(request, report, workspace, data, tmp_path / "spoiled")

    return go


def by_name(report: RunReport) -> dict[str, Any]:
    return {stage.name: stage for stage in report.stages}
