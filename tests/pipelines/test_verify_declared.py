"""Tensors that are not as the model declares, and accuracy that is not reached, are found and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from pipelines.checks.preprocessing import declared, preprocessed_as_declared
from pipelines.contract import RunRequest, Weights
from pipelines.models.base import Preprocessing
from pipelines.stages.verify import _anchor

HOW = Preprocessing(
    order="resize-crop",
    resize=16,
    crop=12,
    interpolation="bilinear",
    scale=255.0,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


class Declaration:
    """As much of a model as the check asks for."""

    def __init__(self, how: Preprocessing) -> None:
        self.preprocessing = lambda: how


FAULTS: dict[str, Callable[[Any], Any]] = {
    "wrong mean": lambda made: made + np.float32(0.001 / 0.229),  # a quarter of a grey level
    "BGR": lambda made: made[:, ::-1],
    "shifted crop": lambda made: np.roll(made, 1, axis=2),
    "pictures swapped": lambda made: made[::-1],
    "NaN": lambda made: np.where(np.arange(made.size).reshape(made.shape) == 7, np.nan, made),
    "infinite": lambda made: np.where(np.arange(made.size).reshape(made.shape) == 7, np.inf, made),
}


@pytest.mark.parametrize("order", ["resize-crop", "crop-resize"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_its_picture_named(data: Path, order: str, interpolation: str, fault: str) -> None:
    how = msgspec.structs.replace(HOW, order=order, interpolation=interpolation)
    paths = sorted(data.glob("two/*.png"))
    made = np.concatenate([declared(path, how) for path in paths])
    model: Any = Declaration(how)
    (good,) = preprocessed_as_declared(model, made, paths)
    assert (good.status, good.value) == ("ok", 0.0)
    (bad,) = preprocessed_as_declared(model, FAULTS[fault](made), paths)
    assert bad.status == "failed"
    assert ".png, limit" in bad.detail
    assert bad.value is None or np.isfinite(bad.value)


def test_a_lost_picture_and_another_size_are_found(data: Path) -> None:
    paths = sorted(data.glob("two/*.png"))
    made = np.concatenate([declared(path, HOW) for path in paths])
    model: Any = Declaration(HOW)
    assert preprocessed_as_declared(model, made[:1], paths)[0].detail == "1 tensors for 2 pictures"
    assert "shape [3, 11, 12], not [3, 12, 12]" in preprocessed_as_declared(model, made[:, :, 1:], paths)[0].detail


@pytest.mark.parametrize(
    ("kind", "labelled", "reached", "status"),
    [
        ("published", 20, 18, "ok"),
        ("published", 20, 17, "failed"),
        ("published", 20, None, "failed"),
        ("published", 2, 2, "skipped"),
        ("random", 20, None, "skipped"),
    ],
)
def test_a_known_accuracy_must_be_reached(
    request_for: Callable[..., RunRequest], kind: Any, labelled: int, reached: int | None, status: str
) -> None:
    request = request_for(weights=Weights(kind=kind))
    assert _anchor({"labelled": labelled, "dense_top1": reached}, 18, request).status == status
