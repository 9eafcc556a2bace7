"""Files of the conda world: environment.yml, conda-lock.yml and pixi.lock."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from envs.init.found import DEFAULT_PYTHON, Found, Notes, channel_name, conda_file, minor_of

SUBDIR = "linux-64"
PIXI_VERSIONS = (5, 6, 7)


class At(str):
    """A string that knows its line in the file."""

    line = 0


class _Loader(yaml.SafeLoader):
    """Strings become `At`; versions stay text."""


def _text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> At:
    made = At(loader.construct_scalar(node))
    made.line = node.start_mark.line + 1
    return made


for _kind in ("str", "float", "int", "timestamp"):  # 3.10 is a version, no number
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _text)


def load(path: Path) -> dict[str, Any]:
    """The file as a mapping. SpecError names the line that is no YAML."""
    notes = Notes(path)
    try:
        document = yaml.load(path.read_text("utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or "it is no text in UTF-8"
        raise notes.error(mark.line + 1 if mark else 0, f"not valid YAML: {why}") from error
    if not isinstance(document, dict):
        raise notes.error(0, "not a mapping of keys")
    return document


def read_environment(path: Path, python: str) -> Found:
    """environment.yml: conda packages as match specs, the pip section as requirements."""
    notes, document = Notes(path), load(path)
    dependencies = document.get("dependencies")
    if not isinstance(dependencies, list):
        raise notes.error(0, "no list 'dependencies'")
    channels = _channels(notes, document.get("channels") or ())
    lines = path.read_text("utf-8").splitlines()
    conda: dict[str, str] = {}
    pips: list[At] = []
    for one in dependencies:
        if isinstance(one, dict) and set(one) == {"pip"}:
            pips += one["pip"] or []
        elif not isinstance(one, At):
            raise notes.error(0, f"dependency {one!r} is neither a package nor a list under pip")
        elif not _elsewhere(lines[one.line - 1]):
            _add_match(notes, conda, channels, one)
    python = python or minor_of(conda.get("python", "")) or DEFAULT_PYTHON
    for line in pips:
        if not isinstance(line, At):
            raise notes.error(0, f"pip dependency {line!r} is no text")
        notes.require(str(line), line.line, python)
    for key in sorted(set(document) - {"name", "channels", "dependencies", "prefix", "platforms", "category"}):
        notes.say(f"key {key!r} of {path.name} is not taken over")
    return Found(
        python=minor_of(conda.get("python", "")),
        packages=notes.packages,
        loose=tuple(notes.loose),
        channels=tuple(channels),
        conda=conda,
        decide=tuple(notes.decide),
    )


def _elsewhere(line: str) -> bool:
    """Whether a selector in the line's comment keeps it off linux."""
    found = re.search(r"#\s*\[([^\]]*)\]", line)
    return bool(found) and not re.search(r"linux|unix|not\s+(win|osx)", found[1] if found else "")


def _add_match(notes: Notes, conda: dict[str, str], channels: list[str], text: At) -> None:
    channel, _, rest = text.rpartition("::")
    found = re.fullmatch(r"([A-Za-z0-9_.-]+?)\s*(|[=<>!~ ].*)", rest.strip())
    if not found or "[" in rest:
        raise notes.error(text.line, f"{str(text)!r} can't be read as a conda package", "write it as name=version")
    if channel and channel not in channels:
        channels.append(channel)
        notes.say(f"channel {channel} (of {found[1]}) comes last among the channels: put it where it belongs")
    conda[found[1].lower()] = match_spec(found[2].strip())


def match_spec(text: str) -> str:
    """The version part of a dependency as a spec writes it: `=1.20` is 1.20.*, `=1.20=b_0` that build of 1.20."""
    built = re.fullmatch(r"={1,2}([^=<>,|]+)=([^=]+)", text)
    if built:
        return f"{built[1]} {built[2]}"
    fuzzy = re.fullmatch(r"=([^=<>,|]+)", text)
    if fuzzy:
        return fuzzy[1] if fuzzy[1].endswith("*") else f"{fuzzy[1]}.*"
    return text or "*"


