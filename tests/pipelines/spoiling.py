"""A finished run whose files a test may spoil before verify sees them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from pipelines.contract import RunReport, RunRequest
from pipelines.stage import Context, Outcome
from pipelines.stages.verify import Verify


class Run:
    """Copies of the files of a run, under the names that stages call them by."""

    def __init__(self, request: RunRequest, report: RunReport, workspace: Path, data: Path, spoiled: Path) -> None:
        self.request = request
        self.report = report
        self.data = data
        self.folder = workspace / report.run_folder
        self.inputs = {}
        for artifact in report.artifacts:
            name = artifact.path.removeprefix("artifacts/")
            copy = spoiled / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / artifact.path, copy)
            self.inputs[name] = copy
        self.out = spoiled / "out"
        self.out.mkdir()

    def verify(self) -> Outcome:
        context = Context(self.request, self.data, self.folder, self.out, self.inputs, {}, lambda what, i, n: None)
        return Verify().run(context)

    def change_tensor(self, file: str, tensor: int, change: Callable[[Any], None]) -> str:
        path = self.inputs[file]
        model = onnx.load(str(path))
        held = [one for one in model.graph.initializer if len(one.dims) > 1][tensor]
        values = numpy_helper.to_array(held).copy()
        change(values)
        name = str(held.name)
        held.CopyFrom(numpy_helper.from_array(values, name))
        onnx.save(model, str(path))
        return name

    def set_tensor(self, file: str, name: str, change: Callable[[Any], Any]) -> None:
        path = self.inputs[file]
        model = onnx.load(str(path))
        held = next(one for one in model.graph.initializer if one.name == name)
        values = np.ascontiguousarray(change(numpy_helper.to_array(held)))
        held.CopyFrom(numpy_helper.from_array(values, name))
        onnx.save(model, str(path))

    def findings(self) -> list[Any]:
        found: list[Any] = json.loads((self.out / "verify.json").read_text())["findings"]
        return found

    def change_images(self, change: Callable[[Any], Any]) -> None:
        with np.load(self.inputs["preprocess/inputs.npz"]) as saved:
            arrays = dict(saved)
        arrays["images"] = change(arrays["images"])
        np.savez(self.inputs["preprocess/inputs.npz"], **arrays)
