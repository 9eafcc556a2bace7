"""The same request on the same lock gives the same bytes: under both engines, and again with nothing remembered.

Two networks, because they differ in what may move: one has seeded random weights (no hub is asked), the other its
published ones. What another processor or another number of threads changes is said here, and how much.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from envs.build import build
from envs.contract import RunReport, RunRequest, encode
from envs.data import ensure_data
from envs.engines.choose import choose
from envs.native import ensure_native
from envs.platforms import host_platform
from envs.progress import Silent

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = {"onnx_tv_resnet18": "random:0", "onnx_efficientnet_lite0": "auto"}
# the arithmetic of an older processor, as torch and its libraries can be told to do it, on one thread
OLDER = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
# sums of floats in another order: what torch and onnxruntime computed, and what was measured from that
COMPUTED = {"export/reference.npz", "verify/verify.json", "collect/{model}_results.txt"}
LARGEST_WEIGHT_STEP = 1e-6  # of random weights, whose generator is vectorised: relative to the largest of the tensor

COMPARE = """
import sys, onnx, numpy
from onnx import numpy_helper
graphs = [onnx.load(path).graph for path in sys.argv[1:]]
a, b = ({one.name: numpy_helper.to_array(one).astype("f8") for one in graph.initializer} for graph in graphs)
assert list(a) == list(b)
nodes = [[(n.op_type, list(n.input), list(n.output)) for n in graph.node] for graph in graphs]
assert nodes[0] == nodes[1]
print(max(abs(a[k] - b[k]).max() / max(abs(a[k]).max(), 1e-30) for k in a if a[k].size))
"""


class Made(msgspec.Struct):
    """One run: its folder and the hashes of its artifacts, the same way for all."""

    folder: Path
    report: RunReport

    @property
    def hashes(self) -> dict[str, str]:
        return {one.path.removeprefix("artifacts/"): one.sha256 for one in self.report.artifacts}


def made(model: str, engine: str, runs: Path) -> Made:
    """As a user asks for it; the folder of runs is new, so there is no cache either."""
    command = [sys.executable, "-m", "invoke", "run", "--env", "light", "--engine", engine, "--no-cache", "--json"]
    command += ["--model", model, "--weights", NETWORKS[model]]
    variables = {**os.environ, "EDGEKILN_RUNS": str(runs)}
    done = subprocess.run(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stdout.decode()
    report = msgspec.json.decode(done.stdout, type=RunReport)
    return Made(runs / report.run_folder, report)


def made_as_on_an_older_processor(first: Made, runs: Path) -> Made:
    """The same request once more, in the same environment."""
    built = build("light", choose("local"), Silent())
    request = msgspec.json.decode((first.folder / "request.json").read_bytes(), type=RunRequest)
    folder = runs / request.run_folder
    folder.mkdir(parents=True)
    (folder / "request.json").write_bytes(encode(request))
    python = built.environment.tree / "bin/python3"
    words = [f"{request.run_folder}/request.json", "--workspace", runs, "--data", ensure_data(built.lock, Silent())]
    path = f"{ROOT}:{ensure_native(host_platform(), Silent())}"
    variables = {**OLDER, "PATH": "/usr/bin:/bin", "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(
        [python, "-m", "pipelines", *words, "--threads", "1"], env=variables, capture_output=True, check=True
    )
    return Made(folder, msgspec.json.decode((folder / "report.json").read_bytes(), type=RunReport))


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def local(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(request.param, "local", tmp_path_factory.mktemp("local"))


def onnx_files(one: Made) -> dict[str, str]:
    return {path: sha256 for path, sha256 in one.hashes.items() if path.endswith(".onnx")}


@pytest.mark.engine
def test_both_engines_give_the_same_bytes(local: Made, tmp_path: Path) -> None:
    other = made(local.report.model, "docker", tmp_path)
    assert len(onnx_files(local)) == 3  # dense, reordered, sparse
    assert other.hashes == local.hashes  # not the ONNX files alone: everything that a stage made


@pytest.mark.engine
def test_what_threads_and_processor_change_is_known_and_small(local: Made, tmp_path: Path) -> None:
    other = made_as_on_an_older_processor(local, tmp_path)
    model = local.report.model
    moved = {path for path in local.hashes if other.hashes[path] != local.hashes[path]}
    if local.report.weights.kind == "published":
        assert moved <= {name.format(model=model) for name in COMPUTED}  # no ONNX file is among them
    # weights that differ in their last bits lead the search elsewhere: only the exported file can be compared then
    comparable = onnx_files(local) if local.report.weights.kind == "published" else ["export/model.onnx"]
    for path in comparable:
        python = build("light", choose("local"), Silent()).environment.tree / "bin/python3"
        files = [one.folder / "artifacts" / path for one in (local, other)]
        done = subprocess.run([python, "-c", COMPARE, *files], capture_output=True, text=True, check=True)
        assert float(done.stdout) <= LARGEST_WEIGHT_STEP
    with (
        np.load(local.folder / "artifacts/export/reference.npz") as one,
        np.load(other.folder / "artifacts/export/reference.npz") as two,
    ):
        assert set(one) == set(two)
        for name in one:
            np.testing.assert_allclose(one[name], two[name], rtol=1e-3, atol=1e-4)
    measured = [json.loads((each.folder / "artifacts/verify/verify.json").read_text()) for each in (local, other)]
    assert measured[0].keys() == measured[1].keys()
