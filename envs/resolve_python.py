"""Python packages at lock time: uv resolves, and of each package one wheel is chosen by its tags."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from envs import process, sources
from envs.errors import BuildError, LockError
from envs.lock import LockedWheel
from envs.platforms import GLIBC_MINOR, MACHINES, uv_platform
from envs.spec import EnvSpec
from envs.toml import parse_toml


def resolve_wheels(
    wanted: Mapping[str, str], pins: Mapping[str, str], spec: EnvSpec, newest: str
) -> tuple[LockedWheel, ...]:
    """The wanted packages and all they need as of `newest`, by name; what `pins` names keeps that version.

    LockError where there is no solution or no wheel that fits the spec's platform.
    """
    tags = wheel_tags(spec.python, MACHINES[spec.platform][0], GLIBC_MINOR[spec.base.suite])
    return _choose(_compile(wanted, pins, spec, newest), tags, spec)


def wheel_tags(python: str, machine: str, glibc_minor: int) -> list[Tag]:
    """Tags that CPython `python` on glibc 2.`glibc_minor` takes, best first."""
    major, minor = (int(part) for part in python.split("."))
    platforms: list[str] = []
    for level in range(glibc_minor, 4, -1):
        platforms.append(f"manylinux_2_{level}_{machine}")
        if legacy := {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}.get(level):
            platforms.append(f"{legacy}_{machine}")
    platforms.append(f"linux_{machine}")
    tags = [*cpython_tags((major, minor), platforms=platforms)]
    return [*tags, *compatible_tags((major, minor), f"cp{major}{minor}", platforms)]


def _compile(wanted: Mapping[str, str], pins: Mapping[str, str], spec: EnvSpec, newest: str) -> list[dict[str, Any]]:
    """uv's resolution as PEP 751 tables."""
    if not wanted:
        return []
    with tempfile.TemporaryDirectory() as folder:
        names = {"in": wanted, "constraints": pins, "overrides": spec.override}
        for stem, versions in names.items():
            text = "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))
            Path(folder, f"{stem}.txt").write_text(text, "utf-8")
        Path(folder, "excludes.txt").write_text("".join(f"{name}\n" for name in spec.exclude), "utf-8")
        out = Path(folder, "pylock.toml")
        command: list[str | Path] = [
            sources.uv(),
            "pip",
            "compile",
            f"{folder}/in.txt",
            "--constraint",
            f"{folder}/constraints.txt",
            "--excludes",
            f"{folder}/excludes.txt",
            "--overrides",
            f"{folder}/overrides.txt",
        ]
        command += [
            "--quiet",
            "--no-header",
            "--generate-hashes",
            "--only-binary",
            ":all:",
            "--format",
            "pylock.toml",
        ]
        command += ["--exclude-newer", newest, "--output-file", out]
        platform = uv_platform(spec.platform, spec.base.suite)
        # the patch level too: some packages ask for one
        python = min((one.version for one in spec.interpreter), key=Version, default=spec.python)
        command += ["--python-version", python, "--python-platform", platform]
        try:
            # the index goes by the environment: an address may carry a password, and arguments are for all to see
            own = {"UV_PYTHON_DOWNLOADS": "never", "UV_DEFAULT_INDEX": sources.index_url()}
            process.run(command, env={**os.environ, **own}, shown="Because")
        except BuildError as error:
            raise LockError(
                f"envs/specs/{spec.name}.toml has no solution: {error.message}", "change its pins"
            ) from error
        packages: list[dict[str, Any]] = parse_toml(out).get("packages", [])
        return packages


def _choose(packages: Iterable[dict[str, Any]], tags: list[Tag], spec: EnvSpec) -> tuple[LockedWheel, ...]:
    chosen = []
    for package in packages:
        listed = [(_file_name(w), w["hashes"]["sha256"], int(w.get("size", 0))) for w in package.get("wheels", [])]
        best = best_wheel([name for name, _, _ in listed], tags)
        if best is None:
            raise LockError(
                f"envs/specs/{spec.name}.toml: {package['name']} {package['version']} has no wheel that fits"
            )
        name, sha256, size = next(one for one in listed if one[0] == best)
        chosen.append(
            LockedWheel(name=package["name"], version=package["version"], file=name, sha256=sha256, bytes=size)
        )
    return tuple(sorted(chosen, key=lambda w: w.name))


def _file_name(entry: Mapping[str, Any]) -> str:
    return str(entry.get("name") or unquote(entry["url"].split("#")[0].rsplit("/", 1)[-1]))


def best_wheel(files: Iterable[str], tags: list[Tag]) -> str | None:
    """The file whose best tag stands first in `tags`; the higher build number, then the name, breaks a tie."""
    rank = {tag: place for place, tag in enumerate(tags)}
    scored = []
    for file in files:
        _, _, build, its = parse_wheel_filename(file)
        places = [rank[tag] for tag in its if tag in rank]
        if places:
            scored.append((min(places), [-int(build[0])] if build else [0], file))
    return min(scored)[2] if scored else None
