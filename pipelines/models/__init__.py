"""Name -> model: torchvision's by `onnx_tv_NAME`, registered ones, a person's own module by its path."""

from __future__ import annotations

from pathlib import Path

from pipelines.contract import RunRequest
from pipelines.models.base import Model


def find(request: RunRequest, run_folder: Path) -> Model:
    """The model that the request names. PipelineError where it can't be had in this environment."""
    if request.module is not None:
        from pipelines.models.person import PersonsModel

        return PersonsModel(request.model, run_folder / request.module)
    if request.model == "onnx_efficientnet_lite0":
        from pipelines.models.lite0 import EfficientNetLite0

        return EfficientNetLite0()
    from pipelines.models.tv import TorchvisionModel

    return TorchvisionModel(request.model)
