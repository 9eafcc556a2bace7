"""torchvision's classification models: `onnx_tv_NAME`."""

from __future__ import annotations

import difflib
import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torchvision

from pipelines.errors import PipelineError
from pipelines.models.base import Preprocessing
from pipelines.models.pictures import open_rgb

PREFIX = "onnx_tv_"
AUXILIARY = ("inception_v3", "googlenet")  # models with heads that only train

# published DenseNet files are older than the rule that module names hold no dots: norm.1 is norm1 now
_DOTTED = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def builders() -> dict[str, Any]:
    """Name -> builder of every classification model of the installed torchvision (0.13 has no list of its own)."""
    found = {}
    for name, builder in vars(torchvision.models).items():
        if inspect.isfunction(builder) and _weights_enum(builder) is not None:
            found[name] = builder
    return found


def _weights_enum(builder: Any) -> Any:
    """The `WeightsEnum` that the builder's `weights` argument is annotated with, or None."""
    argument = inspect.signature(builder).parameters.get("weights")
    if argument is None:
        return None
    return next((kind for kind in typing.get_args(argument.annotation) if hasattr(kind, "__members__")), None)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


class TorchvisionModel:
    """One of torchvision's models."""

    anchor_top1 = None

    def __init__(self, name: str) -> None:
        known = builders()
        short = name.removeprefix(PREFIX)
        if not name.startswith(PREFIX) or short not in known:
            near = difflib.get_close_matches(short, known, n=3)
            hint = f"did you mean {', '.join(PREFIX + one for one in near)}?" if near else "`invoke models` lists them"
            raise PipelineError(f"no model is called {name!r} in torchvision {torchvision.__version__}", hint)
        self.name = name
        self._short = short
        self._builder = known[short]
        self._transforms = _weights_enum(self._builder).DEFAULT.transforms()

    def preprocessing(self) -> Preprocessing:
        """What the published weights were evaluated with."""
        its = self._transforms
        return Preprocessing(
            order="resize-crop",
            resize=int(its.resize_size[0]),
            crop=int(its.crop_size[0]),
            interpolation=its.interpolation.value,
            scale=255.0,
            mean=_three(its.mean),
            std=_three(its.std),
        )

    def preprocess(self, picture: Path) -> np.ndarray[Any, Any]:
        """By torchvision's own transforms: float32 [1, 3, H, W]."""
        tensor: np.ndarray[Any, Any] = self._transforms(open_rgb(picture)).unsqueeze(0).numpy()
        return tensor

    def build(self, published: bool) -> Any:
        """The network; published files of models with auxiliary heads hold those heads too."""
        if self._short.startswith("vit_"):  # position embeddings fit one picture size only
            return self._builder(weights=None, image_size=self.preprocessing().crop)
        if self._short not in AUXILIARY:
            return self._builder(weights=None)
        # their own initialisation draws from a truncated normal for minutes: the framework's default serves as well
        return self._builder(weights=None, aux_logits=published, transform_input=published, init_weights=False)

    def fitting(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """DenseNet's old names made new."""
        if not self._short.startswith("densenet"):
            return state
        return {_DOTTED.sub(r"\1\2.", name): value for name, value in state.items()}

    def ready(self, network: Any) -> Any:
        """Without auxiliary heads."""
        if self._short in AUXILIARY:
            network.aux_logits = False
            for head in ("AuxLogits", "aux1", "aux2"):
                if hasattr(network, head):
                    setattr(network, head, None)
        return network.eval()

    def onnx_file(self) -> None:
        return None
