"""`invoke lock`: a spec becomes a lock. The only place that resolves anything; a build never does."""

from __future__ import annotations

import datetime as dt
import fnmatch
import hashlib
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from envs import debian, hubweights, interpreter, process, registry, sources
from envs.errors import BuildError, LockError, SpecError
from envs.fetch import fetch, get, keep, list_index, wheel
from envs.files import sha256_file
from envs.image_archive import archive_base
from envs.lock import (
    LOCK_VERSION,
    EnvLock,
    LockedArchive,
    LockedData,
    LockedDeb,
    LockedFile,
    LockedInterpreter,
    LockedWheel,
)
from envs.progress import Progress
from envs.spec import DataSpec, EnvSpec, InterpreterSpec, spec_path, spec_sha256
from envs.toml import parse_toml

MACHINES = {"linux/amd64": ("x86_64", "amd64"), "linux/arm64": ("aarch64", "arm64")}
GLIBC_MINOR = {"bookworm": 36, "trixie": 41}


def make_lock(spec: EnvSpec, exclude_newer: dt.date, progress: Progress) -> EnvLock:
    """Resolve every part of `spec` as of the end of that day. Errors name the part that has no solution."""
    if spec.platform not in MACHINES:
        raise SpecError(f"{spec.name}: platform {spec.platform!r} is not one of {', '.join(MACHINES)}")
    if spec.base.suite not in GLIBC_MINOR:
        raise SpecError(f"{spec.name}: suite {spec.base.suite!r} is not one of {', '.join(GLIBC_MINOR)}")
    machine, architecture = MACHINES[spec.platform]
    tags = wheel_tags(spec.python, machine, GLIBC_MINOR[spec.base.suite])
    newest = f"{exclude_newer.isoformat()}T00:00:00Z"

    progress.say(f"{spec.name}: resolving {len(spec.packages)} pinned packages as of {exclude_newer}")
    resolved = _compile(spec.packages, {}, spec, machine, newest)
    packages = _choose(resolved, tags, spec)
    if strangers := sorted(set(spec.omit) - {p.name for p in packages}):
        raise SpecError(f"envs/specs/{spec.name}.toml: omit names {strangers[0]!r}, which nothing asks for")
    packages = tuple(p for p in packages if p.name not in spec.omit)
    pins = {p.name: p.version for p in packages}
    test = tuple(p for p in _choose(_compile(spec.test, pins, spec, machine, newest), tags, spec) if p.name not in pins)
    archive = _archive(spec) if spec.base.archive else None
    image = registry.resolve_image(spec.base.image, spec.platform, progress) if spec.base.image else None
    base: tuple[LockedDeb, ...] = ()
    if spec.base.packages:
        progress.say(f"{spec.name}: base from Debian {spec.base.suite}")
        mirror = sources.debian_mirror(spec.base.suite)
        base = debian.resolve(mirror, spec.base.suite, architecture, spec.base.packages, get)
    data = tuple(_data(one, tags, progress) for one in spec.data)
    vision = next((p for p in packages if p.name == "torchvision"), None)
    hub = hubweights.published(fetch([wheel(vision)], "torchvision", progress)[0]) if vision else ()
    return EnvLock(
        version=LOCK_VERSION,
        name=spec.name,
        spec_sha256=spec_sha256(spec),
        platform=spec.platform,
        exclude_newer=newest,
        source_date_epoch=int(dt.datetime.combine(exclude_newer, dt.time(), dt.timezone.utc).timestamp()),
        python=_one_version(spec),
        suite=spec.base.suite,
        omit=tuple(sorted(spec.omit)),
        trim={name: tuple(sorted(patterns)) for name, patterns in sorted(spec.trim.items())},
        interpreter=tuple(_interpreter(one) for one in spec.interpreter),
        base=base,
        base_archive=archive,
        base_image=image,
        package=packages,
        test=test,
        data=data,
        hub=hub,
    )


def wheel_tags(python: str, machine: str, glibc_minor: int) -> list[Tag]:
    """Tags that CPython `python` on glibc 2.`glibc_minor` takes, best first."""
    major, minor = (int(part) for part in python.split("."))
    platforms: list[str] = []
    for level in range(glibc_minor, 4, -1):
        platforms.append(f"manylinux_2_{level}_{machine}")
        if legacy := {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}.get(level):
            platforms.append(f"{legacy}_{machine}")
    platforms.append(f"linux_{machine}")
    tags = [*cpython_tags((major, minor), platforms=platforms)]
    return [*tags, *compatible_tags((major, minor), f"cp{major}{minor}", platforms)]


