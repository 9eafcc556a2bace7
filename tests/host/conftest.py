"""Shared by the host's tests: a cache and a workspace of their own, and the rule for tests that want an engine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from moving import World
    from serving import Server

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "engine: needs a Docker Engine; skipped without one, never where CI=true")


def engine_answers() -> bool:
    if shutil.which("docker") is None and not Path("/var/run/docker.sock").exists():
        return False
    from envs.engines.choose import choose

    return choose("auto").docker is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanting = [item for item in items if item.get_closest_marker("engine")]
    if wanting and os.environ.get("CI") != "true" and not engine_answers():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="no Docker Engine answers here"))


@pytest.fixture(scope="session")
def compiled() -> Path:
    """The kernels of this checkout for this machine, from the machine's own cache or compiled into it."""
    from envs.native import ensure_native
    from envs.platforms import host_platform
    from envs.progress import Silent

    return ensure_native(host_platform(), Silent())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no sources but those the test names, and no compiler of kernels."""
    from envs import native
    from envs.errors import FetchError

    def refuse(progress: object) -> Path:
        raise FetchError("no compiler in a test")

    monkeypatch.setattr(native, "ensure_compiler", refuse)
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "cache"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace."""
    monkeypatch.setenv("EDGEKILN_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A package index on loopback, empty as yet."""
    from serving import serving

    with serving() as made:
        monkeypatch.setenv("EDGEKILN_INDEX_URL", f"{made.url}/simple")
        yield made


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Callable[[str], bytes], Path]:
    """Who signs a mirror's releases, and the keyring that knows the key."""
    from debs import signing

    return signing(tmp_path_factory.mktemp("gpg"))


@pytest.fixture
def world(
    cache: Path, tmp_path: Path, signer: tuple[Callable[[str], bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A Debian mirror and a package index whose contents the test moves."""
    from moving import World
    from serving import serving

    (tmp_path / "world").mkdir()
    with serving() as made:
        yield World(made, tmp_path / "world", signer, monkeypatch)
    World.forget()
