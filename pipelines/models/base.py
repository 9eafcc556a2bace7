"""What a model is to the pipeline: a network to build, how its input is made, and what it is known to reach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    import numpy as np


class Preprocessing(msgspec.Struct, frozen=True, kw_only=True):
    """How a picture becomes a tensor, as data: enough to do it again without the framework.

    `resize-crop`: the short side becomes `resize` pixels, then the centre `crop` x `crop`.
    `crop-resize`: the centre square of `crop` / `resize` of the short side, then to `crop` x `crop`.
    The value is (x / scale - mean) / std for x in 0..255, a channel each.
    """

    order: Literal["resize-crop", "crop-resize"]
    resize: int  # pixels
    crop: int  # pixels
    interpolation: Literal["bilinear", "bicubic"]
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Model(Protocol):
    """A model of the pipeline, by name or by a person's file."""

    @property
    def name(self) -> str: ...

    @property
    def anchor_top1(self) -> int | None:
        """How many of the locked labelled pictures its published weights are known to get right; None: not known."""

    def preprocessing(self) -> Preprocessing | None:
        """The declared form; None where only the model's own code knows."""

    def preprocess(self, picture: Path) -> np.ndarray[Any, Any]:
        """float32 [1, C, H, W]."""

    def build(self, published: bool) -> Any:
        """A torch.nn.Module without weights (random ones, from the current seed); `published`: as its file needs it."""

    def fitting(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """A state dict out of a file, under the names that the network gives its tensors."""

    def ready(self, network: Any) -> Any:
        """The network as it is exported, after its weights are in: heads that only train are gone."""

    def onnx_file(self) -> Path | None:
        """An ONNX file in place of a network; None for all but a person's own."""
