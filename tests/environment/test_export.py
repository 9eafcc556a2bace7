"""Where there are torch and torchvision: they fit each other, know the lock's models, and export."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision


def test_the_operators_of_torchvision_are_loaded() -> None:
    """A torchvision that was not built for this torch imports with a warning and fails here."""
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    assert torchvision.ops.nms(boxes, torch.tensor([0.1, 0.9]), 0.5).tolist() == [1]


def test_the_models_that_the_lock_names_are_the_ones_that_are_here(lock: dict[str, Any]) -> None:
    """The host lists and refuses names by its lock alone."""
    from pipelines.models import LITE0, names

    assert names() == sorted([LITE0, *(f"onnx_tv_{one['model']}" for one in lock["hub"])])


def test_the_same_export_twice_gives_the_same_bytes() -> None:
    network = torchvision.models.mobilenet_v3_small(weights=None).eval()

    def exported() -> bytes:
        buffer = io.BytesIO()
        torch.onnx.export(network, torch.zeros(1, 3, 64, 64), buffer, opset_version=13)
        return buffer.getvalue()

    assert exported() == exported()


def test_a_network_is_exported_checked_and_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1(weights=None).eval()
    picture = torch.randn(1, 3, 64, 64)
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(network, picture, path, opset_version=13)
    onnx.checker.check_model(path, full_check=True)
    (output,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
        None, {onnx.load(path).graph.input[0].name: picture.numpy()}
    )
    with torch.no_grad():
        assert np.abs(output - network(picture).numpy()).max() < 1e-4
