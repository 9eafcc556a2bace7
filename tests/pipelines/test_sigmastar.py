"""SigmaStar: what the stage prepare writes, and what the stage convert makes of what the stand-in SDK left."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from conftest import by_name, pictures
from PIL import Image
from vendor_container import STAND_IN, run_plan

from pipelines.arrays import load_arrays
from pipelines.contract import (
    PREPARE,
    ConversionReport,
    OutsidePlan,
    Part,
    Picture,
    RunReport,
    RunRequest,
    VendorOptions,
    stages_of,
)
from pipelines.models.base import Preprocessing
from pipelines.runner import run
from pipelines.stages import plan
from pipelines.stages.prepare import about
from pipelines.vendors.sigmastar_files import (
    fitted_normalisation,
    normalisation,
    preprocess_module,
)

VENDOR = VendorOptions(vendor="sigmastar", sdk="0" * 64)
Parts = Callable[..., tuple[RunReport, RunReport]]


@pytest.fixture
def asked(request_for: Callable[..., RunRequest], data: Path) -> Callable[..., RunRequest]:
    """A request for SigmaStar in two parts, with one calibration picture."""

    def make(vendor: VendorOptions = VENDOR, **changes: Any) -> RunRequest:
        fields = {"vendor": vendor, "calibration": pictures(data, "calibration"), **changes}
        whole = request_for(**fields)
        if not vendor.sdk:
            return whole
        stages = stages_of(whole)
        cut = stages.index(PREPARE) + 1
        parts = tuple(Part(env="test", lock_digest="sha256:0", stages=names) for names in (stages[:cut], stages[cut:]))
        return msgspec.structs.replace(whole, parts=parts)

    return make


@pytest.fixture
def part(workspace: Path, data: Path) -> Callable[[RunRequest, int], RunReport]:
    def go(request: RunRequest, place: int) -> RunReport:
        return run(request, plan(request), workspace, data, lambda _: None, place)

    return go


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test leaves its runs: after the first part, and after the vendor's container."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def prepared(
    asked: Callable[..., RunRequest], part: Callable[[RunRequest, int], RunReport], workspace: Path, kept: Path
) -> tuple[Path, RunRequest]:
    """The run folder after the first part, and the request."""
    request = asked()
    if not (kept / "prepared").exists():
        report = part(request, 0)
        assert [stage.reason for stage in report.stages if stage.status != "ok"] == []
        shutil.copytree(workspace, kept / "prepared")
    else:
        shutil.copytree(kept / "prepared", workspace, dirs_exist_ok=True)
    return workspace / request.run_folder, request


@pytest.fixture
def ended(prepared: tuple[Path, RunRequest], kept: Path) -> tuple[Path, RunRequest]:
    """The same after the vendor's container, where the stand-in ran."""
    folder, request = prepared
    if not (kept / "vendor").exists():
        assert all(step.exit_code == 0 for step in run_plan(folder).steps)
        shutil.copytree(folder / "vendor", kept / "vendor")
    else:
        shutil.copytree(kept / "vendor", folder / "vendor", dirs_exist_ok=True)
    return folder, request


def converted(folder: Path) -> ConversionReport:
    return msgspec.json.decode((folder / "artifacts/convert/convert.json").read_bytes(), type=ConversionReport)


def reason(report: RunReport, stage: str) -> str:
    return by_name(report)[stage].reason


def module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_every_network_is_converted_and_both_of_its_stages_simulated(ended: Any, part: Any) -> None:
    folder, request = ended
    report = part(request, 1)
    assert report.ok, [stage.reason for stage in report.stages]
    rows = converted(folder).rows
    assert [(row.form, row.variant, row.status) for row in rows] == [
        (form, variant, "ok") for form in ("dense", "sparse") for variant in ("float", "fixed")
    ]
    for row in rows:
        assert row.cosine_centred is not None
        assert row.max_abs_diff is not None
        assert row.max_abs_diff < 1e-5 if row.variant == "float" else 0 < row.max_abs_diff < 0.1
        assert row.ran_by == "simulator of stand-in"
        assert (folder / "artifacts/convert" / row.file).stat().st_size == row.file_bytes
    chip = next(row for row in rows if row.variant == "fixed").file
    assert chip == "dense/fixed/small_dense.img"


def test_the_tool_s_own_top_classes_are_kept(ended: Any, part: Any) -> None:
    folder, request = ended
    assert part(request, 1).ok
    top = json.loads((folder / "artifacts/convert/dense/fixed/top.json").read_text())
    scores = load_arrays(folder / "artifacts/check/dense.npz")["output_0"]
    assert [len(row["classes"]) for row in top] == [5, 5]
    for row, wanted in zip(top, scores, strict=True):
        assert wanted[row["classes"][0]] >= wanted.max() - 0.05
        assert row["scores"] == sorted(row["scores"], reverse=True)


