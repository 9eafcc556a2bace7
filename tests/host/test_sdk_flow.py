"""Two containers, one run: export in our image, conversion by the stand-in SDK in an image of its own."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from stand_in_image import STAND_IN, save_stand_in_image

import docker
from envs.build import Built, build
from envs.contract import OutsideOption, OutsidePlan, OutsideReport, OutsideStep, RunReport, encode
from envs.engines.base import ROOT_UID
from envs.engines.choose import choose
from envs.engines.load_archive import ensure_archive
from envs.errors import CheckFailed, EngineError
from envs.progress import Silent
from envs.run import run_model
from envs.run_options import RunOptions
from envs.run_vendor import Vendors, run_outside
from envs.sdk import keep, record

pytestmark = pytest.mark.engine

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
            torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 1),
            torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 10),
        )
"""
PROBE = """
import json, os, pathlib, socket, sys
def writes(path):
    try:
        pathlib.Path(path, "new").write_text("x")
        return True
    except OSError:
        return False
told = {
    "uid": os.getuid(),
    "writes": [p for p in ("/", "/sdk", "/prepared", "/outside", "/usr") if writes(p)],
    "network": sorted(name for _, name in socket.if_nameindex()),
    "folder": os.getcwd(),
    "sourced": "SGS_IPU_DIR" in os.environ,
    "words": sys.argv[1:],
}
pathlib.Path("told.json").write_text(json.dumps(told))
"""


class Here:
    """The environment that exports, and the stand-in's image as an archive."""

    def __init__(self, built: Built, archive: Path, image: str) -> None:
        self.built, self.archive, self.image = built, archive, image


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    built = build("sigmastar", choose("docker"), Silent())
    archive = tmp_path_factory.mktemp("image") / "stand_in_docker.tar"
    image = save_stand_in_image(built.environment.tree, archive)
    yield Here(built, archive, image)
    client = docker.from_env()
    for one in client.containers.list(all=True, filters={"ancestor": image}):
        one.remove(force=True)
    client.images.remove(image, force=True)


