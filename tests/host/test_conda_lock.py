"""A conda spec becomes a lock by the real conda-lock, and the lock a tree that runs; channels are names everywhere."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml
from channel import CHANNEL, Member, add_python, make_package, python_package
from serving import Server, make_wheel, serving
from test_conda_link import packages as conda_packages

from envs import resolve, sources, tree
from envs import spec as spec_module
from envs.conda import channels, environment, link, tool
from envs.conda import lock as conda_lock
from envs.errors import BuildError, FetchError, LockError, SpecError
from envs.init import make
from envs.lock import EnvLock, to_text
from envs.lock_check import lock_states
from envs.paths import SPECS
from envs.progress import Silent
from envs.spec import BaseSpec, CondaSpec, EnvSpec, ExportSpec, load_spec, spec_sha256
from envs.verbs.builds import environments

DAY = dt.date(2026, 11, 1)


def conda_spec(**changes: object) -> EnvSpec:
    fields: dict[str, object] = {
        "name": "condatest",
        "summary": "",
        "python": "3.10",
        "base": BaseSpec(suite="bookworm", packages=("base-files",)),
        "installer": "conda",
        "conda": CondaSpec(channels=(CHANNEL,), packages={"graphs": ">=1"}),
        "export": ExportSpec(opset=13, ir_version=7, simplifier="onnxsim"),
        "packages": {"small": "1.0"},
    }
    return EnvSpec(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def conda_tool() -> Path:
    """conda-lock in the user's own cache, made once for all tests."""
    try:
        return tool.ensure_tool(Silent())
    except BuildError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"conda-lock can't be installed here: {error.message}")


