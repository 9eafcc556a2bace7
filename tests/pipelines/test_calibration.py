"""Calibration pictures: prepared as those that judge are, in their order, from the lock's data or the user's folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from conftest import MODULE, by_name, pictures
from PIL import Image

from pipelines.arrays import load_arrays
from pipelines.contract import Picture, RunReport, RunRequest
from pipelines.stages import preprocess

Make = Callable[..., RunRequest]
Go = Callable[..., RunReport]


def saved(report: RunReport, workspace: Path, file: str) -> dict[str, Any]:
    return load_arrays(workspace / report.run_folder / "artifacts/preprocess" / file)


def own(request: RunRequest, workspace: Path, source: Path) -> RunRequest:
    """The same request with the calibration pictures copied into its run folder, as the user's own."""
    made = []
    for place, picture in enumerate(request.calibration, 1):
        path = f"input/calibration/{place:04}.png"
        target = workspace / request.run_folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / picture.path, target)
        made.append(Picture(path=path, sha256=picture.sha256, collection="own", place="run"))
    return msgspec.structs.replace(request, calibration=tuple(made))


def test_they_are_prepared_as_the_pictures_that_judge(
    request_for: Make, run_all: Go, workspace: Path, data: Path
) -> None:
    """What calibrates in one run judges in another: the same tensors."""
    fit = run_all(request_for(1, calibration=pictures(data, "calibration")))
    judge = run_all(request_for(2, pictures=pictures(data, "calibration")))
    assert by_name(fit)["preprocess"].facts["calibration_tensors"] == 1
    given, wanted = saved(fit, workspace, "calibration.npz"), saved(judge, workspace, "inputs.npz")
    assert given["names"].tolist() == wanted["names"].tolist() == ["calibration/c.png"]
    np.testing.assert_array_equal(given["images"], wanted["images"])
    assert saved(fit, workspace, "inputs.npz")["images"].shape == (2, 3, 16, 16)


def test_without_them_there_is_no_file(request_for: Make, run_all: Go, workspace: Path) -> None:
    report = run_all(request_for())
    assert not (workspace / report.run_folder / "artifacts/preprocess/calibration.npz").exists()
    assert "calibration_tensors" not in by_name(report)["preprocess"].facts


@pytest.mark.parametrize("turn", [1, -1])
def test_they_stand_in_the_order_of_the_request(
    request_for: Make, run_all: Go, workspace: Path, data: Path, turn: int
) -> None:
    Image.new("RGB", (20, 20), (9, 9, 9)).save(data / "calibration" / "d.png")
    asked = pictures(data, "calibration")[::turn]
    images = saved(run_all(request_for(calibration=asked)), workspace, "calibration.npz")["images"]
    plain = [bool(np.ptp(image) == 0) for image in images]
    assert plain == [picture.path.endswith("d.png") for picture in asked]


def test_the_user_s_own_give_the_same_tensors_as_the_lock_s(
    request_for: Make, run_all: Go, workspace: Path, data: Path
) -> None:
    locked = request_for(1, calibration=pictures(data, "calibration"))
    mine = own(request_for(2, calibration=locked.calibration), workspace, data)
    tensors = [saved(run_all(request), workspace, "calibration.npz") for request in (locked, mine)]
    np.testing.assert_array_equal(tensors[0]["images"], tensors[1]["images"])
    assert tensors[1]["names"].tolist() == ["input/calibration/0001.png"]


def test_the_user_s_own_also_fit_a_correction(request_for: Make, run_all: Go, workspace: Path, data: Path) -> None:
    request = request_for(correct="match", calibration=pictures(data, "calibration"))
    report = run_all(own(request, workspace, data))
    assert report.ok
    assert by_name(report)["sparsify"].facts["calibration_pictures"] == 1


@pytest.mark.parametrize("change", ["a byte", "gone"])
def test_a_picture_that_changed_after_it_was_asked_for_is_refused(
    request_for: Make, run_all: Go, workspace: Path, data: Path, change: str
) -> None:
    request = own(request_for(calibration=pictures(data, "calibration")), workspace, data)
    path = workspace / request.run_folder / request.calibration[0].path
    path.write_bytes(path.read_bytes() + b"\0") if change == "a byte" else path.unlink()
    stage = by_name(run_all(request))["preprocess"]
    assert stage.status == "failed"
    assert "0001.png" in stage.reason
    assert "\n" not in stage.reason


def test_a_picture_that_judges_does_not_fit(request_for: Make, run_all: Go, data: Path) -> None:
    stage = by_name(run_all(request_for(calibration=pictures(data, "two"))))["preprocess"]
    assert stage.reason == "two/a.png is a picture that judges the result: it can't fit it; use another one"


def test_another_shape_than_that_of_the_pictures_that_judge_is_a_failure(
    request_for: Make, run_all: Go, data: Path
) -> None:
    Image.new("RGB", (40, 40)).save(data / "calibration" / "c.png")
    text = MODULE.replace(".resize((16, 16))", "")
    stage = by_name(run_all(request_for(module=text, calibration=pictures(data, "calibration"))))["preprocess"]
    assert stage.reason.startswith("preprocessing gives shapes (1, 3, 24, 20) and (1, 3, 40, 40)")


def test_a_corrupt_picture_of_the_user_s_own_is_theirs_to_mend(
    request_for: Make, run_all: Go, workspace: Path, data: Path
) -> None:
    whole = (data / "calibration" / "c.png").read_bytes()
    (data / "calibration" / "c.png").write_bytes(whole[:200])
    request = request_for(model="onnx_tv_squeezenet1_1", calibration=pictures(data, "calibration"))
    request = own(msgspec.structs.replace(request, module=None), workspace, data)
    stage = by_name(run_all(request))["preprocess"]
    assert stage.reason.startswith("picture 0001.png is corrupt")
    assert stage.reason.endswith("leave it out of the --calibration folder; input/calibration.json has its name there")


def test_more_tensors_than_a_tool_can_hold_are_refused_before_they_are_made(
    request_for: Make, run_all: Go, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess, "LARGEST_BYTES", 2 * 3 * 16 * 16 * 4)
    Image.new("RGB", (20, 20)).save(data / "calibration" / "d.png")
    Image.new("RGB", (20, 20), (1, 2, 3)).save(data / "calibration" / "e.png")
    assert by_name(run_all(request_for(1)))["preprocess"].status == "ok"
    stage = by_name(run_all(request_for(2, calibration=pictures(data, "calibration"))))["preprocess"]
    assert stage.reason == "3 calibration pictures make 0.0 GiB of tensors; give fewer"
