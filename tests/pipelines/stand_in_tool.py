"""A stand-in for a vendor's tool: it copies the ONNX file and runs it in onnxruntime, or misbehaves as its format says.

The worker process finds it because `sitecustomize` (written by the test) adds it to the toolchains.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.arrays import load_arrays, save_arrays
from pipelines.errors import PipelineError
from pipelines.inference import outputs_of
from pipelines.vendors.base import Converted, Job, Variant, last_error_line
from pipelines.vendors.limits import Limits

FAULTS = ("garbage", "constant", "crash", "hang", "nothing", "refusal", "traceback", "other-shape")
LIMITS = Limits(opset=(7, 13), ir_version=8, origin="measured")


@dataclass(frozen=True)
class StandIn:
    name: str = "stand-in"
    targets: tuple[str, ...] = ("chip-a", "chip-b")
    limits: Limits = LIMITS
    distributions: tuple[str, ...] = ("numpy",)

    def variants(self, target: str) -> Sequence[Variant]:
        good = [Variant("fp32", floor=0.9999), Variant("int8", floor=0.9, calibrates=True)]
        faults = [Variant(name, 0.9, by_default=False, timeout_s=2 if name == "hang" else 60) for name in FAULTS]
        return [*good, *faults, Variant("unrun", floor=0.9, by_default=False)] if target == "chip-a" else good[:1]

    def cause(self, log: str) -> str:
        return last_error_line(log)

    def convert(self, job: Job) -> Converted:
        print(f"stand-in converts {job.form} to {job.variant}", flush=True)
        if job.variant == "refusal":
            raise PipelineError("the layer Conv_0 is too wide for the chip", "make it narrower")
        if job.variant == "traceback":
            raise KeyError("Conv_0")
        if job.variant == "crash":
            print("E: assertion failed in pass 7", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if job.variant == "hang":
            time.sleep(60)
        file = "model.bin"
        if job.variant != "nothing":
            shutil.copy(job.model, Path(job.out, file))
        if job.variant == "unrun":
            return Converted(file=file, not_run="this chip has no simulator", cycles=7)
        outputs = outputs_of(Path(job.model), load_arrays(Path(job.judged))["images"])
        if job.variant == "int8":
            assert len(load_arrays(Path(job.calibration))["images"]) == 1
            outputs = [one * (1 + 1e-3) for one in outputs]
        if job.variant == "garbage":
            outputs = [one.mean(0) + np.random.default_rng(0).standard_normal(one.shape) for one in outputs]
        if job.variant == "constant":
            outputs = [np.tile(one[:1], (len(one), 1)) for one in outputs]
        if job.variant == "other-shape":
            outputs = [one[:, :-1] for one in outputs]
        path = Path(job.work, "outputs.npz")
        save_arrays(path, {f"output_{place}": one for place, one in enumerate(outputs)})
        return Converted(file=file, outputs=str(path), ran_by="onnxruntime", weight_bytes=11, sparsity="left as it is")


VENDOR = StandIn()
