"""preprocess: the saved tensors are the pictures' own, in the request's order; values against hand-made oracles."""

from __future__ import annotations

import hashlib
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
from pipelines.errors import PipelineError
from pipelines.models.lite0 import EfficientNetLite0
from pipelines.models.pictures import open_rgb
from pipelines.models.tv import PREFIX, TorchvisionModel

Make = Callable[..., RunRequest]
Go = Callable[..., RunReport]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision documents them


def tensors(report: RunReport, workspace: Path) -> dict[str, Any]:
    return load_arrays(workspace / report.run_folder / "artifacts/preprocess/inputs.npz")


@pytest.mark.parametrize("turn", [1, -1])
def test_tensors_stand_in_the_order_of_the_request(
    request_for: Make, run_all: Go, workspace: Path, data: Path, turn: int
) -> None:
    asked = pictures(data)[::turn]
    saved = tensors(run_all(request_for(pictures=asked)), workspace)
    assert saved["names"].tolist() == [picture.path for picture in asked]
    assert (saved["images"].dtype, saved["images"].shape) == (np.float32, (2, 3, 16, 16))
    for image, picture in zip(saved["images"], asked, strict=True):
        pixels = np.asarray(Image.open(data / picture.path).resize((16, 16)), np.float64)
        np.testing.assert_allclose(image, (pixels.transpose(2, 0, 1) - 127) / 128, atol=1e-6)


def test_no_picture_is_a_failure(request_for: Make, run_all: Go) -> None:
    stage = by_name(run_all(request_for(pictures=())))["preprocess"]
    assert (stage.status, stage.reason.partition(";")[0]) == ("failed", "the lock holds no pictures")


def test_pictures_that_give_two_shapes_are_a_failure(request_for: Make, run_all: Go, data: Path) -> None:
    Image.new("RGB", (40, 40)).save(data / "two" / "c.png")
    text = MODULE.replace(".resize((16, 16))", "")
    stage = by_name(run_all(request_for(module=text)))["preprocess"]
    assert stage.status == "failed"
    assert "preprocessing gives shapes (1, 3, 24, 20) and (1, 3, 40, 40)" in stage.reason


def test_a_locked_file_that_is_no_picture_is_named(request_for: Make, run_all: Go, data: Path) -> None:
    text = b"a page of an error server"
    (data / "two" / "c.jpg").write_bytes(text)
    odd = Picture(path="two/c.jpg", sha256=hashlib.sha256(text).hexdigest(), collection="two")
    request = request_for(model="onnx_tv_squeezenet1_1", pictures=(*pictures(data), odd))
    stage = by_name(run_all(msgspec.structs.replace(request, module=None)))["preprocess"]
    assert stage.status == "failed"
    assert stage.reason.startswith("c.jpg is no picture")


@pytest.mark.parametrize("cut", [20, 60, 100])
def test_a_picture_cut_short_is_refused_in_one_line(tmp_path: Path, data: Path, cut: int) -> None:
    whole = (data / "two" / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:cut])
    with pytest.raises(PipelineError, match=r"a\.png") as caught:
        open_rgb(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    kind = "tiff" if mode in ("CMYK", "I;16") else "png"
    Image.new(mode, (8, 6)).save(tmp_path / f"x.{kind}")
    opened = open_rgb(tmp_path / f"x.{kind}")
    assert (opened.mode, opened.size) == ("RGB", (8, 6))


def plain(path: Path, colour: tuple[int, int, int], size: tuple[int, int]) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.mark.parametrize(("name", "side"), [("resnet18", 224), ("inception_v3", 299), ("vit_b_16", 224)])
def test_torchvision_s_values_of_a_plain_colour_are_arithmetic(tmp_path: Path, name: str, side: int) -> None:
    colour = (10, 128, 250)
    made = TorchvisionModel(PREFIX + name).preprocess(plain(tmp_path / "x.png", colour, (500, 301)))
    assert (made.dtype, made.shape) == (np.float32, (1, 3, side, side))
    for channel, value in enumerate(colour):
        np.testing.assert_allclose(made[0, channel], (value / 255 - MEAN[channel]) / STD[channel], atol=1e-6)


def test_lite0_s_values_of_a_plain_colour_are_arithmetic(tmp_path: Path) -> None:
    made = EfficientNetLite0().preprocess(plain(tmp_path / "x.png", (0, 127, 255), (300, 260)))
    assert (made.dtype, made.shape) == (np.float32, (1, 3, 224, 224))
    assert [np.unique(channel).tolist() for channel in made[0]] == [[-127 / 128], [0.0], [1.0]]


@pytest.mark.parametrize("size", [(400, 256), (256, 400), (301, 257)])
def test_the_crop_is_the_centre(tmp_path: Path, size: tuple[int, int]) -> None:
    """A picture dark left of its middle and bright right of it stays so."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, size[0] // 2 :] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    for model in (EfficientNetLite0(), TorchvisionModel("onnx_tv_resnet18")):
        row = model.preprocess(tmp_path / "x.png")[0, 0, 112]
        bright = int((row > row.mean()).sum())
        assert abs(bright - 112) <= 1, type(model).__name__