def test_top_classes_that_contradict_the_outputs_fail(ended: Any, part: Any) -> None:
    folder, request = ended
    (result,) = (path for path in folder.glob("vendor/work/dense/classes/log/output/*p0000*"))
    best = json.loads((folder / "vendor/outside.json").read_text())
    wrong = int(load_arrays(folder / "artifacts/check/dense.npz")["output_0"][0].argmin())
    result.write_text(f"order: 1 index: {wrong} score: 9.0\n")
    _record_again(folder, best, result)
    second = part(request, 1)
    assert f"the simulator names class {wrong} first" in reason(second, "convert")


def test_top_classes_that_can_t_be_read_are_said_and_fail_nothing(ended: Any, part: Any) -> None:
    folder, request = ended
    told = json.loads((folder / "vendor/outside.json").read_text())
    for result in folder.glob("vendor/work/dense/classes/log/output/*"):
        result.write_text("a format of another version\n")
        _record_again(folder, told, result)
    assert part(request, 1).ok
    top = json.loads((folder / "artifacts/convert/dense/fixed/top.json").read_text())
    assert all("names no class" in row["reason"] for row in top)


def _record_again(folder: Path, told: dict[str, Any], path: Path) -> None:
    """As if the container had left this content."""
    import hashlib

    for file in told["files"]:
        if folder / "vendor" / file["path"] == path:
            file["sha256"], file["bytes"] = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    (folder / "vendor/outside.json").write_text(json.dumps(told))


def test_a_file_that_changed_after_the_container_ended_is_refused(ended: Any, part: Any) -> None:
    folder, request = ended
    (folder / "vendor/work/dense/convert/small_dense.img").write_bytes(b"something else")
    assert "small_dense.img is corrupt" in reason(part(request, 1), "convert")


def test_a_converter_that_fails_is_one_line_with_its_own_words(prepared: Any, part: Any, tmp_path: Path) -> None:
    folder, request = prepared
    model = folder / "artifacts/prepare/small_dense.onnx"
    broken = onnx.load(model)
    broken.opset_import[0].version = 14
    model.unlink()
    onnx.save(broken, model)
    run_plan(folder)
    report = part(request, 1)
    assert by_name(report)["convert"].status == "failed"
    assert "dense-convert ended with 1: [ERROR] stand-in: opset 14 is higher than 13" in reason(report, "convert")
    assert [row.status for row in converted(folder).rows] == ["failed", "failed", "ok", "ok"]
    assert "opset 14" in (folder / "artifacts/convert/dense/float/dense-convert.log").read_text()


def test_two_results_for_a_picture_are_none(ended: Any, part: Any) -> None:
    folder, request = ended
    results = folder / "vendor/work/sparse/fixed/log/output"
    one = min(results.iterdir())  # the first picture's
    shutil.copy(one, results / f"unknown_again_{one.name}")
    assert "left 2 results for small_sparse and p0000_16x16.png" in reason(part(request, 1), "convert")


def test_without_an_sdk_convert_is_skipped_and_all_before_it_has_run(
    asked: Callable[..., RunRequest], run_all: Callable[[RunRequest], RunReport]
) -> None:
    report = run_all(asked(VendorOptions(vendor="sigmastar")))
    stages = by_name(report)
    assert report.ok
    assert "prepare" not in stages
    assert stages["check"].status == "ok"
    assert stages["convert"].status == "skipped"
    assert stages["convert"].reason == "SigmaStar SDK not present, add it with `invoke sdk add sigmastar PATH`"


def test_without_calibration_pictures_prepare_fails_in_one_line(asked: Any, part: Any) -> None:
    request = asked(calibration=())
    report = part(request, 0)
    assert reason(report, "prepare") == (
        "no calibration pictures, and the vendor's tool quantises by them; give --calibration FOLDER"
    )
    assert reason(part(request, 1), "convert") == "prepare failed"


def test_pictures_get_ascii_names_and_their_final_size(
    asked: Any, part: Any, data: Path, workspace: Path, tmp_path: Path
) -> None:
    odd = data / "calibration" / "图片 é.png"
    shutil.copy(data / "calibration/c.png", odd)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(odd)
    request = asked(calibration=pictures(data, "calibration"))
    assert by_name(part(request, 0))["prepare"].status == "ok"
    names = sorted(path.name for path in (workspace / request.run_folder / "artifacts/prepare/calibration").iterdir())
    assert names == ["p0000_16x16.png", "p0001_16x16.png"]


def test_the_plan_is_the_documented_command(prepared: Any) -> None:
    folder, _ = prepared
    made = msgspec.json.decode((folder / "artifacts/prepare/plan.json").read_bytes(), type=OutsidePlan)
    step = made.steps[0]
    words = [word for option in step.options for word in (option.spellings[0], option.value) if word]
    assert [step.program, *step.words, *words] == [
        *("Scripts/ConvertTool/SGS_converter.py", "onnx", "-i", "/prepared/calibration"),
        *("--model_file", "/prepared/small_dense.onnx", "--input_shape", "1,3,16,16"),
        *("--input_config", "/prepared/input_config.ini", "-n", "/prepared/small_preprocess.py"),
        *("--output_file", "/outside/dense/convert/small_dense.img", "--export_models", "--soc_version", "pcupid"),
    ]
    assert [one.name for one in made.steps] == [
        f"{form}-{step}" for form in ("dense", "sparse") for step in ("convert", "float", "fixed", "classes")
    ]


