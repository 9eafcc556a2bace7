"""EnvSpec: what a person writes about an environment, read from `envs/specs/NAME.toml`."""

from __future__ import annotations

import difflib
import hashlib
import sys
from pathlib import Path
from typing import Literal

import msgspec

from envs.errors import SpecError, WrongUse
from envs.paths import SPECS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the spec's tables."""


class BaseSpec(Spec):
    """The operating system's part: Debian packages, their dependencies are added by the lock."""

    suite: str
    packages: tuple[str, ...]


class ExportSpec(Spec):
    """What the toolchain behind this environment accepts."""

    opset: int
    ir_version: int
    simplifier: Literal["onnxsim", "onnxruntime"]


class DataSpec(Spec):
    """Files taken out of a wheel: `files` are glob patterns inside it."""

    collection: str
    package: str
    version: str
    files: tuple[str, ...]


class EnvSpec(Spec):
    """One environment as a person describes it."""

    name: str
    summary: str
    python: str  # 3.10
    platform: str = "linux/amd64"
    base: BaseSpec
    export: ExportSpec
    packages: dict[str, str]  # name -> exact version
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
        raise WrongUse(f"no environment is called {name!r}", f"did you mean {' or '.join(near)}? `invoke envs` lists them")
    return path


def spec_sha256(name: str) -> str:
    """sha256 of the spec's file: what a lock remembers of it."""
    return hashlib.sha256(spec_path(name).read_bytes()).hexdigest()
