"""The pictures that fit: which files a stage reads for them, and their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.contract import Picture, RunRequest
from pipelines.errors import PipelineError
from pipelines.models import find
from pipelines.stage import Context, InputFile
from pipelines.stages.fetch import module_files, picture_files, picture_path

if TYPE_CHECKING:
    from pipelines.arrays import Array

CROPS = 256
SEED = 0


def calibration_inputs(request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
    """The calibration pictures and a person's module, whose preprocessing makes tensors of them; none if not needed."""
    if not request.calibrates:
        return ()
    return [*picture_files(request.calibration, data, run_folder), *module_files(request, run_folder)]


def fitting_pictures(request: RunRequest) -> tuple[Picture, ...]:
    """The request's calibration pictures. PipelineError where one of them also judges."""
    judging = {picture.sha256 for picture in request.pictures}
    if both := [picture.path for picture in request.calibration if picture.sha256 in judging]:
        raise PipelineError(f"{both[0]} is a picture that judges the result: it can't fit it", "use another one")
    return request.calibration


def calibration_tensors(context: Context) -> Array | None:
    """256 crops as float32 [N, C, H, W]; None where the request needs none.

    PipelineError where it has no calibration pictures, or one of them also judges.
    """
    from pipelines.sparsity.reconstruct import calibration_images

    request = context.request
    if not request.calibrates:
        return None
    if not request.calibration:
        raise PipelineError(
            "--correct and --keep auto need calibration pictures",
            "give --calibration FOLDER, or add them to the spec and `invoke lock`",
        )
    paths = [picture_path(picture, context.data, context.run_folder) for picture in fitting_pictures(request)]
    return calibration_images(paths, find(request, context.run_folder), CROPS, SEED)
