"""From what was found to a spec that `invoke lock` takes, and what the person still has to decide."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import tomli_w

from envs import process, sources
from envs.conda.environment import load_yaml
from envs.errors import BuildError, SpecError, WrongUse
from envs.files import write_atomic
from envs.finish import normalised
from envs.init.conda_files import read_conda_lock, read_environment, read_pixi
from envs.init.found import DEFAULT_PYTHON, MINORS, Found
from envs.init.requirements import read_requirements
from envs.init.uv_lock import read_uv_lock
from envs.interpreter import installed
from envs.paths import SPECS
from envs.platforms import uv_platform
from envs.progress import Progress
from envs.spec import CondaSpec, EnvSpec, InterpreterSpec, load_spec, spec_names
from envs.toml import shown

PATTERN = "light"  # the shipped spec whose base, tests and toolchain limits a new one begins with
NEEDED = ("torch", "torchvision", "onnx", "onnxruntime", "numpy", "msgspec", "pillow")  # by pipelines/
CONDA_NAMES = {"torch": "pytorch", "msgspec": "msgspec-python"}  # where conda calls it otherwise
KINDS = "conda-lock.yml, environment.yml, requirements.txt, uv.lock or pixi.lock"


V = TypeVar("V")


class Made(msgspec.Struct, frozen=True):
    """A new spec: its file, and a line for each thing that is still the person's to decide."""

    spec: EnvSpec
    path: Path
    decide: tuple[str, ...]


def read(path: Path, python: str) -> Found:
    """What the file says. WrongUse for a file of another kind, SpecError for one that can't be read."""
    if not path.is_file():
        raise WrongUse(f"{path}: no such file", f"name a {KINDS}")
    kind, reader = _reader(path)
    try:
        return reader(path, python)
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # what its own tool never writes
        why = " ".join(str(error).split())
        raise SpecError(f"{shown(path)}: not laid out as {kind} is ({why})", "write it with its own tool") from error


def _reader(path: Path) -> tuple[str, Callable[[Path, str], Found]]:
    if path.name == "uv.lock":
        return "uv.lock", read_uv_lock
    if path.suffix in (".txt", ".in"):
        return "requirements.txt", read_requirements
    if path.suffix in (".yml", ".yaml") or path.name == "pixi.lock":
        document = load_yaml(path)
        if "environments" in document:
            return "pixi.lock", read_pixi
        if "package" in document:
            return "conda-lock.yml", read_conda_lock
        if "dependencies" in document:
            return "environment.yml", read_environment
    raise WrongUse(f"{path}: not a kind of file that this reads", f"name a {KINDS}")


def init(path: Path, name: str, python: str, progress: Progress) -> Made:
    """Write `envs/specs/NAME.toml` from the file. WrongUse where a spec of that name is there already."""
    if python and python not in MINORS:
        raise WrongUse(f"--python {python!r} is not one of {', '.join(MINORS)}")
    name = name or _name_of(path)
    target = SPECS / f"{name}.toml"
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise WrongUse(f"{name!r} can't name an environment", "small letters, digits and dashes: --name my-env")
    if target.exists():
        raise WrongUse(f"{shown(target)} is there already, and is never overwritten", "choose another: --name my-env")
    found = read(path, python)
    spec, decide = make_spec(name, path, found, python, progress)
    text = tomli_w.dumps(msgspec.to_builtins(spec))
    write_atomic(target, f"# begun by `invoke init {path.name}`: yours to edit\n{text}".encode())
    load_spec(name)
    return Made(spec, target, decide)


def _name_of(path: Path) -> str:
    stem = path.stem
    if stem in ("requirements", "environment", "conda-lock", "uv", "pixi"):
        stem = path.resolve().parent.name
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")


