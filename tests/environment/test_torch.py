"""Where there is torch: it fits the other packages."""

from __future__ import annotations

import numpy as np
import torch


def test_torch_and_numpy_share_memory() -> None:
    """A numpy that torch was not built for imports well and fails here."""
    assert torch.from_numpy(np.arange(3, dtype=np.float32)).numpy().tolist() == [0, 1, 2]
