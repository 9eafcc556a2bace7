"""python -m pipelines.vendors.rknn_tool JOB: RKNN-Toolkit2 itself, in the folder of the job, which it writes into.

Apart from the adapter, which reads its log: part of that comes from compiled code, and it ends by signals.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pipelines.vendors.base import Job

if TYPE_CHECKING:
    from pipelines.arrays import Array

MODEL, DATASET, OUTPUTS, ELAPSED = "model.onnx", "dataset.txt", "outputs.npz", "elapsed.json"  # in the job's folder


class ToolJob(msgspec.Struct, frozen=True, kw_only=True):
    """One conversion, its model and what comes of it in the folder that holds this."""

    job: Job
    file: str  # the .rknn to write
    sparse: bool


def main(path: Path) -> int:
    """0 when the file, its outputs and the seconds that it took are written."""
    from rknn.api import RKNN

    from pipelines.arrays import load_arrays
    from pipelines.inference import save_outputs

    asked = msgspec.json.decode(path.read_bytes(), type=ToolJob)
    job, folder = asked.job, path.parent
    began = time.monotonic()
    tool: Any = RKNN(verbose=True)  # the layer table is in the verbose log alone
    steps: tuple[Callable[[], int], ...] = (
        lambda: tool.config(target_platform=job.target, sparse_infer=asked.sparse),
        lambda: tool.load_onnx(model=str(folder / MODEL)),
        lambda: tool.build(do_quantization=bool(job.calibration), dataset=_dataset(job, folder)),
        lambda: tool.export_rknn(asked.file),
    )
    if any(step() for step in steps):  # the first that is not 0 ends it: the toolkit has said why
        return 1
    (folder / ELAPSED).write_bytes(msgspec.json.encode(round(time.monotonic() - began, 3)))
    if tool.init_runtime():
        return 1
    save_outputs(folder / OUTPUTS, _outputs(tool, load_arrays(Path(job.judged))["images"]))
    tool.release()
    return 0


def _dataset(job: Job, folder: Path) -> str | None:
    """The list of calibration tensors; its names are relative to it, as the toolkit cuts paths at spaces."""
    import numpy as np

    from pipelines.arrays import load_arrays

    if not job.calibration:
        return None
    images = load_arrays(Path(job.calibration))["images"]
    names = [f"{place}.npy" for place in range(len(images))]
    for name, image in zip(names, images, strict=True):
        np.save(folder / name, np.ascontiguousarray(image[None]))
    (folder / DATASET).write_text("".join(f"{name}\n" for name in names), "ascii")
    return str(folder / DATASET)


def _outputs(tool: Any, images: Array) -> list[Array]:
    """Every output for float32 [N, C, H, W], each [N, ...] in the ONNX file's order."""
    import numpy as np

    rows = [tool.inference(inputs=[image[None]], data_format=["nchw"]) for image in images]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
