"""Options that `invoke test` gives: the lock as JSON, and which engine this runs under.

What a test is about decides where it is collected: none asks for a package that the lock does not have.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

# module -> the packages that it is about
ABOUT = {
    "test_export.py": {"torch", "torchvision", "onnx", "onnxruntime"},
    "test_onnx.py": {"onnx", "onnxruntime"},
    "test_torch.py": {"torch", "numpy"},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lock", required=True, help="the environment's lock, as JSON")
    parser.addoption("--engine", required=True, choices=("docker", "local"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if ABOUT.get(collection_path.name, set()) - set(packages(config)) else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`imported`: those of the network's packages that are locked; `installer`: those that are not."""
    locked = packages(metafunc.config)
    if "imported" in metafunc.fixturenames:
        metafunc.parametrize("imported", [name for name in NETWORK if name in locked])
    if "installer" in metafunc.fixturenames:
        metafunc.parametrize("installer", [name for name in INSTALLERS if name not in locked])


NETWORK = ("torch", "torchvision", "onnx", "onnxruntime", "numpy")
INSTALLERS = ("pip", "setuptools", "ensurepip", "uv", "conda", "wheel")  # converters are built on some of them


def packages(config: pytest.Config) -> dict[str, str]:
    """Locked name -> version."""
    return {normalised(one["name"]): one["version"] for one in _lock(config)["package"]}


def _lock(config: pytest.Config) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Path(config.getoption("--lock")).read_text("utf-8"))
    return loaded


@pytest.fixture(scope="session")
def lock(request: pytest.FixtureRequest) -> dict[str, Any]:
    return _lock(request.config)


@pytest.fixture
def isolated(request: pytest.FixtureRequest) -> None:
    """For what only a container promises."""
    if request.config.getoption("--engine") == "local":
        pytest.skip("the local engine makes no such promise")


def normalised(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()
