"""prepare: what a converter in its vendor's own container needs, and the commands that it is to run there."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pipelines.contract import Form, Picture, RunRequest
from pipelines.errors import PipelineError
from pipelines.models import find
from pipelines.models.base import Model
from pipelines.stage import Context, InputFile, Outcome
from pipelines.stages.calibration import fitting_pictures
from pipelines.stages.convert import FORMS
from pipelines.stages.fetch import module_files, picture_files, picture_path

if TYPE_CHECKING:
    from pipelines.arrays import Array
    from pipelines.vendors.sigmastar_files import Normalisation

ABOUT = 32  # calibration pictures: the vendor's own examples have as many


class Prepare:
    """Writes for SigmaStar: NAME_FORM.onnx, input_config.ini, NAME_preprocess.py, the pictures in their final size
    under ASCII names (`calibration/`, `judged/`), and `plan.json` (OutsidePlan).

    What it writes is run here and compared with the model's own tensors: the stage fails where they differ.
    """

    name = "prepare"
    needs = ("preprocess", "check")
    uses = ()

    def parameters(self, request: RunRequest) -> Mapping[str, Any]:
        """Model, chip, and which picture stands where."""
        assert request.vendor is not None
        return {
            "model": request.model,
            "vendor": request.vendor.vendor,
            "target": request.vendor.target,
            "pictures": [picture.path for picture in request.pictures],
            "calibration": [picture.path for picture in request.calibration],
        }

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """All pictures, and a person's module."""
        pictures = (*request.pictures, *request.calibration)
        return [*picture_files(pictures, data, run_folder), *module_files(request, run_folder)]

    def run(self, context: Context) -> Outcome:
        """Files, the comparison, the plan."""
        import msgspec

        from pipelines.arrays import load_arrays
        from pipelines.vendors.sigmastar_files import input_config, preprocess_module, safe_name
        from pipelines.vendors.sigmastar_plan import plan_for

        fit = about(fitting_pictures(context.request), ABOUT)
        if not fit:
            raise PipelineError(
                "no calibration pictures, and the vendor's tool quantises by them",
                "give --calibration FOLDER",
            )
        request, out = context.request, context.out
        model, name = find(request, context.run_folder), safe_name(request.model)
        judged = load_arrays(context.inputs["preprocess/inputs.npz"])["images"]  # [N, C, H, W]
        if judged.shape[1] != 3:
            raise PipelineError(f"{request.model} takes {judged.shape[1]} channels", "pictures in RGB go to this tool")
        height, width = judged.shape[2:]
        by = _normalisation(model, judged, request.pictures, context)
        module = out / f"{name}_preprocess.py"
        module.write_text(preprocess_module(name, model.preprocessing(), by, height, width), "utf-8")
        written = _load(module)
        for folder, pictures in (("judged", request.pictures), ("calibration", fit)):
            _save_pictures(out / folder, pictures, model, written, context)
        difference = _compared(written, out / "judged", judged, by)
        forms = tuple(form for form in FORMS if f"check/{form}.onnx" in context.inputs)
        inputs, outputs, classes = _ends(context, forms)
        (out / "input_config.ini").write_text(input_config(inputs, outputs, by), "utf-8")
        for form in forms:
            shutil.copyfile(context.inputs[f"check/{form}.onnx"], out / f"{name}_{form}.onnx")
        names = tuple(sorted(path.name for path in (out / "judged").iterdir()))
        plan = plan_for(request, name, forms, (1, *judged.shape[1:]), names, classes)
        (out / "plan.json").write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")
        told = f"{len(plan.steps)} commands for {plan.target}, {len(fit)} calibration pictures"
        return Outcome(
            summary=f"{told}, preprocessing within {difference:.1g} of the model's",
            facts={"prepared_max_abs_diff": difference, "target": plan.target, "calibration_given": len(fit)},
        )


