"""The walls between the wings, read from the code itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from envs.bundle.tool import tool_files

ROOT = Path(__file__).resolve().parent.parent
HOST_NEVER = {"torch", "torchvision", "onnx", "onnxruntime", "numpy", "pipelines"}
INSIDE_NEVER = {"envs", "docker", "invoke", "rich", "requests"}


def imports(folder: str) -> Iterator[tuple[Path, str]]:
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                yield file.relative_to(ROOT), name


@pytest.mark.parametrize(("wing", "never"), [("envs", HOST_NEVER), ("pipelines", INSIDE_NEVER)])
def test_a_wing_imports_nothing_of_the_other(wing: str, never: set[str]) -> None:
    seen = list(imports(wing))
    assert seen
    assert [(str(file), name) for file, name in seen if name.split(".")[0] in never] == []


def test_only_process_opens_subprocesses() -> None:
    users = {str(file) for file, name in imports("envs") if name.split(".")[0] == "subprocess"}
    assert users <= {"envs/process.py", "envs/testing.py", "envs/engines/local.py"}  # the latter two name PIPE only
    calls = []
    for file in sorted((ROOT / "envs").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                *("subprocess.run", "subprocess.Popen", "subprocess.check_output", "subprocess.call"),
                *("os.system", "os.popen", "Popen"),
            }:
                calls.append(file.name)
    assert set(calls) == {"process.py"}


def test_only_engines_know_docker() -> None:
    users = {str(file.parent) for file, name in imports("envs") if name.split(".")[0] == "docker"}
    assert users == {"envs/engines"}


def test_the_letterbox_is_one_file() -> None:
    assert (ROOT / "envs" / "contract.py").resolve() == ROOT / "pipelines" / "contract.py"


def test_the_docker_folder_does_not_hide_the_docker_package() -> None:
    assert not (ROOT / "docker" / "__init__.py").exists()
    ask = "import docker; print(docker.DockerClient.__module__)"
    done = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "docker.client"


def test_no_shell_strings() -> None:
    for wing in ("envs", "pipelines"):
        for file in (ROOT / wing).rglob("*.py"):
            assert "shell=True" not in file.read_text("utf-8"), file


def test_tasks_stay_small() -> None:
    module = ast.parse((ROOT / "tasks.py").read_text("utf-8"))
    for node in module.body:
        if isinstance(node, ast.FunctionDef):
            assert node.body[-1].end_lineno is not None
            assert node.body[-1].end_lineno - node.body[0].lineno < 8, node.name


def test_locks_and_code_name_no_package_registry() -> None:
    hosts = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("deb", "debian", "org"))]
    for name in tool_files(ROOT):  # what git tracks; the same where there is no git, as in a bundle's tool
        text = (ROOT / name).read_bytes()
        for host in hosts:
            assert host.encode() not in text, f"{name} names {host}"