def make_spec(name: str, path: Path, found: Found, python: str, progress: Progress) -> tuple[EnvSpec, tuple[str, ...]]:
    """The spec of what was found, and what is left to decide."""
    pattern, decide = load_spec(PATTERN), list(found.decide)
    if python and found.python and python != found.python:
        raise WrongUse(f"--python {python}: {path.name} is for Python {found.python}", "leave --python out")
    minor = python or found.python or DEFAULT_PYTHON
    if not (python or found.python):
        decide.append(f"python: the file does not say which; {minor} is taken (--python names another)")
    is_conda = found.conda is not None
    if is_conda and not found.channels:
        raise SpecError(f"{shown(path)}: names no channel", "write channels: [conda-forge] into it")
    interpreters = () if is_conda else _interpreters(minor, decide)
    packages = {**found.packages, **_pinned(path, found, minor, pattern, decide, progress)}
    have = {*packages, *map(normalised, found.conda or ())}
    if missing := [one for one in NEEDED if one not in have and CONDA_NAMES.get(one) not in have]:
        decide.append(f"[packages]: `invoke run` needs {', '.join(missing)} too, which the file does not name")
    assert pattern.export is not None  # the pattern exports for itself
    export = msgspec.structs.replace(
        pattern.export, simplifier="onnxsim" if "onnxsim" in have else pattern.export.simplifier
    )
    decide.append(f"[export]: opset {export.opset} and IR {export.ir_version} are a guess: what your toolchain accepts")
    decide.append(
        f"[base]: Debian {pattern.base.suite} and the libraries of `{PATTERN}`; add what your packages link to"
    )
    spec = EnvSpec(
        name=name,
        summary=f"from {path.name}",
        python=minor,
        base=pattern.base,
        installer="conda" if is_conda else "uv",
        conda=CondaSpec(channels=found.channels, packages=dict(sorted((found.conda or {}).items())))
        if is_conda
        else None,
        interpreter=interpreters,
        export=export,
        packages=_by_name(packages),
        test=pattern.test,
        hashes=_by_name(found.hashes),
    )
    return spec, tuple(decide)


def _by_name(packages: Mapping[str, V]) -> dict[str, V]:
    return dict(sorted(packages.items()))


def _interpreters(minor: str, decide: list[str]) -> tuple[InterpreterSpec, ...]:
    """Those of a shipped spec for the same Python, else the installed one."""
    for name in spec_names():
        try:
            shipped = load_spec(name)
        except SpecError:  # another spec's fault is told where that is used
            continue
        if shipped.python == minor and shipped.interpreter:
            return shipped.interpreter
    here = installed(minor)
    if here:
        decide.append(
            f"[[interpreter]]: CPython {here[0].version} as installed here; other machines need the same build"
        )
        return (InterpreterSpec(source="installed", version=here[0].version),)
    decide.append(
        f"[[interpreter]]: no CPython {minor} is installed here and no spec has one: name a source before locking"
    )
    return ()


def _pinned(
    path: Path, found: Found, minor: str, pattern: EnvSpec, decide: list[str], progress: Progress
) -> dict[str, str]:
    """One exact version for each loose requirement: what uv chooses beside the pinned ones."""
    if not found.loose:
        return {}
    progress.say(f"{path.name}: {len(found.loose)} packages without one exact version; uv chooses")
    wanted = [*found.loose, *(f"{name}=={version}" for name, version in found.packages.items())]
    command: list[str | Path] = [sources.uv(), "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate"]
    command += ["--only-binary", ":all:", "--python-version", minor]
    command += ["--python-platform", uv_platform(pattern.platform, pattern.base.suite)]
    try:
        own = {"UV_PYTHON_DOWNLOADS": "never", "UV_DEFAULT_INDEX": sources.index_url()}
        out = process.run(command, stdin="\n".join(wanted).encode(), env={**os.environ, **own}).decode()
    except BuildError as error:
        raise SpecError(
            f"{shown(path)}: no versions could be chosen for {', '.join(found.loose[:5])}: {error.message}",
            "write exact versions, as in numpy==1.26.4",
        ) from error
    chosen = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", out, re.MULTILINE))
    names = [normalised(re.split(r"[^A-Za-z0-9._-]", one)[0]) for one in found.loose]
    pins = {name: chosen[name] for name in names}
    listed = ", ".join(f"{name} {version}" for name, version in sorted(pins.items()))
    decide.append(f"[packages]: versions chosen as of today, since the file names none: {listed}")
    return pins
