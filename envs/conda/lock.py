"""A conda spec's packages, by the real conda-lock: its conda-lock.yml becomes part of our own lock.

conda-lock.yml names the host of every package, and no file of the repository may: it stays in the cache
(`conda/NAME.conda-lock.yml`), and channel name, subdir, file name, sha256 and size go into envs/locks.
"""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec
import requests
import yaml

from envs import process, sources
from envs.conda.channels import channel_url, package_url
from envs.conda.environment import SUBDIRS, conda_of, environment, load_yaml, virtual_packages
from envs.conda.tool import choose_conda, conda_home, ensure_tool
from envs.errors import FetchError, LockError
from envs.files import write_atomic
from envs.index import list_index
from envs.lock import LockedConda, LockedWheel
from envs.progress import Progress
from envs.spec import EnvSpec
from envs.transfer import TIMEOUT_S, session, unreachable


class Solved(msgspec.Struct, frozen=True):
    """What conda-lock chose: conda packages and wheels, each by name; `python` is the full version."""

    conda: tuple[LockedConda, ...]
    wheels: tuple[LockedWheel, ...]
    python: str


def resolve_conda(spec: EnvSpec, day: dt.date, progress: Progress) -> Solved:
    """Run conda-lock on the spec's environment. LockError says why there is no solution."""
    path = _run_conda_lock(spec, day, progress)
    progress.say(f"conda: conda-lock.yml is {path}")
    subdir = SUBDIRS[spec.platform]
    document = load_yaml(path)
    entries = [one for one in document.get("package") or () if one.get("platform") == subdir]
    channels = {_bare(channel_url(name)): name for name in conda_of(spec).channels}
    of_conda = [_conda(one, channels) for one in entries if one.get("manager") == "conda"]
    wheels = [_wheel(one) for one in entries if one.get("manager") == "pip"]
    python = next((one.version for one in of_conda if one.name == "python"), "")
    if not python.startswith(f"{spec.python}."):
        raise LockError(
            f"envs/specs/{spec.name}.toml: conda chose Python {python or 'none'}, the spec says {spec.python}",
            f'write python = "{spec.python}.*" into [conda] packages',
        )
    return Solved(
        tuple(sorted(_with_sizes(of_conda), key=lambda one: one.name)),
        tuple(sorted(wheels, key=lambda one: one.name)),
        python,
    )


def python_pins(packages: Sequence[LockedConda]) -> dict[str, str]:
    """Versions of conda packages that could be Python distributions of the same name: what test tools must go by."""
    return {one.name: one.version for one in packages if re.fullmatch(r"\d[0-9a-z.]*", one.version)}


def _run_conda_lock(spec: EnvSpec, day: dt.date, progress: Progress) -> Path:
    tool = ensure_tool(progress)
    conda = choose_conda(tool, progress)
    result = conda_home() / f"{spec.name}.{SUBDIRS[spec.platform]}.conda-lock.yml"
    with tempfile.TemporaryDirectory(prefix="edgekiln-conda-") as name:
        work = Path(name)
        for file, content in (
            ("environment.yml", environment(spec, sources.index_url)),
            ("virtual.yml", virtual_packages(spec)),
            ("names.yml", {}),  # PyPI name -> conda name where they differ; conda-lock's own default is on the web
        ):
            (work / file).write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
        command: list[str | Path] = [tool / "bin/conda-lock", "lock", "--conda", conda, "-f", "environment.yml"]
        command += ["-p", SUBDIRS[spec.platform], "--lockfile", "conda-lock.yml", "--strip-auth"]
        command += ["--virtual-package-spec", "virtual.yml", "--pypi_to_conda_lookup_file", work / "names.yml"]
        if spec.packages:
            progress.say(f"conda-lock: resolving; of what pip pins need, the newest counts, not that of {day}")
        log = work / "log.txt"
        with log.open("wb") as out:
            child = process.attach(
                command, env=_clean(day), cwd=work, stdout=out.fileno(), stderr=out.fileno(), no_stdin=True
            )
            try:
                code = child.wait()
            finally:
                if child.poll() is None:  # interrupted
                    child.terminate()
        text = re.sub(r"://[^/@\s]+@", "://***@", log.read_text("utf-8", errors="replace"))
        if code or not (work / "conda-lock.yml").exists():
            kept = conda_home() / f"{spec.name}.log"
            write_atomic(kept, text.encode())
            raise LockError(
                f"envs/specs/{spec.name}.toml has no solution: conda-lock says: {reason(text)}", f"see {kept}"
            )
        write_atomic(result, (work / "conda-lock.yml").read_bytes())
    return result


