"""Arrays in files whose bytes depend on nothing but the arrays (np.savez writes the time of day)."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_DATE = (1980, 1, 1, 0, 0, 0)


def save_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """An npz, readable by np.load; uncompressed, in the order given."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def load_arrays(path: Path) -> dict[str, Array]:
    """What save_arrays wrote; nothing in it is unpickled."""
    with np.load(path, allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files}
