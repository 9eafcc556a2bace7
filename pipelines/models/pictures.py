"""Opening pictures: RGB, or a clear word on why not."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from pipelines.errors import UNPACK_AGAIN, PipelineError, first_line


def open_rgb(path: Path) -> Image.Image:
    """The picture in RGB. PipelineError names a file that is missing or no picture."""
    try:
        with Image.open(path) as picture:
            rgb: Image.Image = picture.convert("RGB")
            return rgb
    except FileNotFoundError as error:
        raise PipelineError(f"picture {path.name} is missing", UNPACK_AGAIN) from error
    except UnidentifiedImageError as error:  # it names the path inside the container
        raise PipelineError(f"{path.name} is no picture", UNPACK_AGAIN) from error
    except (OSError, SyntaxError, ValueError) as error:  # whatever Pillow's readers raise over broken files
        raise PipelineError(f"picture {path.name} is corrupt: {first_line(error)}", UNPACK_AGAIN) from error
