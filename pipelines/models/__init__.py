"""Name -> model: torchvision's by `onnx_tv_NAME`, registered ones, a person's own module by its path."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pipelines.contract import RunRequest
from pipelines.models.base import Model

LITE0 = "onnx_efficientnet_lite0"


def names() -> list[str]:
    """Every model that can be named here, sorted."""
    from pipelines.models.tv import PREFIX, builders

    known = [PREFIX + name for name in builders()]
    if importlib.util.find_spec("efficientnet_lite_pytorch") is not None:
        known.append(LITE0)
    return sorted(known)


def find(request: RunRequest, run_folder: Path) -> Model:
    """The model that the request names. PipelineError where it can't be had in this environment."""
    if request.module is not None:
        from pipelines.models.person import PersonsModel

        return PersonsModel(request.model, run_folder / request.module)
    if request.model == LITE0:
        from pipelines.models.lite0 import EfficientNetLite0

        return EfficientNetLite0()
    from pipelines.models.tv import TorchvisionModel

    return TorchvisionModel(request.model)
