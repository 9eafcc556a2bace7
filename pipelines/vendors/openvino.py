"""Intel OpenVINO with NNCF: the ONNX file to an .xml of the graph and a .bin of its weights, for CPUs.

fp16 keeps the weights as float16 and computes in float32; int8 is NNCF's post-training quantisation.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import PipelineError
from pipelines.vendors.base import Converted, Job, Variant, last_error_line
from pipelines.vendors.limits import Limits

FP16 = Variant("fp16", floor=0.999)
INT8 = Variant("int8", floor=0.95, calibrates=True)

# Its reader refuses no number (opset 1 to 30 and IR 2 to 19 were tried): this is what the onnxruntime beside it runs.
LIMITS = Limits(opset=(7, 20), ir_version=9, origin="measured")

# Layers with at least this share of zeros ask the CPU plugin for its sparse kernels: all that follow 2:4, ragged
# groups of a narrow layer included. The plugin's own default is 1, which turns them off.
SPARSE_FROM = 0.4


@dataclass(frozen=True)
class OpenVino:
    """Without chips of its own: the file is for Intel's runtime, which is run here on the CPU."""

    name: str = "openvino"
    targets: tuple[str, ...] = ()
    limits: Limits = LIMITS
    distributions: tuple[str, ...] = ("openvino", "nncf")

    def variants(self, target: str) -> Sequence[Variant]:
        """The same for all: it knows no targets."""
        del target
        return FP16, INT8

    def convert(self, job: Job) -> Converted:
        """`model.xml` and `model.bin` in out, run by OpenVINO's CPU plugin in float32 or int8 arithmetic."""
        if job.variant not in (FP16.name, INT8.name):
            raise PipelineError(f"{self.name} does not convert to {job.variant!r}", "it has fp16 and int8")
        import time

        import openvino

        from pipelines.inference import save_outputs

        _bound_threads(job.threads)
        began = time.monotonic()
        core = openvino.Core()
        model = _read(job.model)
        if job.variant == INT8.name:
            model = _quantised(model, job.calibration)
        file = Path(job.out, "model.xml")
        openvino.save_model(model, file, compress_to_fp16=True)
        elapsed_s = time.monotonic() - began
        compiled = core.compile_model(
            core.read_model(file),  # what was written, not what was in memory
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 on CPUs that have it
                "INFERENCE_NUM_THREADS": job.threads,
                "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": SPARSE_FROM,
            },
        )
        outputs = Path(job.work, "outputs.npz")
        save_outputs(outputs, _run(compiled, job.judged))
        return Converted(
            file=file.name,
            beside=(f"{file.stem}.bin",),
            outputs=str(outputs),
            ran_by=f"OpenVINO {openvino.__version__.partition('-')[0]}, CPU plugin",
            weight_bytes=file.with_suffix(".bin").stat().st_size,
            sparsity="" if job.form == "dense" else _sparsity(core.read_model(file), compiled),
            elapsed_s=round(elapsed_s, 3),
        )

    def cause(self, log: str) -> str:
        """The last line that tells of an error."""
        return last_error_line(log)


def _bound_threads(threads: int) -> None:
    """Keep this process to that many of its cores: NNCF runs the network by settings of its own."""
    cores = sorted(os.sched_getaffinity(0))
    if threads < len(cores):
        os.sched_setaffinity(0, random.sample(cores, threads))  # any: jobs beside this one take others


def _read(model: str) -> Any:
    """PipelineError with the reader's own reason.

    Through the converter rather than Core.read_model: it folds the reshapes in front of depthwise weights, without
    which NNCF leaves those layers in float32.
    """
    import openvino

    try:
        return openvino.convert_model(model)
    except Exception as error:  # its errors have no common base
        raise PipelineError(f"OpenVINO can't read {Path(model).name}: {_reason(str(error))}") from error


def _reason(said: str) -> str:
    """The line of its message that tells, out of the source files it names and the report it adds."""
    lines = [line.strip(" -") for line in said.splitlines() if line.strip()]
    starts = ("No conversion rule", "While validating")
    telling = (line for start in starts for line in lines if line.startswith(start))
    return next(telling, lines[-1] if lines else "it does not say why")


def _quantised(model: Any, calibration: str) -> Any:
    import nncf

    from pipelines.arrays import load_arrays

    if not calibration:
        raise PipelineError("int8 needs calibration pictures", "give --calibration FOLDER")
    images = load_arrays(Path(calibration))["images"]
    pictures = nncf.Dataset([image[None] for image in images])
    return nncf.quantize(model, pictures, subset_size=len(images))


def _run(compiled: Any, judged: str) -> list[Any]:
    """Every output as [N, ...], in the ONNX file's order."""
    import numpy as np

    from pipelines.arrays import load_arrays

    rows = []
    for image in load_arrays(Path(judged))["images"]:
        found = compiled(image[None])
        rows.append([found[output].copy() for output in compiled.outputs])  # its memory is used again
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def _sparsity(model: Any, compiled: Any) -> str:
    """What is stored of the zeros, and whether any layer computes without them: read from file and compiled network."""
    kernels = [str(op.get_rt_info()["primitiveType"].astype(str)) for op in compiled.get_runtime_model().get_ops()]
    sparse = sum("sparse" in kernel for kernel in kernels)
    weights, zeros = 0, 0
    for op in model.get_ops():
        if op.get_type_name() == "Constant" and sum(size > 1 for size in op.get_output_shape(0)) > 1:
            values = op.get_data()
            weights, zeros = weights + values.size, zeros + int((values == 0).sum())
    share = f"{zeros / weights:.1%} of {weights} weights are zeros, stored as any value" if weights else "no weights"
    ran = f"{sparse} layers run" if sparse else "no layer runs"
    return f"{share}; {ran} by a sparse kernel, asked for from {SPARSE_FROM:.0%} zeros"


VENDOR = OpenVino()