@pytest.fixture
def sdk(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in as the recorded SDK, in a record and a cache of its own; where its folder is kept."""
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr(record, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(keep, "cache_root", lambda: tmp_path / "cache")
    keep.add("sigmastar", here.archive, Silent())
    keep.add("sigmastar", STAND_IN, Silent())
    found = keep.find("sigmastar")
    assert found is not None
    return found.folder


def options(module: Path, **changes: str) -> RunOptions:
    fields = {"env": "sigmastar", "engine": "docker", "weights": "auto", "sparsity": "2:4", **changes}
    return RunOptions(model=str(module), use_cache=True, **fields)  # type: ignore[arg-type]


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "small.py"
    path.write_text(textwrap.dedent(MODULE))
    return path


def converted(report: RunReport, workspace: Path) -> dict[str, object]:
    folder = workspace / report.run_folder
    made = json.loads((folder / "artifacts/convert/convert.json").read_text())
    assert isinstance(made, dict)
    return made


def test_a_model_goes_through_both_containers(sdk: Path, module: Path, workspace: Path, here: Here) -> None:
    report = run_model(options(module), Silent(), lambda _: None)
    assert report.ok, [stage.reason for stage in report.stages]
    assert [stage.name for stage in report.stages][-4:] == ["check", "prepare", "convert", "collect"]
    made = converted(report, workspace)
    assert made["versions"] == {"SDK": STAND_IN.name, "image": here.image.removeprefix("sha256:")[:12]}
    rows = made["rows"]
    assert isinstance(rows, list)
    assert [(row["form"], row["variant"], row["status"], row["agreement_top1"]) for row in rows] == [
        (form, variant, "ok", 1.0) for form in ("dense", "sparse") for variant in ("float", "fixed")
    ]
    folder = workspace / report.run_folder
    told = msgspec.json.decode((folder / "vendor/outside.json").read_bytes(), type=OutsideReport)
    assert [step.exit_code for step in told.steps] == [0] * 8
    assert told.image == here.image
    assert (folder / "artifacts/convert/sparse/fixed/small_sparse.img").is_file()


def test_a_changed_sdk_stops_the_run_before_anything_runs(sdk: Path, module: Path, workspace: Path) -> None:
    (sdk / "cfg_env.sh").write_text("export SGS_IPU_DIR=/elsewhere\n")
    with pytest.raises(CheckFailed, match="its sha256 is not the recorded one"):
        run_model(options(module), Silent(), lambda _: None)
    assert not (workspace / "small").exists()


def test_the_container_has_no_network_and_writes_to_one_folder(here: Here, tmp_path: Path) -> None:
    engine = choose("docker").docker
    assert engine is not None
    ensure_archive(engine.client, here.archive, here.image, Silent(), lambda: None)
    prepared, tools = tmp_path / "run/artifacts/prepare", tmp_path / "sdk"
    prepared.mkdir(parents=True)
    shutil.copytree(STAND_IN, tools)
    (tools / "probe.py").write_text(PROBE)
    words = "two words; $(touch /outside/injected)"
    step = OutsideStep(
        name="probe",
        form="dense",
        program="probe.py",
        options=(OutsideOption(spellings=("--text",), value=words),),
        folder="dense/probe",
        timeout_s=60.0,
    )
    plan = OutsidePlan(vendor="sigmastar", target="", model="m", forms=("dense",), judged=(), steps=(step,))
    (prepared / "plan.json").write_bytes(encode(plan))
    vendors = Vendors("0" * 64, "stand-in", here.image, tools)
    report = run_outside(engine, vendors, tmp_path / "run", Silent())
    assert report is not None
    work = tmp_path / "run/vendor/work"
    assert report.steps[0].exit_code == 0, (tmp_path / "run/vendor" / report.steps[0].log).read_text()
    told = json.loads((work / "dense/probe/told.json").read_text())
    assert told == {
        "uid": os.getuid() or ROOT_UID,
        "writes": ["/outside"],
        "network": ["lo"],
        "folder": "/outside/dense/probe",
        "sourced": True,
        "words": ["--text", words],
    }
    assert not (work / "injected").exists()


def test_a_tool_that_hangs_is_ended(here: Here, tmp_path: Path) -> None:
    engine = choose("docker").docker
    assert engine is not None
    ensure_archive(engine.client, here.archive, here.image, Silent(), lambda: None)
    prepared, tools = tmp_path / "run/artifacts/prepare", tmp_path / "sdk"
    prepared.mkdir(parents=True)
    shutil.copytree(STAND_IN, tools)
    (tools / "probe.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    step = OutsideStep(name="hangs", form="dense", program="probe.py", options=(), folder="dense/hangs", timeout_s=2.0)
    plan = OutsidePlan(vendor="sigmastar", target="", model="m", forms=("dense",), judged=(), steps=(step,))
    (prepared / "plan.json").write_bytes(encode(plan))
    report = run_outside(engine, Vendors("0" * 64, "stand-in", here.image, tools), tmp_path / "run", Silent())
    assert report is not None
    assert report.steps[0].reason == "it did not end within 2 s"
    assert (tmp_path / "run/vendor" / report.steps[0].log).read_text() == "begun\n"
    assert [one for one in engine.containers() if one.env == "sigmastar-sdk"] == []


def test_another_image_than_the_recorded_one_is_refused(here: Here, tmp_path: Path) -> None:
    engine = choose("docker").docker
    assert engine is not None
    with pytest.raises(EngineError, match="not as the recorded"):
        ensure_archive(engine.client, here.archive, "sha256:" + "0" * 64, Silent(), lambda: None)
    (tmp_path / "empty.tar").write_bytes(b"\0" * 10240)
    with pytest.raises(EngineError, match=r"empty\.tar"):
        ensure_archive(engine.client, tmp_path / "empty.tar", "sha256:" + "0" * 64, Silent(), lambda: None)