def _channels(notes: Notes, listed: Iterable[Any]) -> list[str]:
    channels: list[str] = []
    for one in listed:
        address = str(one.get("url", "")) if isinstance(one, dict) else str(one)
        name = channel_name(address)
        if name == "nodefaults" or not name or name in channels:
            continue
        if "://" in address:
            notes.say(f"channel {name}: its address is configuration now: set EDGEKILN_CONDA_URL")
        if name == "defaults":
            notes.say("channel defaults stands for several: name those that you mean, as in main")
        channels.append(name)
    return channels


def read_conda_lock(path: Path, python: str) -> Found:
    """conda-lock.yml: every conda package with version and build, every wheel with its version."""
    del python
    notes, document = Notes(path), load(path)
    if str(document.get("version")) != "1":
        raise notes.error(0, f"format {document.get('version')} of conda-lock.yml, only 1 is known")
    channels = _channels(notes, (document.get("metadata") or {}).get("channels") or ())
    conda: dict[str, str] = {}
    for one in document.get("package") or ():
        name = one.get("name", "")
        line = getattr(name, "line", 0)
        if one.get("platform") != SUBDIR:
            continue
        if one.get("category", "main") != "main":
            notes.say(f"packages of the category {one['category']} are left out")
            continue
        sha256 = str((one.get("hash") or {}).get("sha256") or "")
        _locked(
            notes,
            conda,
            one.get("manager"),
            str(one.get("url", "")),
            sha256,
            (str(name), line, str(one.get("version"))),
        )
    return _of_lock(notes, channels, conda)


def read_pixi(path: Path, python: str) -> Found:
    """pixi.lock: the packages of its environment `default` for linux-64."""
    del python
    notes, document = Notes(path), load(path)
    if str(document.get("version")) not in map(str, PIXI_VERSIONS):
        raise notes.error(0, f"format {document.get('version')} of pixi.lock; known are 5 to 7")
    environments = document.get("environments") or {}
    if "default" not in environments:
        raise notes.error(0, "no environment 'default'")
    if len(environments) > 1:
        notes.say(f"of its environments only default is read, not {', '.join(sorted(set(environments) - {'default'}))}")
    default = environments["default"]
    if SUBDIR not in (default.get("packages") or {}):
        raise notes.error(0, f"no packages for {SUBDIR}", f"add {SUBDIR} to its platforms")
    known: dict[str, Any] = {}
    for one in document.get("packages") or ():
        known[str(one.get("url") or one.get("conda") or one.get("pypi"))] = one
    conda: dict[str, str] = {}
    for chosen in default["packages"][SUBDIR]:
        kind = "conda" if "conda" in chosen else "pypi"
        address = chosen.get(kind, At())
        entry = known.get(str(address), {})
        name = str(entry.get("name") or urlsplit(str(address)).path.rpartition("/")[2].partition("-")[0])
        wheel = re.match(r"[^-/]+-([^-/]+)-", unquote(urlsplit(str(address)).path.rpartition("/")[2]))
        version = str(entry.get("version") or (wheel[1] if wheel else ""))
        sha256 = str(entry.get("sha256") or "")
        _locked(notes, conda, "pip" if kind == "pypi" else kind, str(address), sha256, (name, address.line, version))
    return _of_lock(notes, _channels(notes, default.get("channels") or ()), conda)


def _locked(
    notes: Notes, conda: dict[str, str], manager: object, url: str, sha256: str, it: tuple[str, int, str]
) -> None:
    name, line, version = it
    hashes = (sha256,) if sha256 else ()
    if manager == "pip":
        file = url.partition("#")[0]
        if not file.endswith((".whl", ".tar.gz", ".zip")):
            raise notes.error(line, f"{name} comes from {url!r}, which is no file of an index")
        # `invoke lock` takes wheels only: the hash of a source archive would refuse every one of them
        notes.pin(name, version, hashes if file.endswith(".whl") else (), line)
        return
    parts = conda_file(url)
    if manager != "conda" or parts is None:
        raise notes.error(line, f"{url or name!r} is no conda package file")
    conda[parts[1]] = f"{parts[2]} {parts[3]}"
    notes.hash(parts[1], hashes)


def _of_lock(notes: Notes, channels: list[str], conda: dict[str, str]) -> Found:
    if not conda and not notes.packages:
        raise notes.error(0, f"no packages for {SUBDIR}")
    return Found(
        python=minor_of(conda.get("python", "")),
        packages=notes.packages,
        hashes=notes.hashes,
        channels=tuple(channels),
        conda=conda,
        decide=tuple(notes.decide),
    )
