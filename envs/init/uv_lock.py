"""uv.lock: what the project's own packages need on linux, with the markers evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag

from envs.init.found import MINORS, Found, Notes, applies
from envs.platforms import GLIBC_MINOR
from envs.resolve_python import best_wheel, wheel_tags
from envs.toml import parse_toml

Package = dict[str, Any]


def read_uv_lock(path: Path, python: str) -> Found:
    """The packages that the lock's project needs, pinned. SpecError names what comes from no index."""
    notes, document = Notes(path), parse_toml(path)
    if document.get("version") != 1:
        raise notes.error(0, f"format {document.get('version')} of uv.lock, only 1 is known")
    python = python or _python(document, notes)
    packages: list[Package] = document.get("package", [])
    roots = [one for one in packages if {"virtual", "editable"} & set(one.get("source", {}))]
    if not roots:
        raise notes.error(0, "no project of its own in it", "run `uv lock` in the project's folder")
    lines = path.read_text("utf-8").splitlines()
    tags = wheel_tags(python, "x86_64", max(GLIBC_MINOR.values()))
    waiting: list[tuple[Package, tuple[str, ...]]] = [(one, ()) for one in roots]
    seen: set[tuple[str, str, tuple[str, ...]]] = set()
    while waiting:
        package, extras = waiting.pop()
        key = (package["name"], str(package.get("version")), extras)
        if key in seen:
            continue
        seen.add(key)
        if package not in roots:
            _pin(notes, package, lines, tags)
        elif len(roots) == 1 and (package.get("dev-dependencies") or package.get("optional-dependencies")):
            notes.say(f"groups and extras of {package['name']} are left out: what you need of them goes to [packages]")
        wanted = list(package.get("dependencies", []))
        for extra in extras:
            wanted += package.get("optional-dependencies", {}).get(extra, [])
        for one in wanted:
            if applies(one.get("marker", "python_version >= '3'"), python):
                waiting.append((_of(notes, packages, one), tuple(one.get("extra", ()))))
    for root in roots:
        notes.say(f"{root['name']} itself is not taken in: an environment holds what it needs, not the project")
    return Found(python=python, packages=notes.packages, hashes=notes.hashes, decide=tuple(notes.decide))


def _python(document: Package, notes: Notes) -> str:
    """The first minor version that the project allows."""
    text = str(document.get("requires-python", ""))
    try:
        allowed = SpecifierSet(text)
    except InvalidSpecifier as error:
        raise notes.error(0, f"requires-python {text!r} can't be read") from error
    minor = next((one for one in MINORS if allowed.contains(f"{one}.99") or allowed.contains(f"{one}.0")), "")
    if not minor:
        raise notes.error(0, f"requires-python {text!r} allows none of {MINORS[0]} to {MINORS[-1]}")
    return minor


def _of(notes: Notes, packages: list[Package], wanted: Package) -> Package:
    """The package that a dependency means; one with several versions says which."""
    found = [one for one in packages if one["name"] == wanted["name"]]
    if "version" in wanted:
        found = [one for one in found if one.get("version") == wanted["version"]]
    if len(found) != 1:
        raise notes.error(0, f"{wanted['name']} is there {len(found)} times")
    return found[0]


def _pin(notes: Notes, package: Package, lines: list[str], tags: list[Tag]) -> None:
    name = package["name"]
    line = next((number for number, text in enumerate(lines, 1) if text == f'name = "{name}"'), 0)
    if "registry" not in package.get("source", {}):
        kind = next(iter(package.get("source", {})), "nowhere")
        raise notes.error(line, f"{name} comes from {kind}, not from an index", "build a wheel and name its version")
    wheels = {_file(one): str(one.get("hash", "")) for one in package.get("wheels", [])}
    fitting = [file for file in wheels if best_wheel([file], tags)]
    if not fitting:
        notes.say(f"{name} {package['version']} has no wheel for linux/amd64 in uv.lock, and only wheels are taken")
    sha256 = tuple(wheels[file][7:] for file in fitting if wheels[file].startswith("sha256:"))
    notes.pin(name, package["version"], sha256, line)


def _file(wheel: Package) -> str:
    return unquote(str(wheel.get("filename") or wheel.get("url") or wheel.get("path")).rpartition("/")[2])
