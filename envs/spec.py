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
from envs.platforms import MACHINES


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
    """A source of CPython; they are tried in the order written.

    `platform` says whom it is for; without one it is for the spec's own platform.
    """

    source: Literal["python-build-standalone", "installed"]
    version: str
    file: str = ""  # python-build-standalone: RELEASE/ARCHIVE
    sha256: str = ""  # python-build-standalone: of the archive, as published; an installed one is hashed by `lock`
    platform: str = ""


class ExportSpec(Spec, frozen=True, kw_only=True):
    """What the toolchain behind this environment accepts."""

    opset: int
    ir_version: int
    simplifier: Literal["onnxsim", "onnxruntime"]


class ToolchainSpec(Spec, frozen=True, kw_only=True):
    """The converter that this environment is for."""

    vendor: str  # the adapter, as in pipelines/vendors
    export: str = ""  # the environment that exports for it; "" where this one does
    outside: bool = False  # it runs in an image that its vendor gives to its customers: `invoke sdk add`


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
    environment_sha256: str = ""  # of that file: put in when the spec is read, so that an edit ages the lock


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
    export: ExportSpec | None = None  # none where another environment exports: [toolchain] names it
    toolchain: ToolchainSpec | None = None
    packages: dict[str, str] = {}  # name -> exact version
    test: dict[str, str] = {}  # the test group: a tree of its own, never in the image
    omit: tuple[str, ...] = ()  # wheels that the resolver names and a CPU never loads
    exclude: tuple[str, ...] = ()  # asked for by metadata and never resolved, nor what only they ask for
    override: dict[str, str] = {}  # name -> exact version, whatever others' metadata asks for
    trim: dict[str, tuple[str, ...]] = {}  # wheel -> glob patterns of files that nothing links to
    data: tuple[DataSpec, ...] = ()
    hashes: dict[str, tuple[str, ...]] = {}  # package -> the sha256s that its file may have: `lock` refuses others
    locked: bool = True  # false: comes without its lock, which only a machine that reaches the sources can make


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
    if (spec.export is None) == (spec.toolchain is None or not spec.toolchain.export):
        raise SpecError(f"{toml.shown(path)}: it needs [export], or a [toolchain] whose 'export' names who exports")
    for one in (spec.platform, *(source.platform or spec.platform for source in spec.interpreter)):
        _check_platform(one, toml.shown(path))
    spec = _with_environment(spec, path)
    for source in spec.interpreter:
        if not source.version.startswith(spec.python + "."):
            raise SpecError(f"{toml.shown(path)}: [[interpreter]] {source.version} is not a Python {spec.python}")
        if source.source == "python-build-standalone" and not (source.file and source.sha256):
            raise SpecError(f"{toml.shown(path)}: [[interpreter]] {source.source} needs keys 'file' and 'sha256'")
    for table, versions in (("packages", spec.packages), ("override", spec.override), ("test", spec.test)):
        for package, version in versions.items():
            if not re.fullmatch(r"[0-9][0-9A-Za-z.!+]*", version):
                raise SpecError(
                    f"{toml.shown(path)}: [{table}] {package} = {version!r} is not one exact version",
                    'write it as in numpy = "1.26.4"',
                )
    return spec


def _with_environment(spec: EnvSpec, path: Path) -> EnvSpec:
    """The spec with the hash of the user's environment.yml, where it names one."""
    if (spec.installer == "conda") != (spec.conda is not None):
        raise SpecError(f"{toml.shown(path)}: installer = 'conda' and a table [conda] go together")
    if spec.conda is None or not spec.conda.environment:
        return spec
    file = path.parent / spec.conda.environment
    if not file.is_file():
        raise SpecError(f"{toml.shown(path)}: [conda] environment {spec.conda.environment!r} is not there")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return msgspec.structs.replace(spec, conda=msgspec.structs.replace(spec.conda, environment_sha256=sha256))


def _check_platform(platform: str, where: str) -> None:
    if platform not in MACHINES:
        raise SpecError(f"{where}: platform {platform!r} is not one of {', '.join(MACHINES)}")


def for_platform(spec: EnvSpec, platform: str) -> EnvSpec:
    """The same spec for that platform ("" for its own): of the interpreters only those that run there.

    SpecError for a platform that this tool does not know.
    """
    # the spec's own string where they are equal: what a hash leaves out as a default is found by identity
    wanted = spec.platform if platform in ("", spec.platform) else platform
    _check_platform(wanted, f"envs/specs/{spec.name}.toml")
    fitting = tuple(one for one in spec.interpreter if (one.platform or spec.platform) == wanted)
    return msgspec.structs.replace(spec, platform=wanted, interpreter=fitting)


PARTS = ("base", "python", "packages", "data")  # of a lock, as they can be refreshed one by one


def spec_parts(spec: EnvSpec) -> dict[str, str]:
    """What the spec says about each part of the lock, as hex sha256: what a refresh of one part must leave as it is."""
    said: dict[str, object] = {
        "base": spec.base,
        "python": (spec.python, spec.interpreter),
        "packages": (
            *(spec.python, spec.base.suite, spec.installer, spec.conda),
            *(spec.packages, spec.test, spec.omit, spec.trim),
            *([spec.hashes] if spec.hashes else []),
            *([spec.exclude] if spec.exclude else []),
            *([spec.override] if spec.override else []),
        ),
        "data": spec.data,
    }
    return {part: hashlib.sha256(msgspec.json.encode(said[part], order="deterministic")).hexdigest() for part in PARTS}


def spec_sha256(spec: EnvSpec) -> str:
    """sha256 of the spec's content, comments and layout apart: what a lock remembers of it."""
    content = msgspec.json.encode(msgspec.to_builtins(spec), order="deterministic")
    return hashlib.sha256(content).hexdigest()
