"""Opening pictures: RGB, or a clear word on why not."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from pipelines.errors import PipelineError


def open_rgb(path: Path) -> Image.Image:
    """The picture in RGB. PipelineError names a file that is missing or no picture."""
    try:
        with Image.open(path) as picture:
            rgb: Image.Image = picture.convert("RGB")
            return rgb
    except FileNotFoundError as error:
        raise PipelineError(
            f"picture {path.name} is missing", "run the command again, it unpacks the data anew"
        ) from error
    except (UnidentifiedImageError, OSError) as error:
        raise PipelineError(
            f"picture {path.name} is corrupt: {error}", "remove it from the cache and run again"
        ) from error
