"""The files that SigmaStar's tools read and write: input_config.ini, a preprocess module, the simulator's results.

Formats as in the vendor's IPU SDK documentation (S1.0.9 to 25121210) and in what its simulator prints.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.arrays import Array
from pipelines.errors import PipelineError
from pipelines.models.base import Preprocessing

TOP = 5  # classes that are kept of each picture


@dataclass(frozen=True)
class Normalisation:
    """(x - mean) / std for x in 0..255, a channel each, in the order red, green, blue."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def normalisation(declared: Preprocessing) -> Normalisation:
    """The declared (x / scale - mean) / std in units of 0..255."""
    mean, std = ([_short(value * declared.scale) for value in values] for values in (declared.mean, declared.std))
    return Normalisation(tuple(mean), tuple(std))


def fitted_normalisation(uint8: Array, normalised: Array) -> Normalisation:
    """What turns uint8 [N, H, W, C] into float32 [N, H, W, C], by least squares over all their values.

    ValueError where a channel has one value only, or shapes differ. The caller checks how well it fits.
    """
    if uint8.shape != normalised.shape:
        raise ValueError(f"uint8 {list(uint8.shape)} and normalised {list(normalised.shape)}")
    mean, std = [], []
    for channel in range(uint8.shape[-1]):
        x, y = (one[..., channel].astype(np.float64).ravel() for one in (uint8, normalised))
        spread = x - x.mean()
        slope = float(spread @ y / (spread @ spread)) if spread.any() else 0.0
        if not slope:
            raise ValueError(f"channel {channel} does not tell how it is normalised")
        mean.append(_short(x.mean() - y.mean() / slope, digits=6))
        std.append(_short(1 / slope, digits=6))
    return Normalisation(tuple(mean), tuple(std))


def input_config(inputs: Sequence[str], outputs: Sequence[str], by: Normalisation) -> str:
    """input_config.ini of a network with RGB inputs and outputs in float32.

    Alignments and convolutions' bits are left out: they are the SDK's to choose for its chip.
    """
    colons = [":".join(map(_number, values)) for values in (by.mean, by.std)]
    std = _number(by.std[0]) if len(set(by.std)) == 1 else colons[1]
    return "\n".join(
        (
            "[INPUT_CONFIG]",
            f"inputs={','.join(inputs)};",
            f"training_input_formats={','.join(['RGB'] * len(inputs))};",
            f"input_formats={','.join(['RGB'] * len(inputs))};",
            f"quantizations={','.join(['TRUE'] * len(inputs))};",
            f"mean={colons[0]};",
            f"std_value={std};",
            "",
            "[OUTPUT_CONFIG]",
            f"outputs={','.join(outputs)};",
            f"dequantizations={','.join(['TRUE'] * len(outputs))};",
            "",
        )
    )


def picture_name(place: int, height: int, width: int) -> str:
    """ASCII alone: other names hang the tool. The ending says that the picture has its final size."""
    return f"p{place:04d}{_sized(height, width)}.png"


def safe_name(name: str) -> str:
    """A name for files that the vendor's tools read: ASCII letters, digits, `_` and `-`."""
    return re.sub(r"[^0-9A-Za-z_-]", "_", name) or "model"


def preprocess_module(model: str, declared: Preprocessing | None, by: Normalisation, height: int, width: int) -> str:
    """A Python module with image_preprocess(img_path, norm=True) -> [1, H, W, 3], for Python 3.7 and newer.

    It reads pictures that have their final size with Pillow or OpenCV, which decode a PNG to the same values; it sizes
    others with Pillow, where the model declares how.
    """
    how = "None"
    if declared is not None:
        how = repr((declared.order, declared.resize, declared.crop, declared.interpolation.upper()))
    constants = {
        "@MODEL@": model,
        "@HOW@": how,
        "@SHAPE@": repr((height, width)),
        "@SIZED@": repr(_sized(height, width)),
        "@MEAN@": repr(by.mean),
        "@STD@": repr(by.std),
    }
    return re.sub("@[A-Z]+@", lambda found: constants[found[0]], _MODULE)


def only_result(names: Iterable[str], model: str, picture: str) -> str:
    """The only .txt whose name holds the model's name and the picture's. PipelineError where none does, or several."""
    there = sorted(name for name in names if name.endswith(".txt"))
    found = [name for name in there if model in name and picture in name]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(found[:3]) if found else ", ".join(there[:3]) or "none"
    what = f"{len(found)} results" if found else "no result"
    raise PipelineError(
        f"the simulator left {what} for {model} and {picture}; {'these are' if found else 'there are'}: {shown}",
        "see its log",
    )


