"""The compiled kernels of channels-last layers (pipelines/native), ready to be called."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.arrays import Array
from pipelines.native import load

_POINTER, _FLOAT = ctypes.c_void_p, ctypes.c_float
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "edgekiln_nm_conv": (*[_POINTER] * 7, _FLOAT, _FLOAT, _POINTER),
    "edgekiln_depthwise": (*[_POINTER] * 5, _FLOAT, _FLOAT, _POINTER),
    "edgekiln_max_pool": (_POINTER,) * 4,
}


@functools.cache
def kernel(name: str) -> ctypes._NamedFuncPointer:
    """A function of the native library. LookupError where there is none: `pipelines.native.why_missing` says why."""
    native = load()
    if native is None:
        raise LookupError(name)
    function: ctypes._NamedFuncPointer = getattr(native.library, name)
    function.argtypes, function.restype = _ARGUMENTS[name], None
    return function


def whole_numbers(*parts: Sequence[int] | int) -> Array:
    """int64, of all parts one after the other."""
    return np.array([one for part in parts for one in ([part] if isinstance(part, int) else part)], np.int64)
