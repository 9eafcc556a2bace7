"""Where bytes come from: configuration, never the lock. The first that is set wins, in this order:

an EDGEKILN_* variable; `~/.config/edgekiln/sources.toml`; what this machine's own tools are set up with
(uv for Python packages, apt for Debian packages); and for the two public hosts that are no package
registry (the interpreter's releases, the framework's weights) their published address.
"""

from __future__ import annotations

import functools
import os
import re
import sysconfig
from pathlib import Path

import msgspec

from envs import process, toml
from envs.errors import FetchError, WrongUse

VARIABLES = {
    "index": "EDGEKILN_INDEX_URL",
    "debian": "EDGEKILN_DEBIAN_MIRROR",
    "interpreter": "EDGEKILN_INTERPRETER_URL",
    "hub": "EDGEKILN_HUB_URL",
    "registry": "EDGEKILN_REGISTRY_URL",
    "conda": "EDGEKILN_CONDA_URL",
    "store": "EDGEKILN_STORE",
    "bundle": "EDGEKILN_BUNDLE",
    "snapshot": "EDGEKILN_SNAPSHOT_URL",
}
PUBLISHED = {
    "interpreter": "https://github.com/astral-sh/python-build-standalone/releases/download",
    "hub": "https://download.pytorch.org/models",
}


class Sources(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The user's own file: a URL a kind of source."""

    index: str = ""
    debian: str = ""
    interpreter: str = ""
    hub: str = ""
    registry: str = ""
    conda: str = ""  # a URL below which the channels lie, or one with {channel} in it
    store: str = ""  # a folder, not a URL
    bundle: str = ""  # files, separated as in PATH
    snapshot: str = ""  # patterns, separated by spaces


def config_path() -> Path:
    """The user's file of sources."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edgekiln" / "sources.toml"


def _configured(kind: str) -> str:
    if named := os.environ.get(VARIABLES[kind]):
        return named.rstrip("/")
    path = config_path()
    if not path.exists():
        return ""
    sources = toml.convert(toml.parse_toml(path), Sources, path)
    return str(getattr(sources, kind)).rstrip("/")


def uv() -> Path:
    """The uv of this tool's own environment."""
    return Path(sysconfig.get_path("scripts")) / "uv"


@functools.cache
def index_url() -> str:
    """The package index (PEP 503): ours if set, else the one uv is set up with."""
    if named := _configured("index"):
        return named
    out = process.run([uv(), "pip", "compile", "-", "--quiet", "--no-header", "--emit-index-url"], stdin=b"")
    found = re.search(r"^--(?:default-)?index(?:-url)? (\S+)", out.decode(), re.MULTILINE)
    if not found:
        raise FetchError("no package index is configured", f"set {VARIABLES['index']}")
    return found.group(1).rstrip("/")


@functools.cache
def debian_mirror(suite: str) -> str:
    """A Debian mirror that carries `suite`: ours if set, else the first that apt of this machine uses for it."""
    if named := _configured("debian"):
        return named
    for place in sorted(Path("/etc/apt").glob("sources.list*")) + sorted(Path("/etc/apt/sources.list.d").glob("*")):
        if (
            place.is_file()
            and place.suffix in (".list", ".sources")
            and (found := mirror_in(place.read_text("utf-8"), suite))
        ):
            return found.rstrip("/")
    raise FetchError(
        f"no Debian mirror is configured and apt of this machine names none for {suite}",
        f"set {VARIABLES['debian']} to the URL of a Debian mirror, or use --engine local, which needs none",
    )


def mirror_in(text: str, suite: str) -> str | None:
    """The mirror that an apt sources file, in either format, names for the suite's main component."""
    for line in text.splitlines():
        one = re.match(r"deb\s+(?:\[[^\]]*\]\s+)?(https?://\S+)\s+(\S+)\s+(.*)", line)
        if one and one.group(2) == suite and "main" in one.group(3).split():
            return one.group(1)
    for stanza in re.split(r"\n\s*\n", text):
        keys = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
        listed = suite in keys.get("Suites", "").split() and "main" in keys.get("Components", "").split()
        if listed and "deb" in keys.get("Types", "").split():
            return next((uri for uri in keys.get("URIs", "").split() if uri.startswith("http")), None)
    return None


def interpreter_url() -> str:
    """Where python-build-standalone's releases are."""
    return _configured("interpreter") or PUBLISHED["interpreter"]


def conda_base() -> str:
    """Where conda's channels lie, if this tool is told; envs/conda/channels.py also asks conda's own configuration."""
    return _configured("conda")


def hub_url() -> str:
    """Where the framework publishes its weights."""
    return _configured("hub") or PUBLISHED["hub"]


def shared_store() -> Path | None:
    """A store of others on this machine, only read: a folder laid out as our own `store/`; None where none is named."""
    return Path(named).expanduser() if (named := _configured("store")) else None


def bundles() -> list[Path]:
    """Bundles that are looked into before any network is asked; WrongUse for one that is not there."""
    named = [Path(one).expanduser() for one in _configured("bundle").split(os.pathsep) if one]
    for path in named:
        if not path.is_file():
            raise WrongUse(f"{path}: no bundle is there", f"correct {VARIABLES['bundle']}")
    return named


PLACEHOLDERS = ("file", "suite", "date", "sha256", "name")


def snapshot_urls(**known: str) -> list[str]:
    """Addresses of a file in the configured snapshot services, asked when its own source has dropped it.

    A pattern may hold {file} (path in the mirror, or a wheel's name), {suite}, {date} (20260711T101637Z, the day of
    the lock), {sha256} and {name}; one that wants what this file does not have is passed over.
    """
    urls = []
    for pattern in _configured("snapshot").split():
        wanted = set(re.findall(r"\{([^{}]*)\}", pattern))
        if strange := sorted(wanted - set(PLACEHOLDERS)):
            raise WrongUse(
                f"{VARIABLES['snapshot']}: unknown placeholder {{{strange[0]}}}",
                f"known are {', '.join(f'{{{one}}}' for one in PLACEHOLDERS)}",
            )
        if all(known.get(one) for one in wanted):
            urls.append(re.sub(r"\{([^{}]*)\}", lambda found: known[found[1]], pattern))
    return urls


def registry_url() -> str:
    """The container registry that base images come from; there is none unless it is named."""
    if named := _configured("registry"):
        return named
    raise FetchError("no container registry is configured", f"set {VARIABLES['registry']} to its URL")
