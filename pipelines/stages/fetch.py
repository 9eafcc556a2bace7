"""fetch: pictures and weights are there and are the locked ones; the network's state as one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.contract import Picture, RunRequest
from pipelines.errors import PipelineError
from pipelines.models import find
from pipelines.models.base import Model
from pipelines.stage import Context, InputFile, Outcome

ONNX_LIMIT_BYTES = 2**31  # protobuf's, for one file with its weights inside


class Fetch:
    """Writes `state.pth` (a state dict), but for a model that comes as an ONNX file."""

    name = "fetch"
    needs = ()
    uses = ()

    def parameters(self, request: RunRequest) -> Mapping[str, Any]:
        """Model and weights."""
        return {"model": request.model, "kind": request.weights.kind, "seed": request.weights.seed}

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """Every picture, the weights' file, and a person's module with its neighbours."""
        files = picture_files(request.pictures, data, run_folder)
        if (weights := weights_file(request, data, run_folder)) is not None:
            files.append(weights)
        return [*files, *module_files(request, run_folder)]

    def run(self, context: Context) -> Outcome:
        """Build, load strictly, save."""
        import torch

        request = context.request
        model = find(request, context.run_folder)
        if model.onnx_file() is not None:
            if request.weights.kind != "module":
                raise PipelineError(
                    f"{model.name} is an ONNX file and holds its weights: {request.weights.kind} ones have no place",
                    "leave --weights out",
                )
            return Outcome(summary=f"{len(request.pictures)} pictures, the model is an ONNX file")
        torch.manual_seed(request.weights.seed or 0)
        network = model.build(published=request.weights.kind in ("published", "file"))
        if (file := weights_file(request, context.data, context.run_folder)) is not None:
            _load(network, file.path, model)
        state = network.state_dict()
        held = sum(value.numel() * value.element_size() for value in state.values())
        if held >= ONNX_LIMIT_BYTES:
            raise PipelineError(
                f"{model.name}: its weights take {held / 2**30:.1f} GiB, one ONNX file holds less than 2",
                "choose a smaller model",
            )
        torch.save(state, context.out / "state.pth")
        count = sum(value.numel() for name, value in network.named_parameters())
        return Outcome(
            summary=f"{len(request.pictures)} pictures, {count / 1e6:.2f} M parameters, weights {request.weights.kind}",
            facts={"parameters": count},
        )


def picture_path(picture: Picture, data: Path, run_folder: Path) -> Path:
    """Where a picture lies."""
    return (data if picture.place == "data" else run_folder) / picture.path


def picture_files(pictures: Sequence[Picture], data: Path, run_folder: Path) -> list[InputFile]:
    """Pictures as what a stage reads, in their order."""
    return [InputFile(one.path, picture_path(one, data, run_folder), one.sha256) for one in pictures]


def weights_file(request: RunRequest, data: Path, run_folder: Path) -> InputFile | None:
    """The file that the weights come from; None where they are made here. Never random ones in place of a file."""
    weights = request.weights
    if weights.kind == "module" and request.module is None:
        raise PipelineError(f"{request.model} is no module that could bring weights", "choose others with --weights")
    if weights.kind in ("random", "module"):
        if weights.kind == "random" and weights.seed is None:
            raise PipelineError("random weights without a seed", "give one: --weights random:SEED")
        return None
    if not (weights.file and weights.sha256):
        raise PipelineError(f"weights of the kind {weights.kind!r} without a file and its sha256", "give both")
    root = data if weights.kind == "published" else run_folder
    return InputFile(weights.file, root / weights.file, weights.sha256)


def module_files(request: RunRequest, run_folder: Path) -> list[InputFile]:
    """A person's module and all that was copied with it: a change of any of them is a change of input."""
    from pipelines.cache import sha256_file

    if request.module is None:
        return []
    folder = (run_folder / request.module).parent
    return [
        InputFile(path.relative_to(folder).as_posix(), path, sha256_file(path))
        for path in sorted(folder.rglob("*"))
        if path.suffix != ".pyc" and path.is_file()
    ]


def _load(network: Any, file: Path, model: Model) -> None:
    from pipelines.safe_load import load_state

    try:
        network.load_state_dict(model.fitting(load_state(file)))
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise PipelineError(
            f"{file.name} does not fit {model.name}: {line[:200]}", "give the weights of this model"
        ) from error
