"""preprocess: pictures become tensors by the model's own code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.contract import Fact, Picture, RunRequest
from pipelines.errors import PipelineError
from pipelines.models import find
from pipelines.models.base import Model
from pipelines.stage import Context, InputFile, Outcome
from pipelines.stages.calibration import fitting_pictures
from pipelines.stages.fetch import module_files, picture_files, picture_path

if TYPE_CHECKING:
    from pipelines.arrays import Array

LARGEST_BYTES = 2 << 30  # of the tensors in one file: tools hold them several times


class Preprocess:
    """Writes `inputs.npz`: `names` and `images` float32 [N, C, H, W], in the order of the request's pictures.

    `calibration.npz` is the same of its calibration pictures, where it has some.
    Where the model declares how, `preprocessing.json` says so: environments that only convert don't know the model.
    """

    name = "preprocess"
    needs = ()
    uses = ()

    def parameters(self, request: RunRequest) -> Mapping[str, Any]:
        """The model, for its preprocessing, and which picture stands where."""
        return {
            "model": request.model,
            "pictures": [picture.path for picture in request.pictures],
            "calibration": [picture.path for picture in request.calibration],
        }

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """All pictures, and a person's module."""
        pictures = (*request.pictures, *request.calibration)
        return [*picture_files(pictures, data, run_folder), *module_files(request, run_folder)]

    def run(self, context: Context) -> Outcome:
        """One tensor a picture; all must have one shape."""
        import msgspec

        pictures, calibration = context.request.pictures, fitting_pictures(context.request)
        if not pictures:
            raise PipelineError("the lock holds no pictures", "add a [[data]] section to the spec and `invoke lock`")
        model = find(context.request, context.run_folder)
        shape = _save("inputs.npz", pictures, model, context, None)
        text = "x".join(str(size) for size in shape)
        facts: dict[str, Fact] = {"input_shape": f"1x{text}"}
        summary = f"{len(pictures)} tensors of {text}, float32"
        if calibration:
            _save("calibration.npz", calibration, model, context, shape)
            facts["calibration_tensors"] = len(calibration)
            summary += f", and {len(calibration)} to calibrate"
        if (declared := model.preprocessing()) is not None:
            (context.out / "preprocessing.json").write_bytes(msgspec.json.encode(declared) + b"\n")
        return Outcome(summary=summary, facts=facts)


def _save(
    file: str, pictures: Sequence[Picture], model: Model, context: Context, shape: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Tensors and names of those pictures; the shape of one, which must be `shape` where that is given."""
    import numpy as np

    from pipelines.arrays import save_arrays

    what = "pictures" if shape is None else "calibration pictures"
    images: Array | None = None
    for place, picture in enumerate(pictures):
        (tensor,) = _tensor(picture, model, context)
        shape = shape or tensor.shape
        if tensor.shape != shape:
            raise PipelineError(
                f"preprocessing gives shapes {(1, *shape)} and {(1, *tensor.shape)}", "a chip takes one shape"
            )
        if images is None:
            if (needed := len(pictures) * tensor.nbytes) > LARGEST_BYTES:
                raise PipelineError(f"{len(pictures)} {what} make {needed / 2**30:.1f} GiB of tensors", "give fewer")
            images = np.empty((len(pictures), *shape), tensor.dtype)
        images[place] = tensor
        context.progress(what, place + 1, len(pictures))
    assert images is not None
    assert shape is not None
    names = np.array([picture.path for picture in pictures])
    save_arrays(context.out / file, {"names": names, "images": images})
    return shape


def _tensor(picture: Picture, model: Model, context: Context) -> Array:
    """float32 [1, C, H, W]. A picture of the user's own that can't be read is theirs to mend."""
    try:
        made: Array = model.preprocess(picture_path(picture, context.data, context.run_folder))
    except PipelineError as error:
        if picture.place == "data":
            raise
        raise PipelineError(
            error.message, "leave it out of the --calibration folder; input/calibration.json has its name there"
        ) from error
    return made