@pytest.fixture
def home(conda_tool: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache but for conda-lock, and no conda program."""
    (cache / "conda").mkdir(parents=True)
    (cache / "conda" / conda_tool.name).symlink_to(conda_tool)
    monkeypatch.setattr(tool, "CONDAS", ())
    for name in ("CONDARC", "MAMBARC", "CONDA_PREFIX", "MAMBA_ROOT_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(cache.parent / "home"))
    return cache


@pytest.fixture
def channel(tmp_path: Path) -> Path:
    """python, pip, and two versions of a noarch package that needs a library."""
    folder = tmp_path / "channels" / CHANNEL
    python_package()
    make_package(folder, "libedge", "1.2", {"lib/libedge.so": Member(b"\x7fELF")}, old_format=True)
    make_package(folder, "pip", "24.0", {"site-packages/pip.py": Member(b"")}, noarch="python")
    for version in ("1.0", "2.0"):
        files = {
            "site-packages/graphs.py": Member(f"version = '{version}'\n".encode()),
            f"site-packages/graphs-{version}.dist-info/METADATA": Member(b"Metadata-Version: 2.1\nName: graphs\n"),
        }
        make_package(folder, "graphs", version, files, noarch="python", depends=("python", "libedge >=1"))
    add_python(folder)
    return folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    sources.index_url.cache_clear()
    make_wheel(tmp_path / "wheels", "small", "1.0", {"small/__init__.py": b"x = 1\n"})
    with serving() as server:
        server.add_wheels(tmp_path / "wheels", html=True)
        monkeypatch.setenv("EDGEKILN_INDEX_URL", f"{server.url}/simple")
        yield server
    sources.index_url.cache_clear()


def locked(spec: EnvSpec, solved: conda_lock.Solved) -> EnvLock:
    return EnvLock(
        version=1,
        name=spec.name,
        spec_sha256=spec_sha256(spec),
        platform=spec.platform,
        exclude_newer="2026-11-01T00:00:00Z",
        source_date_epoch=1793491200,
        suite="bookworm",
        omit=(),
        trim={},
        interpreter=(),
        installer="conda",
        conda=solved.conda,
        package=solved.wheels,
        python=solved.python,
        test=(),
        data=(),
        hub=(),
    )


def serve_channel(server: Server, channel: Path) -> None:
    for file in channel.rglob("*"):
        if file.is_file():
            path = f"/mirror/{file.relative_to(channel.parent).as_posix()}"
            server.files[path] = ("application/octet-stream", file.read_bytes())


def test_a_spec_becomes_a_lock_and_the_lock_a_tree_that_runs(
    home: Path, channel: Path, index: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = conda_spec()
    monkeypatch.setenv("EDGEKILN_CONDA_URL", channel.parent.as_uri())
    by_file = conda_lock.resolve_conda(spec, DAY, Silent())
    serve_channel(index, channel)
    monkeypatch.setenv("EDGEKILN_CONDA_URL", f"{index.url}/mirror/{{channel}}/")
    solved = conda_lock.resolve_conda(spec, DAY, Silent())
    assert solved == by_file  # where a channel lies is not in it
    assert [(one.name, one.version) for one in solved.conda] == [
        ("graphs", "2.0"),
        ("libedge", "1.2"),
        ("pip", "24.0"),
        ("python", python_package()[1]),
    ]
    for one in solved.conda:
        there = channel / one.subdir / one.file
        assert (one.channel, one.bytes) == (CHANNEL, there.stat().st_size)
    assert [(one.name, one.file) for one in solved.wheels] == [("small", "small-1.0-py3-none-any.whl")]
    lock = locked(spec, solved)
    text = to_text(lock)
    assert "://" not in text
    assert str(channel.parent) not in text
    assert "127.0.0.1" not in text
    made = tree.ensure_tree(lock, Silent())
    ask = "import graphs, small; print(graphs.version, small.x)"
    done = subprocess.run([made / "bin/python3", "-c", ask], env={}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2.0", "1"]


def test_what_has_no_solution_is_said_in_one_line(
    home: Path, channel: Path, index: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKILN_CONDA_URL", channel.parent.as_uri())
    for spec, said in (
        (conda_spec(conda=CondaSpec(channels=(CHANNEL,), packages={"graphs": ">=3"})), r"graphs >=3"),
        (conda_spec(packages={"small": "9.9"}), r"small \(==9.9\)"),
    ):
        with pytest.raises(LockError, match=rf"condatest.toml has no solution: conda-lock says: .*{said}") as caught:
            conda_lock.resolve_conda(spec, DAY, Silent())
        assert "\n" not in caught.value.message
        assert "Traceback" not in caught.value.message


def test_the_stand_in_looks_no_further_than_the_day(
    home: Path, channel: Path, index: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKILN_CONDA_URL", channel.parent.as_uri())
    with pytest.raises(LockError, match=r"after the cutoff date of 2025"):
        conda_lock.resolve_conda(conda_spec(), dt.date(2025, 1, 1), Silent())


def test_a_users_own_environment_file_is_locked(
    home: Path, channel: Path, index: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKILN_CONDA_URL", channel.parent.as_uri())
    monkeypatch.setattr(environment, "spec_path", lambda name: tmp_path / f"{name}.toml")
    text = f"name: mine\nchannels: [{CHANNEL}, nodefaults]\ndependencies:\n- graphs=1.0\n- pip:\n  - small==1.0\n"
    (tmp_path / "environment.yml").write_text(text)
    spec = conda_spec(conda=CondaSpec(channels=(CHANNEL,), environment="environment.yml"), packages={})
    solved = conda_lock.resolve_conda(spec, DAY, Silent())
    assert {one.name: one.version for one in solved.conda}["graphs"] == "1.0"
    assert [one.name for one in solved.wheels] == ["small"]


def test_another_python_than_the_specs_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKILN_CONDA_URL", "https://host.example")
    entry = {**ENTRY, "name": "python", "manager": "conda", "platform": "linux-64"}
    entry["url"] = "https://host.example/edge-forge/linux-64/python-3.11.1-h_0.conda"
    answer = tmp_path / "conda-lock.yml"
    answer.write_text(yaml.safe_dump({"package": [entry]}))
    monkeypatch.setattr(conda_lock, "_run_conda_lock", lambda *asked: answer)
    with pytest.raises(LockError, match=r"conda chose Python 3.11.1, the spec says 3.10"):
        conda_lock.resolve_conda(conda_spec(), DAY, Silent())


def test_the_users_own_conda_is_taken_and_named(
    home: Path, channel: Path, index: Server, tmp_path: Path, conda_tool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Telling(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    tool.choose_conda(conda_tool, Silent())  # makes the stand-in, which plays the user's conda here
    own = tmp_path / "bin" / "mamba"
    own.parent.mkdir()
    own.write_text(f'#!/bin/sh\necho asked >> {tmp_path}/asked\nexec {conda_tool}/bin/edgekiln-conda "$@"\n')
    own.chmod(0o755)
    monkeypatch.setattr(tool, "CONDAS", ("micromamba", "mamba", "conda"))
    monkeypatch.setenv("PATH", f"{own.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("EDGEKILN_CONDA_URL", channel.parent.as_uri())
    conda_lock.resolve_conda(conda_spec(packages={}), DAY, Telling())
    assert (tmp_path / "asked").exists()
    assert any(line.startswith(f"conda: solving with {own}") for line in said)


ENTRY = {
    "name": "numpy",
    "version": "1.26.4",
    "url": "https://host.example/edge-forge/linux-64/numpy-1.26.4-py310h_0.conda",
    "hash": {"md5": "0" * 32, "sha256": "a" * 64},
}
WHERE = {"https://host.example/edge-forge": CHANNEL}


def test_a_locked_package_is_read_from_its_url_without_the_host() -> None:
    read = conda_lock._conda({**ENTRY, "url": ENTRY["url"].replace("host", "u:secret@host")}, WHERE)  # type: ignore[attr-defined]
    assert (read.channel, read.subdir, read.build) == (CHANNEL, "linux-64", "py310h_0")
    assert "host" not in str(read)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"url": "https://elsewhere.example/x/linux-64/numpy-1.26.4-h_0.conda"},
            "is not where the spec's channels lie",
        ),
        ({"hash": {"md5": "0" * 32}}, "gives no sha256"),
        ({"url": "https://host.example/edge-forge/linux-64/other-1.26.4-h_0.conda"}, "is no package file of it"),
        ({"url": "https://host.example/edge-forge/linux-64/numpy-1.26.4-..%2Fx.conda"}, "is no package file of it"),
    ],
)
def test_an_entry_that_can_not_be_locked_is_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(LockError, match=said):
        conda_lock._conda({**ENTRY, **change}, WHERE)


@pytest.mark.parametrize("name", ["https://host.example/c", "../up", "a b", "", "/x"])
def test_a_channel_is_a_name(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKILN_CONDA_URL", "https://host.example")
    with pytest.raises(SpecError, match="is no name"):
        channels.channel_url(name)


def test_where_a_channel_lies_is_configuration(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONDARC", "MAMBARC", "CONDA_PREFIX", "MAMBA_ROOT_PREFIX", "EDGEKILN_CONDA_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    channels._asked_alias.cache_clear()
    with pytest.raises(FetchError, match=r"nothing says where the conda channel edge-forge lies; set EDGEKILN_CONDA"):
        channels.channel_url(CHANNEL)
    (tmp_path / "bin").mkdir()
    conda = tmp_path / "bin" / "conda"
    answer = '{"channel_alias": {"scheme": "https", "location": "asked.example", "auth": null}}'
    conda.write_text(f"#!/bin/sh\necho '{answer}'\n")
    conda.chmod(0o755)
    channels._asked_alias.cache_clear()
    assert channels.channel_url(CHANNEL) == "https://asked.example/edge-forge"
    channels._asked_alias.cache_clear()
    rc = {"channel_alias": "https://alias.example/", "custom_channels": {"own": "https://custom.example"}}
    (tmp_path / ".condarc").write_text(yaml.safe_dump(rc))
    assert channels.channel_url(CHANNEL) == "https://alias.example/edge-forge"
    assert channels.channel_url("own") == "https://custom.example/own"
    monkeypatch.setenv("EDGEKILN_CONDA_URL", "https://told.example/{channel}/x/")
    assert channels.channel_url(CHANNEL) == "https://told.example/edge-forge/x"


def test_the_shipped_conda_spec_is_listed_as_not_locked(capsys: pytest.CaptureFixture[str]) -> None:
    assert environments(True) == 0
    (its,) = [one for one in json.loads(capsys.readouterr().out) if one["env"] == "sigmastar-conda"]
    assert its["state"] == "not locked"
    assert "invoke lock --env sigmastar-conda" in its["problem"]
    assert {one.state for one in lock_states() if one.env == "sigmastar-conda"} == {"not locked"}


def test_the_shipped_conda_spec_is_read_and_asks_for_its_own_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKILN_CONDA_URL", "https://told.example")
    spec = load_spec("sigmastar-conda")
    assert not spec.locked
    made = environment.environment(spec, lambda: "https://index.example/simple")
    assert made["channels"] == ["https://told.example/conda-forge"]
    assert made["pip-repositories"] == ["https://index.example/simple"]
    assert made["allow-pypi-requests"] is False  # or a public package could stand in for a private one
    assert "python 3.10.*" in made["dependencies"]
    assert "torch==2.3.1" in made["dependencies"][-1]["pip"]
    assert "://" not in (SPECS / "sigmastar-conda.toml").read_text()


def test_a_conda_lock_that_a_user_brings_is_locked_to_the_same_bytes(
    home: Path, channel: Path, index: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKILN_CONDA_URL", channel.parent.as_uri())
    first = conda_lock.resolve_conda(conda_spec(), DAY, Silent())
    shutil.copytree(SPECS, tmp_path / "specs")
    for module in (make, spec_module):
        monkeypatch.setattr(module, "SPECS", tmp_path / "specs")
    (brought,) = home.glob("conda/*.conda-lock.yml")
    begun = make.init(brought, "brought", "", Silent())
    spec = msgspec.structs.replace(begun.spec, test={}, omit=("pip",))
    monkeypatch.setattr(resolve, "_base", lambda job: {"suite": "bookworm"})
    made = resolve.make_lock(spec, DAY, Silent())
    assert (made.installer, made.python, made.interpreter) == ("conda", first.python, ())
    assert [one for one in first.conda if one.name != "pip"] == list(made.conda)
    assert made.package == first.wheels
    assert made.omit == ("pip",)
    monkeypatch.setattr(resolve, "resolve_conda", lambda *asked: first)
    other = msgspec.structs.replace(spec, hashes={**spec.hashes, "graphs": ("0" * 64,)})
    with pytest.raises(LockError, match=r"graphs-2.0-h0_0.conda: sha256 is .* none of the 1 that \[hashes\]"):
        resolve.make_lock(other, DAY, Silent())


INSTALL = """
import asyncio, os, pathlib, sys, rattler
channel, prefix, cache = sys.argv[1:]
async def main():
    wanted = ["python", "graphs", "libedge"]
    solved = await rattler.solve([channel], wanted, platforms=["linux-64", "noarch"])
    await rattler.install(
        solved, prefix, cache_dir=pathlib.Path(cache), show_progress=False, alternative_target_prefix="/opt/edgekiln"
    )
asyncio.run(main())
sys.stdout.flush()
os._exit(0)
"""


def test_the_linker_puts_down_what_rattler_does(conda_tool: Path, tmp_path: Path) -> None:
    """Another implementation of the same: all files but what only one of them writes."""
    made = conda_packages(tmp_path / CHANNEL)
    prefix = tmp_path / "theirs"
    script = [conda_tool / "bin/python", "-c", INSTALL, (tmp_path / CHANNEL).as_uri(), prefix, tmp_path / "pkgs"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = tmp_path / "ours"
    link.link_all([(one, tmp_path / CHANNEL / one.subdir / one.file) for one in made], ours, "3.10", Silent())
    assert _files(ours) == _files(prefix)


def _files(prefix: Path) -> dict[str, object]:
    own = ("conda-meta/", "bin/graphs", "CACHEDIR.TAG")  # their entry point reads otherwise and does the same
    found: dict[str, object] = {}
    for path in sorted(prefix.rglob("*")):
        name = path.relative_to(prefix).as_posix()
        left = (
            name.startswith(own) or "__pycache__" in name or name.endswith(("RECORD", "direct_url.json", "INSTALLER"))
        )
        if path.is_symlink():
            found[name] = path.readlink()
        elif path.is_file() and not left:
            found[name] = (os.access(path, os.X_OK), path.read_bytes())
    return found
