"""Where a conda channel lies: configuration, never the lock. The first that says so wins.

EDGEKILN_CONDA_URL or `conda` in sources.toml (a URL that the channels lie below, or one with `{channel}` in it);
then what conda itself is set up with: `custom_channels` and `channel_alias` of its configuration files, and what a
`conda` on the PATH answers.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import yaml

from envs import process, sources
from envs.errors import BuildError, FetchError, SpecError
from envs.lock import LockedConda
from envs.toml import shown


def channel_url(name: str) -> str:
    """The URL of that channel, without a slash at its end. FetchError where nothing says where it lies."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)*", name) or ".." in name:
        raise SpecError(
            f"conda channel {name!r} is no name",
            f"write its name, as in conda-forge, and where it lies into {sources.VARIABLES['conda']}",
        )
    pattern = sources.conda_base() or _of_conda(name)
    if not pattern:
        raise FetchError(
            f"nothing says where the conda channel {name} lies",
            f"set {sources.VARIABLES['conda']} to the URL that the channels lie below, or one with {{channel}} in it",
        )
    url = pattern.replace("{channel}", name) if "{channel}" in pattern else f"{pattern.rstrip('/')}/{name}"
    return url.rstrip("/")


def package_url(package: LockedConda) -> str:
    """Where that package is to be had."""
    return f"{channel_url(package.channel)}/{package.subdir}/{quote(package.file, safe='+!-._')}"


def _of_conda(name: str) -> str:
    for path in _condarcs():
        if path.is_file():
            settings = _settings(path)
            custom = settings.get("custom_channels")
            if isinstance(custom, dict) and (base := custom.get(name)):
                return str(base)
            if alias := settings.get("channel_alias"):
                return str(alias)
    return _asked_alias()


def _condarcs() -> list[Path]:
    home = Path.home()
    places = [os.environ.get("CONDARC", ""), os.environ.get("MAMBARC", "")]
    places += [str(home / one) for one in (".condarc", ".mambarc", ".config/conda/.condarc", ".conda/.condarc")]
    places += [f"{root}/.condarc" for root in map(os.environ.get, ("CONDA_PREFIX", "MAMBA_ROOT_PREFIX")) if root]
    return [Path(place) for place in (*places, "/etc/conda/.condarc") if place]


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{shown(path)}: not valid YAML: {' '.join(str(error).split())}", "mend the file") from error
    return settings if isinstance(settings, dict) else {}


@functools.cache
def _asked_alias() -> str:
    """channel_alias as a `conda` of this machine tells it; "" where there is none."""
    if (conda := shutil.which("conda")) is None:
        return ""
    try:
        answer = msgspec.json.decode(process.run([conda, "config", "--show", "channel_alias", "--json"]))
    except (BuildError, msgspec.DecodeError):  # an old or broken one: the caller says what to set
        return ""
    alias = answer.get("channel_alias") if isinstance(answer, dict) else None
    if isinstance(alias, dict):  # its parts, as conda prints them
        return "://".join(str(alias.get(part) or "") for part in ("scheme", "location"))
    return str(alias or "")
