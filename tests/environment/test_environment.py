"""Run inside the environment: it is what its lock says, and can do what it is for, and nothing else."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import normalised


def installed() -> dict[str, str]:
    return {normalised(one.metadata["Name"]): one.version for one in importlib.metadata.distributions()}


def test_python_is_the_locked_one(lock: dict[str, Any]) -> None:
    assert platform.python_version() == lock["python"]
    assert sys.version_info[:2] == (3, 10)


def test_every_package_has_its_locked_version(lock: dict[str, Any]) -> None:
    wanted = {normalised(one["name"]): one["version"] for one in lock["package"]}
    found = installed()
    assert {name: found.get(name) for name in wanted} == wanted


def test_no_package_is_outside_the_lock(lock: dict[str, Any]) -> None:
    known = {normalised(one["name"]) for part in ("package", "test") for one in lock.get(part, [])}
    assert set(installed()) - known == set()


def test_what_the_lock_leaves_out_is_not_there(lock: dict[str, Any]) -> None:
    assert set(installed()) & {normalised(name) for name in lock["omit"]} == set()


@pytest.mark.parametrize("module", ["pip", "setuptools", "ensurepip", "uv", "conda", "wheel"])
def test_nothing_here_installs_packages(module: str) -> None:
    assert importlib.util.find_spec(module) is None


@pytest.mark.parametrize("program", ["cc", "gcc", "g++", "ld", "make", "pip", "pip3", "uv", "conda", "apt-get", "dpkg"])
@pytest.mark.usefixtures("isolated")
def test_no_compiler_and_no_package_manager_is_on_the_path(program: str) -> None:
    assert shutil.which(program) is None


def test_python_finds_packages_in_its_own_tree_only() -> None:
    tree = Path(sys.prefix)
    named = {Path(part) for part in os.environ["PYTHONPATH"].split(":")} | {Path.cwd()}  # python -m adds the latter
    for entry in filter(None, sys.path):
        place = Path(entry)
        assert place.is_relative_to(tree) or any(place.is_relative_to(one) for one in named), entry


@pytest.mark.parametrize(
    "folder", ["/", "/etc", "/usr/bin", "/opt/edgekiln", "/opt/edgekiln/lib", "/data", "/app/pipelines"]
)
@pytest.mark.usefixtures("isolated")
def test_nothing_outside_the_workspace_can_be_written(folder: str) -> None:
    with pytest.raises(OSError, match=r"Read-only|denied"):
        (Path(folder) / "probe").write_bytes(b"")


@pytest.mark.usefixtures("isolated")
def test_workspace_and_scratch_can_be_written() -> None:
    for folder in ("/workspace", "/tmp"):
        probe = Path(folder) / f".probe-{os.getpid()}"
        probe.write_bytes(b"x")
        assert probe.stat().st_uid == os.getuid()
        probe.unlink()


@pytest.mark.usefixtures("isolated")
def test_there_is_no_network() -> None:
    assert [one.name for one in Path("/sys/class/net").iterdir()] == ["lo"]
    for address in ("192.0.2.1", "198.51.100.1"):  # reserved for documentation: nobody answers there
        with socket.socket() as probe:
            probe.settimeout(2)
            with pytest.raises(OSError, match="unreachable"):
                probe.connect((address, 80))


@pytest.mark.usefixtures("isolated")
def test_no_privileges() -> None:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert os.getuid() != 0
    assert os.getgid() != 0
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}
    assert status["NoNewPrivs"].strip() == "1"


def test_the_models_that_the_lock_names_are_the_ones_that_are_here(lock: dict[str, Any]) -> None:
    """The host lists and refuses names by its lock alone."""
    from pipelines.models import LITE0, names

    assert names() == sorted([LITE0, *(f"onnx_tv_{one['model']}" for one in lock["hub"])])


@pytest.mark.parametrize("module", ["ssl", "sqlite3", "lzma", "bz2", "zlib", "ctypes", "readline", "curses", "uuid"])
def test_the_standard_library_is_whole(module: str) -> None:
    __import__(module)


def test_a_network_is_exported_checked_and_run(tmp_path: Path) -> None:
    import onnx
    import onnxruntime
    import torch
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1(weights=None).eval()
    picture = torch.randn(1, 3, 64, 64)
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(network, picture, path, opset_version=13)
    onnx.checker.check_model(path, full_check=True)
    (output,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
        None, {onnx.load(path).graph.input[0].name: picture.numpy()}
    )
    with torch.no_grad():
        assert np.abs(output - network(picture).numpy()).max() < 1e-4
