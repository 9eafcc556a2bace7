"""What runs tpu-mlir's files, in a process whose loader was told where the chip's libraries lie.

python -m pipelines.vendors.tpu_mlir_run lowered|emulated FILE IMAGES OUTPUTS: `lowered` interprets the network in the
chip's own number formats, quickly; `emulated` runs the file for the chip on an emulation of it, slowly.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipelines.arrays import Array, load_arrays, save_arrays


def main() -> None:
    """Reads `images` [N, C, H, W] and writes output_0, ... each [N, ...]."""
    how, file, images, outputs = sys.argv[1:]
    ways: dict[str, Callable[[str], Callable[[Array], list[Array]]]] = {"lowered": _lowered, "emulated": _Emulated}
    run = ways[how](file)
    rows = [run(image[None]) for image in load_arrays(Path(images))["images"]]
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    save_arrays(Path(outputs), {f"output_{place}": column for place, column in enumerate(columns)})


def _lowered(file: str) -> Callable[[Array], list[Array]]:
    import pymlir

    pymlir.set_mem_mode("value_mem")
    module = pymlir.module()
    module.load(file)

    def run(image: Array) -> list[Array]:
        module.set_tensor(module.input_names[0], np.ascontiguousarray(image), image.shape)
        module.invoke(True)  # outputs as float32
        made = module.get_all_tensor()
        return [np.array(made[name]) for name in module.output_names]

    return run


class _Emulated:
    """A file for a chip, on the emulation that its runtime loads."""

    def __init__(self, file: str) -> None:
        boards = file.endswith(".bmodel")
        runtime = importlib.import_module("pyruntime_bm" if boards else "pyruntime_cvi")
        # held here: a net is gone with its model
        self.model = runtime.Model(file, 0, "") if boards else runtime.Model(file, output_all_tensors=False)
        self.net = self.model.Net(self.model.networks[0]) if boards else self.model

    def __call__(self, image: Array) -> list[Array]:
        self.net.inputs[0].data.reshape(-1)[:] = image.reshape(-1)
        self.net.forward()
        return [np.array(one.data, np.float32) for one in self.net.outputs]


if __name__ == "__main__":
    main()