def _compile(
    wanted: Mapping[str, str], pins: Mapping[str, str], spec: EnvSpec, machine: str, newest: str
) -> list[dict[str, Any]]:
    """uv's resolution as PEP 751 tables."""
    if not wanted:
        return []
    with tempfile.TemporaryDirectory() as folder:
        names = {"in": wanted, "constraints": pins}
        for stem, versions in names.items():
            text = "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))
            Path(folder, f"{stem}.txt").write_text(text, "utf-8")
        out = Path(folder, "pylock.toml")
        command: list[str | Path] = [
            sources.uv(),
            "pip",
            "compile",
            f"{folder}/in.txt",
            "--constraint",
            f"{folder}/constraints.txt",
        ]
        command += [
            "--quiet",
            "--no-header",
            "--generate-hashes",
            "--only-binary",
            ":all:",
            "--format",
            "pylock.toml",
        ]
        command += ["--default-index", sources.index_url(), "--exclude-newer", newest, "--output-file", out]
        platform = f"{machine}-manylinux_2_{min(GLIBC_MINOR[spec.base.suite], 40)}"
        command += ["--python-version", spec.python, "--python-platform", platform]
        try:
            process.run(command, env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"})
        except BuildError as error:
            raise LockError(
                f"envs/specs/{spec.name}.toml has no solution: {error.message}", "change its pins"
            ) from error
        packages: list[dict[str, Any]] = parse_toml(out).get("packages", [])
        return packages


def _choose(packages: Iterable[dict[str, Any]], tags: list[Tag], spec: EnvSpec) -> tuple[LockedWheel, ...]:
    chosen = []
    for package in packages:
        listed = [(_file_name(w), w["hashes"]["sha256"], int(w.get("size", 0))) for w in package.get("wheels", [])]
        best = best_wheel([name for name, _, _ in listed], tags)
        if best is None:
            raise LockError(
                f"envs/specs/{spec.name}.toml: {package['name']} {package['version']} has no wheel that fits"
            )
        name, sha256, size = next(one for one in listed if one[0] == best)
        chosen.append(
            LockedWheel(name=package["name"], version=package["version"], file=name, sha256=sha256, bytes=size)
        )
    return tuple(sorted(chosen, key=lambda w: w.name))


def _file_name(entry: Mapping[str, Any]) -> str:
    return str(entry.get("name") or unquote(entry["url"].split("#")[0].rsplit("/", 1)[-1]))


def best_wheel(files: Iterable[str], tags: list[Tag]) -> str | None:
    """The file whose best tag stands first in `tags`; the higher build number, then the name, breaks a tie."""
    rank = {tag: place for place, tag in enumerate(tags)}
    scored = []
    for file in files:
        _, _, build, its = parse_wheel_filename(file)
        places = [rank[tag] for tag in its if tag in rank]
        if places:
            scored.append((min(places), [-int(build[0])] if build else [0], file))
    return min(scored)[2] if scored else None


def _data(spec: DataSpec, tags: list[Tag], progress: Progress) -> LockedData:
    prefix = re.sub(r"[-_.]+", "_", spec.package).lower() + f"-{spec.version}-"
    listed = {
        file: entry
        for file, entry in list_index(spec.package).items()
        if file.endswith(".whl") and file.lower().startswith(prefix)
    }
    # data is the same in every wheel of a release: one that does not fit this Python will do
    name = best_wheel(listed, tags) or next((f for f in sorted(listed) if "linux" in f or "-any" in f), None)
    if name is None or not listed[name].sha256:
        raise LockError(f"data {spec.collection}: the index has no hashed wheel of {spec.package} {spec.version}")
    locked = LockedWheel(
        name=spec.package,
        version=spec.version,
        file=name,
        sha256=listed[name].sha256,
        bytes=listed[name].bytes,
    )
    (path,) = fetch([wheel(locked)], spec.package, progress)
    files = []
    with zipfile.ZipFile(path) as archive:
        for pattern in spec.files:
            hits = sorted(i.filename for i in archive.infolist() if fnmatch.fnmatchcase(i.filename, pattern))
            if not hits:
                raise SpecError(f"data {spec.collection}: {pattern!r} matches no file of {name}")
            for hit in hits:
                content = archive.read(hit)
                files.append(LockedFile(path=hit, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)))
    return LockedData(collection=spec.collection, wheel=locked, files=tuple(files))


def _archive(spec: EnvSpec) -> LockedArchive:
    """The named image archive, kept in the store so that builds find it by its hash."""
    path = spec_path(spec.name).parent / spec.base.archive
    if not path.is_file():
        raise SpecError(f"envs/specs/{spec.name}.toml: base.archive {spec.base.archive!r} is not there")
    sha256 = sha256_file(path)
    archive_base(path, sha256)  # says so now if it is no image archive
    keep(path, sha256)
    return LockedArchive(file=path.name, sha256=sha256, bytes=path.stat().st_size)


def _one_version(spec: EnvSpec) -> str:
    versions = {one.version for one in spec.interpreter}
    if len(versions) != 1:
        raise SpecError(
            f"envs/specs/{spec.name}.toml: the [[interpreter]] sources name {len(versions)} versions, not one"
        )
    return versions.pop()


def _interpreter(spec: InterpreterSpec) -> LockedInterpreter:
    if spec.source == "python-build-standalone":
        return LockedInterpreter(source=spec.source, version=spec.version, file=spec.file, sha256=spec.sha256)
    minor = spec.version.rpartition(".")[0]
    one = next((one for one in interpreter.installed(minor) if one.version == spec.version), None)
    if one is None:
        raise LockError(f"CPython {spec.version} is not installed here", "install it, or take that [[interpreter]] out")
    with tempfile.TemporaryDirectory() as folder:
        interpreter.carry_installed(one, Path(folder, "tree"))
        return LockedInterpreter(
            source="installed", version=spec.version, sha256=interpreter.tree_sha256(Path(folder, "tree"))
        )


def describe(old: EnvLock | None, new: EnvLock) -> list[str]:
    """What moved between two locks, a line each."""
    if old is None:
        return ["new lock"]
    lines = []
    for part in ("interpreter", "base", "package", "test"):
        before = {getattr(one, "name", part): one.version for one in getattr(old, part)}
        after = {getattr(one, "name", part): one.version for one in getattr(new, part)}
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                lines.append(f"{part}: {name} {before.get(name, 'absent')} -> {after.get(name, 'absent')}")
    same = msgspec.structs.replace(old, spec_sha256=new.spec_sha256) == new
    return lines or (["nothing moved"] if same else ["hashes, data or settings moved; no version did"])
