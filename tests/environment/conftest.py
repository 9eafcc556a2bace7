"""Options that `invoke test` gives: the lock as JSON, and which engine this runs under."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lock", required=True, help="the environment's lock, as JSON")
    parser.addoption("--engine", required=True, choices=("docker", "local"))


@pytest.fixture(scope="session")
def lock(request: pytest.FixtureRequest) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Path(request.config.getoption("--lock")).read_text("utf-8"))
    return loaded


@pytest.fixture
def isolated(request: pytest.FixtureRequest) -> None:
    """For what only a container promises."""
    if request.config.getoption("--engine") == "local":
        pytest.skip("the local engine makes no such promise")


def normalised(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()
