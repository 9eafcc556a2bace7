"""Loading weights without running code: torch's `weights_only`, and the same promise for torch before 1.13."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pipelines.errors import PipelineError, first_line

_ADMITTED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
_STORAGES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")


class _Unpickler(pickle.Unpickler):
    """Finds what tensors are made of, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ADMITTED:
            return _ADMITTED[module, name]
        if module == "torch" and name.removesuffix("Storage") in _STORAGES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a tensor")


def load_state(path: Path) -> dict[str, Any]:
    """A state dict: name -> tensor on the CPU. PipelineError for anything else, before any of it could run."""
    try:
        if _has_weights_only():
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        else:
            restricted = SimpleNamespace(
                Unpickler=_Unpickler, load=lambda file, **how: _Unpickler(file, **how).load(), __name__="restricted"
            )
            loaded = torch.load(path, map_location="cpu", pickle_module=restricted)
    except Exception as error:  # a broken file makes the readers raise nearly every type there is
        raise PipelineError(
            f"{path.name} can't be loaded as weights: {first_line(error)}", "give a state dict of tensors"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise PipelineError(f"{path.name} holds no state dict", "save it with torch.save(model.state_dict(), PATH)")
    return state


def _has_weights_only() -> bool:
    return tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (1, 13)
