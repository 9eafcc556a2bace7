"""environment.yml: out of a spec, or a user's own brought into the form that conda-lock is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from envs.conda.channels import channel_url
from envs.errors import SpecError
from envs.platforms import GLIBC_MINOR, MACHINES
from envs.spec import CondaSpec, EnvSpec, spec_path
from envs.toml import shown

SUBDIRS = {"linux/amd64": "linux-64", "linux/arm64": "linux-aarch64"}


def environment(spec: EnvSpec, index_url: Callable[[], str]) -> dict[str, Any]:
    """The environment.yml that conda-lock is given, channels and package index by their URLs.

    Pins of [packages] are its pip section; `index_url` is asked only where there is one. SpecError names what in the
    spec or in the user's file can't be used.
    """
    conda = conda_of(spec)
    dependencies = _users(spec, conda) if conda.environment else [_line(*one) for one in conda.packages.items()]
    conda_lines = [one for one in dependencies if isinstance(one, str)]
    pips = [line for one in dependencies if isinstance(one, Mapping) for line in one.get("pip") or ()]
    pips += [f"{name}=={version}" for name, version in spec.packages.items()]
    if not any(re.match(r"python(?![\w.-])", line) for line in conda_lines):
        conda_lines.append(f"python {spec.python}.*")
    made: dict[str, Any] = {
        "channels": [channel_url(name) for name in conda.channels],
        "dependencies": conda_lines,
        "platforms": [SUBDIRS[spec.platform]],
        "allow-pypi-requests": False,  # conda-lock would ask the public index beside the configured one
    }
    if pips:
        made["dependencies"] = [*conda_lines, {"pip": pips}]
        made["pip-repositories"] = [index_url()]
    return made


def virtual_packages(spec: EnvSpec) -> dict[str, Any]:
    """What the solver may take for given: the C library of the image's suite, and no GPU."""
    glibc = f"2.{GLIBC_MINOR[spec.base.suite]}"
    machine = MACHINES[spec.platform][0]
    packages = {"__unix": "0", "__linux": "5.10", "__archspec": f"1 {machine}", "__glibc": glibc}
    return {"subdirs": {SUBDIRS[spec.platform]: {"packages": packages}}}


def conda_of(spec: EnvSpec) -> CondaSpec:
    """The spec's [conda] table. SpecError where it is missing or names no channel."""
    if spec.conda is None or not spec.conda.channels:
        raise SpecError(
            f"envs/specs/{spec.name}.toml: installer is 'conda' and [conda] names no channel",
            'write [conda] channels = ["conda-forge"] and its packages',
        )
    return spec.conda


def _line(name: str, wanted: str) -> str:
    if not re.fullmatch(r"[a-z0-9_][a-z0-9_.-]*", name):
        raise SpecError(
            f"[conda] packages: {name!r} is no package name", "write the name alone; channels have their key"
        )
    return f"{name} {wanted}".strip()


def _users(spec: EnvSpec, conda: CondaSpec) -> list[Any]:
    """The dependencies of the user's own file; its channels must be the spec's."""
    path = spec_path(spec.name).parent / conda.environment
    if conda.packages:
        raise SpecError(f"envs/specs/{spec.name}.toml: [conda] has both 'packages' and 'environment'", "keep one")
    document = load_yaml(path)
    dependencies = document.get("dependencies")
    if not isinstance(dependencies, list):
        raise SpecError(f"{shown(path)}: no list 'dependencies'", "see envs/specs for examples")
    strange = [one for one in document.get("channels") or () if one not in (*conda.channels, "nodefaults")]
    if strange:
        raise SpecError(
            f"{shown(path)}: channel {strange[0]!r} is not one of the spec's", "name it in [conda] channels"
        )
    return dependencies


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that is a mapping. SpecError names file and line."""
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise SpecError(f"{shown(path)}: can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or "it is no text in UTF-8"
        raise SpecError(f"{shown(path)}{line}: not valid YAML: {why}", "mend the file") from error
    if not isinstance(document, dict):
        raise SpecError(f"{shown(path)}: not a mapping of keys", "mend the file")
    return document