def parse_tensors(text: str) -> list[Array]:
    """Every tensor of a result of the category Unknown, in its order, float64, with the shape that it states.

    PipelineError where there is none, or one has not as many values as its shape.
    """
    tensors = []
    for block in re.split(r"^.*\bTensor:", text, flags=re.MULTILINE)[1:]:
        shape = re.search(r"Original shape:\s*\[([\d\s,]*)\]", block)
        data = re.search(r"tensor data:\s*\{?([^}]*)", block)
        if shape is None or data is None:
            raise PipelineError("a result of the simulator holds a tensor without its shape or its data", "see it")
        sizes = [int(size) for size in re.findall(r"\d+", shape[1])]
        values = _floats(data[1])
        if len(values) != int(np.prod(sizes)):
            raise PipelineError(f"a result of the simulator has {len(values)} values for a tensor of shape {sizes}")
        tensors.append(values.reshape(sizes))
    if not tensors:
        raise PipelineError("a result of the simulator holds no tensor", "see it")
    return tensors


def parse_top(text: str) -> list[tuple[int, float]]:
    """Class and score of each line of a result of the category Classification, best first.

    A line names its class after `index` and its score after `score` or `value`; other lines are passed over.
    PipelineError where no line does, a class comes twice, or scores rise.
    """
    rows = []
    for line in text.splitlines():
        index = re.search(r"\bindex\b\D*?(\d+)", line, re.IGNORECASE)
        score = re.search(rf"\b(?:score|value)\b[^-\d.]*({_FLOAT})", line, re.IGNORECASE)
        if index and score:
            rows.append((int(index[1]), float(score[1])))
    if not rows:
        raise PipelineError("a result of the simulator names no class", "see it")
    if len({row[0] for row in rows}) < len(rows):
        raise PipelineError("a result of the simulator names a class twice", "see it")
    if any(low > high for (_, high), (_, low) in itertools.pairwise(rows)):
        raise PipelineError("a result of the simulator is not ordered: its scores rise", "see it")
    return rows


_FLOAT = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def _floats(text: str) -> Array:
    try:
        return np.array(text.replace(",", " ").split(), np.float64)
    except ValueError as error:
        raise PipelineError(f"a result of the simulator holds no numbers: {error}", "see it") from error


def _sized(height: int, width: int) -> str:
    return f"_{height}x{width}"


def _short(value: float, digits: int = 10) -> float:
    """Without the last bits that a product of decimal numbers leaves."""
    return float(f"{value:.{digits}g}")


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")


_MODULE = '''"""Pictures for @MODEL@ as SigmaStar's tools ask for them, written from the model's own preprocessing."""

import os

import numpy as np

HOW = @HOW@  # order, short side, crop, filter; None: pictures come in their final size
SHAPE = @SHAPE@  # height, width
SIZED = @SIZED@  # names of pictures in their final size end with it
MEAN = @MEAN@  # red, green, blue of 0..255, as in input_config.ini
STD = @STD@


def image_preprocess(img_path, norm=True):
    """[1, height, width, 3] in RGB: float32 normalised, or uint8 in its final size with norm=False."""
    stem = os.path.splitext(os.path.basename(img_path))[0]
    picture = _read(img_path) if stem.endswith(SIZED) else _resize(img_path)
    if picture.shape != SHAPE + (3,):
        raise ValueError("{} has the shape {}, not {}".format(img_path, picture.shape, SHAPE + (3,)))
    if not norm:
        return np.ascontiguousarray(picture[None])
    return ((picture[None] - np.array(MEAN)) / np.array(STD)).astype(np.float32)


def _read(path):
    try:
        from PIL import Image
    except ImportError:
        import cv2

        return cv2.cvtColor(cv2.imread(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _resize(path):
    if HOW is None:
        raise ValueError("{}: only pictures named *{}.png are read here".format(path, SIZED))
    from PIL import Image

    order, resize, crop, name = HOW
    taps = getattr(Image, name)
    with Image.open(path) as opened:
        whole = opened.convert("RGB")
    short, long = sorted(whole.size)
    if order == "resize-crop":
        other = int(resize * long / short)
        whole = whole.resize((resize, other) if whole.width <= whole.height else (other, resize), taps)
        left, top = (int(round((side - crop) / 2.0)) for side in whole.size)
        return np.asarray(whole.crop((left, top, left + crop, top + crop)))
    side = int(short * crop / resize)
    left, top = (whole.width - side) // 2, (whole.height - side) // 2
    return np.asarray(whole.crop((left, top, left + side, top + side)).resize((crop, crop), taps))
'''
