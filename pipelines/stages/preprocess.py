"""preprocess: pictures become tensors by the model's own code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.contract import RunRequest
from pipelines.errors import PipelineError
from pipelines.models import find
from pipelines.stage import Context, InputFile, Outcome
from pipelines.stages.fetch import module_files, picture_files


class Preprocess:
    """Writes `inputs.npz`: `names` and `images` float32 [N, C, H, W], in the order of the request's pictures."""

    name = "preprocess"
    needs = ()
    uses = ()

    def parameters(self, request: RunRequest) -> Mapping[str, Any]:
        """The model, for its preprocessing, and which picture stands where."""
        return {"model": request.model, "pictures": [picture.path for picture in request.pictures]}

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """The pictures, and a person's module."""
        return [*picture_files(request, data), *module_files(request, run_folder)]

    def run(self, context: Context) -> Outcome:
        """One tensor a picture; all must have one shape."""
        import numpy as np

        from pipelines.arrays import save_arrays

        pictures = context.request.pictures
        if not pictures:
            raise PipelineError("the lock holds no pictures", "add a [[data]] section to the spec and `invoke lock`")
        model = find(context.request, context.run_folder)
        tensors = []
        for place, picture in enumerate(pictures):
            tensors.append(model.preprocess(context.data / picture.path))
            context.progress("pictures", place + 1, len(pictures))
        if shapes := sorted({tensor.shape for tensor in tensors} - {tensors[0].shape}):
            raise PipelineError(
                f"preprocessing gives shapes {tensors[0].shape} and {shapes[0]}", "a chip takes one shape"
            )
        images = np.concatenate(tensors)
        names = np.array([picture.path for picture in pictures])
        save_arrays(context.out / "inputs.npz", {"names": names, "images": images})
        shape = "x".join(str(size) for size in images.shape[1:])
        return Outcome(summary=f"{len(pictures)} tensors of {shape}, float32", facts={"input_shape": f"1x{shape}"})
