"""Run inside the environment: it is what its lock says, and nothing else."""

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


def test_nothing_here_installs_packages(installer: str) -> None:
    assert importlib.util.find_spec(installer) is None


COMPILERS = {"gcc": "gcc", "ld": "binutils", "make": "make"}  # program -> the package that a spec may ask for


@pytest.mark.parametrize("program", ["cc", "gcc", "g++", "ld", "make", "pip", "pip3", "uv", "conda", "apt-get", "dpkg"])
@pytest.mark.usefixtures("isolated")
def test_a_compiler_is_on_the_path_only_where_the_lock_has_it_and_a_package_manager_never(
    program: str, lock: dict[str, Any]
) -> None:
    locked = {one["name"] for one in lock.get("base", [])}
    assert (shutil.which(program) is not None) == (COMPILERS.get(program) in locked)


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


@pytest.mark.parametrize("module", ["ssl", "sqlite3", "lzma", "bz2", "zlib", "ctypes", "readline", "curses", "uuid"])
def test_the_standard_library_is_whole(module: str) -> None:
    __import__(module)
