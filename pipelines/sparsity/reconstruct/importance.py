"""How much each input channel of a layer matters: the norm of what it carries (Wanda: Sun et al. 2023, section 3)."""

from __future__ import annotations

import numpy as np
import onnx

from pipelines.arrays import Array
from pipelines.sparsity.reconstruct.correct import seen_in_order
from pipelines.sparsity.reconstruct.linear import linears_of


def activation_norms(dense: onnx.ModelProto, images: Array) -> dict[str, Array]:
    """Weight -> root mean square of each input channel [groups, channels of a group], over images [N, C, H, W].

    Over all positions, and over all taps of a convolution. What `permute_channels(weighting=...)` takes; only weights
    that one layer alone reads are among them. ValueError for no images.
    """
    norms = {}
    for one, seen in seen_in_order(dense, dense, linears_of(dense), images):
        squares = np.stack([np.diagonal(group.xx) + group.x_mean**2 for group in seen])  # [groups, taps * channels]
        norms[one.weight] = np.sqrt(squares.reshape(len(seen), -1, one.run).mean(1))
    return norms
