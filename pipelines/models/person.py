"""A person's own model: a Python module whose name is known only at run time.

It must define `onnx_preprocess(path) -> float32 [1, C, H, W]` and one of `build_model() -> torch.nn.Module` or
`onnx_model() -> path of an ONNX file` (relative to the module). It may define SigmaStar's
`image_preprocess(path, norm=True)` (NHWC; float32 normalised, or uint8 resized with norm=False).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pipelines.errors import PipelineError, first_line


def load_module(path: Path) -> ModuleType:
    """Import the file under its own stem. PipelineError where it is missing or its import fails."""
    name = f"person_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise PipelineError(f"{path.name}: no Python module there")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))  # it may import its neighbours
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise PipelineError(
            f"{path.name} can't be imported: {type(error).__name__}: {first_line(error)}", "mend the module"
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


class PersonsModel:
    """The functions of such a module, each result checked."""

    anchor_top1 = None

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._path = path
        self._module = load_module(path)
        self._require("onnx_preprocess", "it makes the input: onnx_preprocess(path) -> float32 [1, C, H, W]")
        if not (self._has("build_model") or self._has("onnx_model")):
            raise PipelineError(
                f"{path.name} has neither build_model nor onnx_model",
                "define build_model() -> torch.nn.Module, or onnx_model() -> path of an ONNX file",
            )

    def _has(self, function: str) -> bool:
        return callable(getattr(self._module, function, None))

    def _require(self, function: str, why: str) -> None:
        if not self._has(function):
            raise PipelineError(f"{self._path.name} has no function {function}", why)

    def preprocessing(self) -> None:
        """Only its code knows."""

    def preprocess(self, picture: Path) -> np.ndarray[Any, Any]:
        """onnx_preprocess's answer, checked: float32 [1, C, H, W], finite."""
        made = self._module.onnx_preprocess(str(picture))
        what = f"{self._path.name}: onnx_preprocess({picture.name})"
        if not isinstance(made, np.ndarray) or made.dtype != np.float32 or made.ndim != 4 or made.shape[0] != 1:
            shown = f"{made.dtype}{list(made.shape)}" if isinstance(made, np.ndarray) else type(made).__name__
            raise PipelineError(f"{what} gives {shown}", "it must be a float32 array of shape [1, C, H, W]")
        if not np.isfinite(made).all():
            raise PipelineError(f"{what} gives values that are not finite")
        return made

    def image_preprocess(self, picture: Path) -> np.ndarray[Any, Any] | None:
        """image_preprocess(path, norm=True) as NCHW, or None where the module has no such function."""
        if not self._has("image_preprocess"):
            return None
        made = np.asarray(self._module.image_preprocess(str(picture), norm=True))
        what = f"{self._path.name}: image_preprocess({picture.name}, norm=True)"
        if made.ndim != 4 or made.dtype != np.float32:
            raise PipelineError(f"{what} gives {made.dtype}{list(made.shape)}", "it must be float32 [1, H, W, C]")
        planes: np.ndarray[Any, Any] = made.transpose(0, 3, 1, 2)
        return planes

    def sized(self, picture: Path) -> np.ndarray[Any, Any] | None:
        """image_preprocess(path, norm=False) as it gives it, or None where the module has no such function."""
        if not self._has("image_preprocess"):
            return None
        return np.asarray(self._module.image_preprocess(str(picture), norm=False))

    def build(self, published: bool) -> Any:
        """build_model's network."""
        del published
        import torch

        network = self._module.build_model()
        if not isinstance(network, torch.nn.Module):
            raise PipelineError(f"{self._path.name}: build_model gives {type(network).__name__}, not a torch.nn.Module")
        return network

    def fitting(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """As it is."""
        return state

    def ready(self, network: Any) -> Any:
        """For inference."""
        return network.eval()

    def onnx_file(self) -> Path | None:
        """The ONNX file that onnx_model names, if the module has that function."""
        if not self._has("onnx_model"):
            return None
        path = Path(str(self._module.onnx_model()))
        path = path if path.is_absolute() else self._path.parent / path
        if not path.is_file():
            raise PipelineError(f"{self._path.name}: onnx_model names {path.name}, which is not there")
        return path