def test_prepare_leaves_what_the_plan_names_and_nothing_else(prepared: Any) -> None:
    folder = prepared[0] / "artifacts/prepare"
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert left == {
        *("plan.json", "input_config.ini", "small_preprocess.py", "small_dense.onnx", "small_sparse.onnx"),
        *("calibration", "calibration/p0000_16x16.png", "judged", "judged/p0000_16x16.png", "judged/p0001_16x16.png"),
    }


def test_the_ini_is_derived_from_the_module_s_own_pictures(prepared: Any) -> None:
    folder, _ = prepared
    assert (folder / "artifacts/prepare/input_config.ini").read_text() == (
        "[INPUT_CONFIG]\ninputs=input;\ntraining_input_formats=RGB;\ninput_formats=RGB;\nquantizations=TRUE;\n"
        "mean=127:127:127;\nstd_value=128;\n\n[OUTPUT_CONFIG]\noutputs=output;\ndequantizations=TRUE;\n"
    )


UNEQUAL = """
    def image_preprocess(path, norm=True):
        resized = np.asarray(Image.open(path).convert("RGB").resize((16, 16)))[None]
        return ((resized / 255.0) ** 2).astype(np.float32) if norm else resized
"""
NONE = """
    import numpy as np
    import torch
    from PIL import Image


    def onnx_preprocess(path):
        resized = np.asarray(Image.open(path).convert("RGB").resize((16, 16)))[None]
        return ((resized - 127.0) / 128.0).astype(np.float32).transpose(0, 3, 1, 2)


    def build_model():
        return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 14 * 14, 10))
"""


def test_a_preprocessing_that_no_mean_and_std_describe_is_refused(asked: Any, part: Any) -> None:
    from conftest import MODULE

    head, tail = MODULE.split("    def image_preprocess")
    module = head + UNEQUAL + "\n\n    def build_model" + tail.split("def build_model")[1]
    assert "the written preprocessing differs from the model's by" in reason(part(asked(module=module), 0), "prepare")


def test_a_module_without_image_preprocess_is_told_what_to_define(asked: Any, part: Any) -> None:
    said = reason(part(asked(module=NONE), 0), "prepare")
    assert said.startswith("small has no image_preprocess")
    assert "define image_preprocess(path, norm=True)" in said


DECLARED = [
    Preprocessing(
        order="resize-crop",
        resize=40,
        crop=32,
        interpolation="bilinear",
        scale=255.0,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    Preprocessing(
        order="crop-resize",
        resize=40,
        crop=32,
        interpolation="bicubic",
        scale=1.0,
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
    ),
]


@pytest.mark.parametrize("how", DECLARED, ids=lambda how: how.order)
@pytest.mark.parametrize("size", [(50, 70), (70, 50), (33, 33), (32, 32)])
def test_the_written_module_does_what_is_declared(how: Preprocessing, size: tuple[int, int], tmp_path: Path) -> None:
    from pipelines.checks.preprocessing import LIMIT, declared

    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    by = normalisation(how)
    written = tmp_path / "m_preprocess.py"
    written.write_text(preprocess_module("m", how, by, how.crop, how.crop))
    module = module_at(written)
    wanted = declared(path, how).transpose(0, 2, 3, 1)
    made, raw = module.image_preprocess(str(path)), module.image_preprocess(str(path), norm=False)
    assert (made.dtype, raw.dtype, made.shape, raw.shape) == (np.float32, np.uint8, wanted.shape, wanted.shape)
    assert np.abs(made - wanted).max() <= LIMIT
    assert np.abs((raw - np.array(by.mean)) / np.array(by.std) - wanted).max() <= LIMIT
    sized = tmp_path / f"p_{how.crop}x{how.crop}.png"
    Image.fromarray(raw[0]).save(sized)
    assert np.array_equal(module.image_preprocess(str(sized), norm=False), raw)


def test_a_normalisation_is_found_from_its_pictures() -> None:
    uint8 = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    found = fitted_normalisation(uint8, ((uint8 - mean) / std).astype(np.float32))
    assert np.allclose(found.mean, mean, atol=1e-3)
    assert np.allclose(found.std, std, atol=1e-3)
    with pytest.raises(ValueError, match="channel 0"):
        fitted_normalisation(np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 2, 2, 3), np.float32))


def test_calibration_pictures_are_taken_evenly() -> None:
    many = tuple(Picture(path=str(at), sha256="0", collection="c") for at in range(100))
    taken = about(many, 32)
    assert len(taken) == 32
    assert taken[0] is many[0]
    steps = {int(right.path) - int(left.path) for left, right in itertools.pairwise(taken)}
    assert steps == {3, 4}
    assert about(many[:5], 32) == many[:5]


def test_the_stand_in_says_what_it_is() -> None:
    for path in STAND_IN.rglob("*"):
        if path.suffix in (".py", ".sh"):
            assert "stand-in" in path.read_text("utf-8"), path