def about(pictures: Sequence[Picture], most: int) -> tuple[Picture, ...]:
    """At most so many, evenly out of all."""
    if len(pictures) <= most:
        return tuple(pictures)
    return tuple(pictures[place * len(pictures) // most] for place in range(most))


def _normalisation(model: Model, judged: Array, pictures: Sequence[Picture], context: Context) -> Normalisation:
    """By the declaration; of a person's module by what its image_preprocess does with the judged pictures."""
    import numpy as np

    from pipelines.vendors.sigmastar_files import fitted_normalisation, normalisation

    declared = model.preprocessing()
    if declared is not None:
        return normalisation(declared)
    sized = np.concatenate([_own_size(model, picture, context) for picture in pictures])
    try:
        return fitted_normalisation(sized, judged.transpose(0, 2, 3, 1))
    except ValueError as error:
        raise PipelineError(
            f"{model.name}: mean and std can't be told from image_preprocess: {error}",
            "it must give uint8 [1, H, W, 3] with norm=False, and onnx_preprocess the same picture normalised",
        ) from error


def _own_size(model: Model, picture: Picture, context: Context) -> Array:
    """uint8 [1, H, W, 3] of a person's module."""
    import numpy as np

    from pipelines.models.person import PersonsModel

    if not isinstance(model, PersonsModel):
        raise PipelineError(
            f"{model.name} does not declare its preprocessing", "nothing here can tell the vendor's tool"
        )
    made = model.sized(picture_path(picture, context.data, context.run_folder))
    if made is None:
        raise PipelineError(
            f"{model.name} has no image_preprocess, and the vendor's tool needs pictures before they are normalised",
            "define image_preprocess(path, norm=True): NHWC, float32 normalised, or uint8 with norm=False",
        )
    if made.dtype != np.uint8 or made.ndim != 4 or made.shape[0] != 1 or made.shape[3] != 3:
        raise PipelineError(
            f"{model.name}: image_preprocess(norm=False) gives {made.dtype}{list(made.shape)}",
            "it must be uint8 [1, H, W, 3]",
        )
    return made


def _load(path: Path) -> Any:
    """The written module; nothing is left beside it."""
    return SimpleNamespace(**runpy.run_path(str(path)))


def _save_pictures(folder: Path, pictures: Sequence[Picture], model: Model, written: Any, context: Context) -> None:
    """Each in its final size, as the written module makes it where it knows how, else as the person's does."""
    from PIL import Image

    from pipelines.vendors.sigmastar_files import picture_name

    folder.mkdir()
    for place, picture in enumerate(pictures):
        if written.HOW is None:
            sized = _own_size(model, picture, context)
        else:
            path = picture_path(picture, context.data, context.run_folder)
            sized = written.image_preprocess(str(path), norm=False)
        height, width = sized.shape[1:3]
        Image.fromarray(sized[0]).save(folder / picture_name(place, height, width))
        context.progress(f"{folder.name} pictures", place + 1, len(pictures))


def _compared(written: Any, folder: Path, judged: Array, by: Normalisation) -> float:
    """Largest difference between what the written module makes of the written pictures and the model's own tensors.

    Both of its forms: normalised by itself, and uint8 that input_config.ini's mean and std normalise.
    """
    import numpy as np

    from pipelines.checks.preprocessing import LIMIT

    mean, std = np.array(by.mean), np.array(by.std)
    worst = 0.0
    for path, tensor in zip(sorted(folder.iterdir()), judged, strict=True):
        wanted = tensor.transpose(1, 2, 0)[None].astype(np.float64)
        raw = written.image_preprocess(str(path), norm=False)
        for made in (written.image_preprocess(str(path), norm=True), (raw - mean) / std):
            if made.shape != wanted.shape:
                raise PipelineError(f"{path.name}: the written preprocessing gives {list(made.shape)}")
            difference = float(np.abs(made - wanted).max())
            if not difference <= LIMIT:
                raise PipelineError(
                    f"{path.name}: the written preprocessing differs from the model's by {difference:.3g}",
                    f"{LIMIT:g} is allowed: resize in uint8, then normalise each channel by (x - mean) / std",
                )
            worst = max(worst, difference)
    return worst


def _ends(context: Context, forms: Sequence[Form]) -> tuple[list[str], list[str], bool]:
    """Names of inputs and outputs, the same in all forms, and whether the one output is scores of classes."""
    import onnx

    from pipelines.inference import load_outputs

    ends = []
    for form in forms:
        graph = onnx.load(context.inputs[f"check/{form}.onnx"], load_external_data=False).graph
        stored = {one.name for one in graph.initializer}
        ends.append(([one.name for one in graph.input if one.name not in stored], [one.name for one in graph.output]))
    if not ends or any(one != ends[0] for one in ends):
        raise PipelineError("dense and sparse networks have other inputs or outputs", "one input_config.ini is for all")
    inputs, outputs = ends[0]
    if len(inputs) != 1:
        raise PipelineError(f"the network has {len(inputs)} inputs", "one picture goes to one input")
    answers = load_outputs(context.inputs[f"check/{forms[0]}.npz"])
    return inputs, outputs, len(answers) == 1 and answers[0].ndim == 2 and answers[0].shape[1] > 1
