"""The conda part of an environment tree: locked packages out of the store, linked; and `conda-meta/` that is true."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from envs import sources
from envs.conda.channels import package_url
from envs.conda.link import Linked, Prefix, link_all
from envs.conda.package import Index
from envs.errors import BuildError
from envs.fetch import Wanted, fetch
from envs.files import sha256_file, write_atomic
from envs.finish import normalised
from envs.lock import EnvLock, LockedConda, LockedInterpreter
from envs.progress import Progress

META = "conda-meta"


class _InPrefix(msgspec.Struct, frozen=True, omit_defaults=True):
    """A path of an installed package; a link has no hash."""

    path: str = msgspec.field(name="_path")
    path_type: str
    sha256_in_prefix: str = ""


class _PathsData(msgspec.Struct, frozen=True):
    paths: tuple[_InPrefix, ...]
    paths_version: int = 1


class MetaRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`conda-meta/NAME-VERSION-BUILD.json`: what conda reads of an installed package; no host, no clock."""

    name: str
    version: str
    build: str
    build_number: int
    channel: str
    subdir: str
    fn: str
    sha256: str
    size: int
    depends: tuple[str, ...]
    constrains: tuple[str, ...] = ()
    license: str = ""
    noarch: str = ""
    files: tuple[str, ...]
    paths_data: _PathsData


def interpreters(lock: EnvLock) -> tuple[LockedInterpreter, ...]:
    """The lock's sources of CPython; conda's one is the package `python`. BuildError where it has none."""
    if lock.installer != "conda":
        return lock.interpreter
    python = next((one for one in lock.conda if one.name == "python"), None)
    if python is None:
        raise BuildError(f"the lock of {lock.name} has no conda package python", f"`invoke lock --env {lock.name}`")
    return (LockedInterpreter(source="conda", version=python.version, sha256=python.sha256, file=python.file),)


def conda_wanted(locked: LockedConda) -> Wanted:
    """A conda package by channel, subdir and file name, to be had from where that channel lies."""
    return Wanted(
        locked.file,
        locked.sha256,
        locked.bytes,
        lambda: package_url(locked),
        part="packages",
        source="conda",
        elsewhere=lambda: sources.snapshot_urls(
            file=f"{locked.channel}/{locked.subdir}/{locked.file}", sha256=locked.sha256, name=locked.name
        ),
    )


def make_prefix(lock: EnvLock, staging: Path, progress: Progress) -> LockedInterpreter:
    """Make `staging` the prefix of the lock's conda packages; wheels come after it. The interpreter it holds."""
    (interpreter,) = interpreters(lock)
    paths = fetch([conda_wanted(one) for one in lock.conda], f"conda packages of {lock.name}", progress)
    mib = sum(one.bytes for one in lock.conda) / 2**20
    progress.say(f"conda: linking {len(lock.conda)} packages, {mib:,.0f} MiB")
    staging.mkdir(parents=True)
    minor = lock.python.rpartition(".")[0]
    prefix = link_all(zip(lock.conda, paths, strict=True), staging, minor, progress)
    site = staging / prefix.site
    site.mkdir(parents=True, exist_ok=True)
    twice = sorted({normalised(one.name) for one in lock.package} & _distributions(site))
    if twice:
        raise BuildError(
            f"{lock.name}: {twice[0]} comes from conda and from pip", "take one of them out of the spec and lock again"
        )
    if not (staging / "bin" / "python3").exists():
        raise BuildError(f"{interpreter.file}: brings no bin/python3", "lock another build of python")
    for one in lock.conda:
        write_atomic(staging / META / _meta_name(one), _encode(_record(one, prefix.indexes[one.file], prefix)))
    return interpreter


def settle_prefix(lock: EnvLock, staging: Path) -> None:
    """After wheels and trimming: `conda-meta/` lists what is still there. BuildError where a wheel changed a file."""
    for one in lock.conda:
        path = staging / META / _meta_name(one)
        record = msgspec.json.decode(path.read_bytes(), type=MetaRecord)
        kept = tuple(_settled(staging, entry, one) for entry in record.paths_data.paths if _exists(staging, entry))
        if kept != record.paths_data.paths:
            files = tuple(entry.path for entry in kept)
            write_atomic(path, _encode(msgspec.structs.replace(record, files=files, paths_data=_PathsData(kept))))


def _exists(staging: Path, entry: _InPrefix) -> bool:
    there = staging / entry.path
    return there.is_symlink() or there.exists()


def _settled(staging: Path, entry: _InPrefix, package: LockedConda) -> _InPrefix:
    if not entry.sha256_in_prefix or "/site-packages/" not in entry.path:
        return entry  # wheels go nowhere else
    sha256 = sha256_file(staging / entry.path)
    if sha256 == entry.sha256_in_prefix:
        return entry
    if entry.path.endswith(".dist-info/RECORD"):
        return msgspec.structs.replace(entry, sha256_in_prefix=sha256)
    raise BuildError(
        f"{entry.path}: of the conda package {package.name}, and a wheel has put something else there",
        "take one of them out of the spec and lock again",
    )


def _record(locked: LockedConda, index: Index, prefix: Prefix) -> MetaRecord:
    mine = sorted((one for one in prefix.linked.values() if one.package == locked.file), key=lambda one: one.path)
    return MetaRecord(
        name=locked.name,
        version=locked.version,
        build=locked.build,
        build_number=index.build_number,
        channel=locked.channel,
        subdir=locked.subdir,
        fn=locked.file,
        sha256=locked.sha256,
        size=locked.bytes,
        depends=index.depends,
        constrains=index.constrains,
        license=index.license,
        noarch=index.noarch if isinstance(index.noarch, str) else "",
        files=tuple(one.path for one in mine),
        paths_data=_PathsData(tuple(_in_prefix(one) for one in mine)),
    )


def _in_prefix(one: Linked) -> _InPrefix:
    if one.content.startswith("-> "):
        return _InPrefix(one.path, "softlink")
    return _InPrefix(one.path, "hardlink", one.content)


def _encode(record: MetaRecord) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def _meta_name(locked: LockedConda) -> str:
    return re.sub(r"(\.conda|\.tar\.bz2)$", ".json", locked.file)


def _distributions(site: Path) -> set[str]:
    """Names of the Python distributions in a site-packages folder, normalised."""
    return {
        normalised(re.sub(r"(-[^-]+)?\.(dist|egg)-info$", "", info.name.split("-py3")[0]))
        for pattern in ("*.dist-info", "*.egg-info")
        for info in site.glob(pattern)
    }
