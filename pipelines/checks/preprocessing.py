"""Were the pictures prepared as the model declares? Done again from the declaration, by other code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.arrays import Array
from pipelines.checks.finding import Finding, judged
from pipelines.models.base import Model, Preprocessing
from pipelines.models.person import PersonsModel
from pipelines.models.pictures import open_rgb

LIMIT = 1e-5  # a few roundings of float32 at values of about 3; one grey level is above 0.007

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def declared(picture: Path, how: Preprocessing) -> Array:
    """float32 [1, 3, crop, crop], from the declaration alone."""
    whole = open_rgb(picture)
    if how.order == "resize-crop":
        short, long = sorted(whole.size)
        other = int(how.resize * long / short)
        size = (how.resize, other) if whole.width <= whole.height else (other, how.resize)
        resized = whole.resize(size, _FILTERS[how.interpolation])
        left, top = (round((side - how.crop) / 2.0) for side in resized.size)
        square = resized.crop((left, top, left + how.crop, top + how.crop))
    else:
        side = int(min(whole.size) * how.crop / how.resize)
        left, top = ((length - side) // 2 for length in whole.size)
        box = (left, top, left + side, top + side)
        square = whole.crop(box).resize((how.crop, how.crop), _FILTERS[how.interpolation])
    channels = np.asarray(square, np.float64).transpose(2, 0, 1) / how.scale
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (how.mean, how.std))
    made: Array = ((channels - mean) / std).astype(np.float32)[None]
    return made


def preprocessed_as_declared(model: Model, images: Array, pictures: Sequence[Path]) -> list[Finding]:
    """The saved tensors against the declaration, or against a person's functions run once more."""
    name = "preprocessing is as declared"
    how = model.preprocessing()
    if len(images) != len(pictures):
        return [judged(name, False, f"{len(images)} tensors for {len(pictures)} pictures")]
    if how is not None:
        return [_compare(name, images, pictures, [declared(picture, how) for picture in pictures])]
    again = _compare("preprocessing repeats", images, pictures, [model.preprocess(picture) for picture in pictures])
    if not isinstance(model, PersonsModel):
        return [again]
    theirs = [model.image_preprocess(picture) for picture in pictures]
    if any(one is None for one in theirs):
        reason = "the module has no image_preprocess to compare onnx_preprocess with"
        return [again, Finding(name=name, status="skipped", detail=reason)]
    both = "onnx_preprocess equals image_preprocess"
    return [again, _compare(both, images, pictures, [one for one in theirs if one is not None])]


def _compare(name: str, images: Array, pictures: Sequence[Path], wanted: Sequence[Array]) -> Finding:
    worst, where = 0.0, ""
    for image, picture, one in zip(images, pictures, wanted, strict=True):
        if image.shape != one.shape[1:]:
            return judged(name, False, f"{picture.name}: shape {list(image.shape)}, not {list(one.shape[1:])}")
        difference = float(np.abs(image.astype(np.float64) - one[0]).max())
        if not difference <= worst:  # NaN is the worst of all
            worst, where = difference, picture.name
            if np.isnan(worst):
                break
    detail = f"largest difference {worst:.3g}" + (f" at {where}" if where else "") + f", limit {LIMIT:g}"
    value = worst if np.isfinite(worst) else None  # JSON has no NaN and no infinity
    return judged(name, worst <= LIMIT, detail, value=value, limit=LIMIT)
