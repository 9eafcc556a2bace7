"""The proof: a bundle made here builds and runs where there is no network at all, no cache, no home, no Python 3.10."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bundling import Made, a_spec, empty_checkout, spec_text
from driven import ROOT
from making import small_lock
from serving import make_wheel, serving
from test_bundle_parts import with_layers  # noqa: F401 - a fixture

from envs.bundle import load
from envs.bundle.load import load_bundle
from envs.bundle.tool import tool_files
from envs.image import ImagePlan
from envs.lock import to_text
from envs.native import LEVELS
from envs.platforms import host_platform
from envs.progress import Silent
from envs.spec import spec_sha256

NAMESPACE = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--net")


@pytest.fixture(scope="module")
def no_network() -> tuple[str, ...]:
    """The words that start a program in a network namespace without interfaces."""
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        assert os.environ.get("CI") != "true", "network namespaces must work where CI=true"
        pytest.skip("this machine does not let us make a network namespace")
    return NAMESPACE


def a_checkout(folder: Path) -> Path:
    """This checkout, whose tool has no wheels of its own: the tests' interpreter holds them already."""
    for name in tool_files(ROOT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    for name in ("tool.txt", "dev.txt"):
        (folder / "envs/locks" / name).write_text("")
    if (ROOT / ".git").exists():  # what is written but not committed yet is tested too
        shutil.copytree(ROOT / "envs", folder / "envs", dirs_exist_ok=True, ignore=_never)
        shutil.copytree(ROOT / "pipelines", folder / "pipelines", dirs_exist_ok=True, ignore=_never)
        for name in ("tasks.py", "envs/locks/native.toml"):
            shutil.copy(ROOT / name, folder / name)
    return folder


def _never(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("__pycache__", "locks") or Path(folder, name).is_symlink()]


def invoke(checkout: Path, env: dict[str, str], *words: str, within: tuple[str, ...] = ()) -> str:
    command = [*within, sys.executable, "-m", "invoke", *words]
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_bundle_is_loaded_built_and_run_without_a_network(
    tmp_path: Path, compiled: Path, no_network: tuple[str, ...]
) -> None:
    shutil.copytree(compiled, tmp_path / "cache/native" / compiled.name)
    wheels = tmp_path / "wheels"
    tools = make_wheel(wheels, "tools", "1.0", {"tools.py": b""})
    spec = a_spec("small")
    lock = small_lock(wheels, spec_sha256=spec_sha256(spec), test=(tools,))
    checkout = a_checkout(tmp_path / "checkout")
    (checkout / "envs/specs/small.toml").write_text(spec_text(spec))
    (checkout / "envs/locks/small.lock.toml").write_text(to_text(lock))
    bundle = tmp_path / "small.tar"
    with serving() as server:
        server.add_wheels(wheels)
        env = {**os.environ, "EDGEKILN_CACHE": str(tmp_path / "cache"), "EDGEKILN_INDEX_URL": f"{server.url}/simple"}
        words = ("bundle", "--env", "small", "--no-layers", "--json", "--output")
        first = json.loads(invoke(checkout, env, *words, str(bundle)))
        again = json.loads(invoke(checkout, env, *words, str(tmp_path / "again.tar")))
    assert first["bundle_digest"] == again["bundle_digest"]
    assert bundle.read_bytes() == (tmp_path / "again.tar").read_bytes()
    assert not list(tmp_path.glob("*.work")) and not list(tmp_path.glob("*.part"))

    elsewhere = tmp_path / "another machine"
    (elsewhere / "home").mkdir(parents=True)
    subprocess.run(["tar", "xf", bundle, "tool"], cwd=elsewhere, check=True)
    shutil.rmtree(tmp_path / "cache")
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(elsewhere / "home")}
    tool = elsewhere / "tool"
    links = subprocess.run([*no_network, "cat", "/proc/net/dev"], capture_output=True, text=True, check=True).stdout
    assert [line.split(":")[0].strip() for line in links.splitlines()[2:]] in ([], ["lo"])
    loaded = json.loads(
        invoke(tool, bare, "bundle", "--load", str(bundle), "--engine", "local", "--json", within=no_network)
    )
    assert loaded["lock_digest"] == lock.digest
    built = json.loads(invoke(tool, bare, "build", "--env", "small", "--engine", "local", "--json", within=no_network))
    assert built["interpreter"] == "installed"
    ask = "import small, sys; from pipelines.native import describe; print(small.x, describe(), sys.prefix)"
    words = ("exec", "--env", "small", "--engine", "local", "--", "python3", "-c", ask)
    said = invoke(tool, bare, *words, within=no_network).split(maxsplit=2)
    assert (said[0], said[2].strip()) == ("1", built["tree"])
    assert said[1] in LEVELS[host_platform()]  # the kernels came with the bundle


@pytest.mark.engine
def test_the_image_comes_into_an_engine_from_the_bundle_alone(
    with_layers: tuple[Made, ImagePlan],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import docker

    made, plan = with_layers
    shutil.rmtree(tmp_path / "tree")
    empty_checkout(tmp_path / "checkout", monkeypatch)
    bundle = made.write(tmp_path / "tiny.tar")
    client = docker.from_env()
    try:
        loaded = load_bundle(bundle, "docker", Silent())
        assert loaded.image == plan.image_id
        assert client.images.get("edgekiln/tiny:latest").id == plan.image_id
        assert load_bundle(bundle, "docker", Silent()).image == plan.image_id
    finally:
        client.images.remove(plan.image_id, force=True)


def test_an_image_that_another_version_would_make_is_left_to_the_build(
    with_layers: tuple[Made, ImagePlan],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, _ = with_layers
    empty_checkout(tmp_path / "checkout", monkeypatch)
    monkeypatch.setattr(load, "remember", lambda *_: pytest.fail("nothing of such an image may be remembered"))
    assert made.manifest.image is not None
    image = msgspec.structs.replace(made.manifest.image, image_id="sha256:" + "0" * 64)
    other = Made(msgspec.structs.replace(made.manifest, image=image), made.files, made.lock)
    assert load_bundle(other.write(tmp_path / "tiny.tar"), "local", Silent()).image == ""