def _clean(day: dt.date) -> dict[str, str]:
    """The user's environment without what would change the answer; caches below our own."""
    foreign = ("PYTHON", "PIP_", "POETRY_", "CONDA_OVERRIDE_", "CONDA_FLAGS", "CONDA_LOCK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    limit = {"EDGEKILN_CONDA_NEWEST": f"{day.isoformat()}T00:00:00"}
    return {**kept, **limit, "XDG_CACHE_HOME": str(conda_home() / "cache"), "NO_COLOR": "1"}


def reason(log: str) -> str:
    """The line of conda-lock's output that says what is wrong, without its traceback."""
    solver = re.search(r"Could not lock the environment for platform \S+\n(.*?)\n\s*Command: ", log, re.DOTALL)
    lines = log.strip().splitlines() or ["nothing"]
    said = solver[1] if solver else re.sub(r"^[\w.]+(Error|Exception): ", "", lines[-1])
    said = said.replace("-dummy-package-", "the spec")
    return " ".join(said.replace("└─", " ").replace("├─", " ").replace("│", " ").split())[:600]


def _bare(url: str) -> str:
    """Without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _conda(entry: Mapping[str, Any], channels: Mapping[str, str]) -> LockedConda:
    url, name = _bare(str(entry["url"])), str(entry["name"])
    folder, _, file = url.partition("#")[0].rpartition("/")
    base, _, subdir = folder.rpartition("/")
    sha256 = str((entry.get("hash") or {}).get("sha256") or "")
    file = unquote(file)
    if base not in channels:
        raise LockError(f"conda package {name}: {urlsplit(url).hostname or base} is not where the spec's channels lie")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise LockError(f"conda package {file}: the channel gives no sha256 of it", "lock another build of it")
    found = re.fullmatch(r"(.+)-([^-]+)-([^-]+)(\.conda|\.tar\.bz2)", file)
    if not found or found[1] != name or "/" in file:
        raise LockError(f"conda package {name}: {file!r} is no package file of it")
    return LockedConda(
        name=name,
        version=found[2],
        build=found[3],
        channel=channels[base],
        subdir=subdir,
        file=file,
        sha256=sha256,
        bytes=0,
    )


def _wheel(entry: Mapping[str, Any]) -> LockedWheel:
    name, version = str(entry["name"]), str(entry["version"])
    file = unquote(urlsplit(str(entry["url"])).path.rpartition("/")[2])
    if not file.endswith(".whl"):
        raise LockError(
            f"{name} {version} has no wheel that fits, only {file}", "take it from conda, or another version"
        )
    listed = list_index(name).get(file)
    sha256 = str((entry.get("hash") or {}).get("sha256") or "")
    if listed is None or not sha256:
        raise LockError(f"{file}: the package index does not list it with a sha256")
    return LockedWheel(name=name, version=version, file=file, sha256=sha256, bytes=listed.bytes)


def _with_sizes(packages: Sequence[LockedConda]) -> list[LockedConda]:
    """conda-lock.yml knows no sizes: each package's source is asked."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(_size, packages))
    return [msgspec.structs.replace(one, bytes=size) for one, size in zip(packages, sizes, strict=True)]


def _size(package: LockedConda) -> int:
    url = package_url(package)
    if url.startswith("file://"):
        path = Path(unquote(urlsplit(url).path))
        if not path.is_file():
            raise FetchError(f"{path}: the channel lists it, and it is not there")
        return path.stat().st_size
    try:
        response = session().head(url, allow_redirects=True, timeout=TIMEOUT_S)
        if response.status_code in (403, 405, 501):  # a server that answers GET alone
            response = session().get(url, stream=True, timeout=TIMEOUT_S)
        with response:
            response.raise_for_status()
            return int(response.headers.get("Content-Length") or 0)
    except requests.RequestException as error:
        raise FetchError(*unreachable(package.file, url, error)) from error
