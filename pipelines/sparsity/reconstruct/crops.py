"""Calibration tensors: seeded crops and flips of a few photographs, through the model's own preprocessing."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.arrays import Array
from pipelines.models.base import Model
from pipelines.models.pictures import open_rgb

SMALLEST_SIDE = 0.3  # of the picture's: close ups of a few pictures show more than their wholes


def calibration_images(
    paths: Sequence[Path], model: Model, count: int, seed: int = 0, smallest: float = SMALLEST_SIDE
) -> Array:
    """float32 [count, C, H, W]: `count` crops, spread evenly over the pictures in their order.

    A crop has the picture's aspect ratio and `smallest` to 1 of its sides; every second one on average is flipped.
    ValueError for no pictures or a count below 1.
    """
    if not paths:
        raise ValueError("paths: no pictures")
    if count < 1:
        raise ValueError(f"count: {count} is below 1")
    from PIL import ImageOps

    random = np.random.default_rng(seed)
    tensors = []
    with tempfile.TemporaryDirectory() as folder:
        cropped = Path(folder, "crop.png")
        for place in range(count):
            picture = open_rgb(paths[place % len(paths)])
            share, across, down = random.uniform(smallest, 1.0), *random.uniform(0.0, 1.0, 2)
            width, height = round(picture.width * share), round(picture.height * share)
            left, top = round(across * (picture.width - width)), round(down * (picture.height - height))
            crop = picture.crop((left, top, left + width, top + height))
            crop = ImageOps.mirror(crop) if random.random() < 0.5 else crop
            crop.save(cropped, compress_level=0)
            tensors.append(model.preprocess(cropped))
    return np.concatenate(tensors)
