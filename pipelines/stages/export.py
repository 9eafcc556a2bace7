"""export: the network as an ONNX file that the toolchain accepts, and the framework's own answers to compare with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.contract import RunRequest
from pipelines.errors import PipelineError, first_line
from pipelines.models import find
from pipelines.models.base import Model
from pipelines.stage import Context, InputFile, Outcome
from pipelines.stages.fetch import module_files


class Export:
    """Writes `model.onnx` (static shapes, checked, simplified) and `reference.npz` (torch's outputs, [N, ...])."""

    name = "export"
    needs = ("fetch", "preprocess")
    uses = ()

    def parameters(self, request: RunRequest) -> Mapping[str, Any]:
        """What the toolchain accepts, and which model."""
        options = request.export
        return {
            "model": request.model,
            "kind": request.weights.kind,
            "opset": options.opset,
            "ir_version": options.ir_version,
            "simplifier": options.simplifier,
        }

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """A person's module."""
        del data
        return module_files(request, run_folder)

    def run(self, context: Context) -> Outcome:
        """Export, check, simplify, and prove that simplifying changed nothing."""
        import onnx

        from pipelines.arrays import load_arrays
        from pipelines.graph.own_vectors import with_own_vectors
        from pipelines.graph.shapes import with_all_shapes
        from pipelines.graph.tidy import simplified, tidy
        from pipelines.inference import largest_difference, limit_for, outputs_of, save_outputs

        options = context.request.export
        images = load_arrays(context.inputs["preprocess/inputs.npz"])["images"]
        model = find(context.request, context.run_folder)
        if (file := model.onnx_file()) is not None:
            raw, reference = _from_file(file, options.opset), None
        else:
            raw, reference = _from_network(model, context, images)
        raw = tidy(raw, images[:1].shape, options.ir_version)
        final = with_own_vectors(simplified(raw, options.simplifier))
        final = with_all_shapes(tidy(final, images[:1].shape, options.ir_version))
        onnx.checker.check_model(final, full_check=True)
        written = next(one.version for one in final.opset_import if one.domain == "")
        if (written, final.ir_version) != (options.opset, options.ir_version):
            raise PipelineError(
                f"exported opset {written}, IR {final.ir_version}, not {options.opset}, {options.ir_version}"
            )
        before = outputs_of(raw.SerializeToString(), images[:2])
        difference = largest_difference(before, outputs_of(final.SerializeToString(), images[:2]))
        if not difference <= limit_for(before):  # NaN is no agreement
            raise PipelineError(
                f"{options.simplifier} changed the outputs by {difference:.3g}", "choose another simplifier"
            )
        path = context.out / "model.onnx"
        path.write_bytes(final.SerializeToString(deterministic=True))
        reference = reference or outputs_of(raw.SerializeToString(), images)
        save_outputs(context.out / "reference.npz", reference)
        size = path.stat().st_size
        nodes = len(final.graph.node)
        return Outcome(
            summary=f"opset {written}, IR {final.ir_version}, {nodes} nodes, {size / 2**20:.1f} MiB",
            facts={
                "opset": options.opset,
                "ir_version": options.ir_version,
                "nodes": nodes,
                "dense_bytes": size,
                "simplify_max_abs_diff": difference,
                "reference": "torch" if model.onnx_file() is None else "the given ONNX file in onnxruntime",
            },
        )


def _from_file(file: Path, opset: int) -> Any:
    import onnx
    import onnx.version_converter

    from pipelines.graph.load import load_model

    model = load_model(file)
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker's errors have no base of their own
        raise PipelineError(f"{file.name} is no valid ONNX file: {first_line(error)}") from error
    given = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if given != opset:
        try:
            model = onnx.version_converter.convert_version(model, opset)
        except Exception as error:
            raise PipelineError(
                f"{file.name} has opset {given} and can't be converted to {opset}: {first_line(error)}"
            ) from error
    return model


def _from_network(model: Model, context: Context, images: Any) -> tuple[Any, list[Any]]:
    import io

    import onnx
    import torch

    from pipelines.attention import attention_exportable
    from pipelines.safe_load import load_state

    options = context.request.export
    torch.manual_seed(context.request.weights.seed or 0)
    network = model.build(published=context.request.weights.kind in ("published", "file"))
    network.load_state_dict(load_state(context.inputs["fetch/state.pth"]))
    network = model.ready(network)
    buffer = io.BytesIO()
    try:
        # with gradients on: without them attention takes a fused path that ONNX has no operator for
        with attention_exportable(options.opset), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracer warnings: what matters is compared in numbers below
            torch.onnx.export(
                network,
                torch.from_numpy(images[:1]),
                buffer,
                opset_version=options.opset,
                input_names=["input"],
                output_names=["output"],
            )
    except Exception as error:  # unsupported operators come as several types of errors
        raise PipelineError(f"{model.name} can't be exported at opset {options.opset}: {first_line(error)}") from error
    return onnx.load_from_string(buffer.getvalue()), _answers(network, images, context)


def _answers(network: Any, images: Any, context: Context) -> list[Any]:
    """The network's own outputs, each [N, ...]."""
    import numpy as np
    import torch

    rows = []
    with torch.no_grad():
        for place, image in enumerate(images):
            given = network(torch.from_numpy(image[None]))
            many = given if isinstance(given, (tuple, list)) else (given,)
            rows.append([one.numpy() for one in many])
            context.progress("torch", place + 1, len(images))
    return [np.concatenate(column) for column in zip(*rows, strict=True)]
