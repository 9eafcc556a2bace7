"""The packages are the locked ones where it counts, at import, and they fit each other."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision


@pytest.mark.parametrize("name", ["torch", "torchvision", "onnx", "onnxruntime", "numpy"])
def test_what_is_imported_is_the_locked_version_from_the_tree(lock: dict[str, Any], name: str) -> None:
    module = importlib.import_module(name)
    wanted = next(one["version"] for one in lock["package"] if one["name"] == name)
    assert module.__version__.partition("+")[0] == wanted
    assert Path(str(module.__file__)).resolve().is_relative_to(Path(sys.prefix).resolve())


def test_torch_and_numpy_share_memory() -> None:
    """A numpy that torch was not built for imports well and fails here."""
    assert torch.from_numpy(np.arange(3, dtype=np.float32)).numpy().tolist() == [0, 1, 2]


def test_the_operators_of_torchvision_are_loaded() -> None:
    """A torchvision that was not built for this torch imports with a warning and fails here."""
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    assert torchvision.ops.nms(boxes, torch.tensor([0.1, 0.9]), 0.5).tolist() == [1]


def test_the_same_export_twice_gives_the_same_bytes() -> None:
    network = torchvision.models.mobilenet_v3_small(weights=None).eval()

    def exported() -> bytes:
        buffer = io.BytesIO()
        torch.onnx.export(network, torch.zeros(1, 3, 64, 64), buffer, opset_version=13)
        return buffer.getvalue()

    assert exported() == exported()
