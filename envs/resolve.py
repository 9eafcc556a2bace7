"""`invoke lock`: a spec becomes a lock, whole or one part of it. Nothing else resolves; a build never does."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from envs import debian, interpreter, sources
from envs.conda.lock import python_pins, resolve_conda
from envs.errors import LockError, SpecError, WrongUse
from envs.fetch import get, keep
from envs.files import sha256_file
from envs.image_archive import read_archive
from envs.lock import LOCK_VERSION, EnvLock, LockedArchive, LockedConda, LockedInterpreter, LockedWheel
from envs.platforms import GLIBC_MINOR, MACHINES, host_platform
from envs.progress import Progress
from envs.registry.base import resolve_image
from envs.resolve_data import hub_weights, resolve_data
from envs.resolve_python import resolve_wheels
from envs.spec import PARTS, EnvSpec, InterpreterSpec, for_platform, spec_parts, spec_path, spec_sha256

Fields = dict[str, Any]  # of EnvLock


class _Job(msgspec.Struct, frozen=True):
    """What every part is resolved by."""

    spec: EnvSpec  # for the lock's platform
    is_own_platform: bool  # of the spec as it was written
    day: dt.date
    before: EnvLock | None
    progress: Progress


def make_lock(
    spec: EnvSpec, day: dt.date, progress: Progress, *, platform: str = "", before: EnvLock | None = None
) -> EnvLock:
    """Resolve every part of `spec` as of the end of that day, for its own platform or another.

    `before` gives what can't be known here: the hash of an interpreter that only another machine has installed, and
    of weights that were downloaded once. Errors name the part that has no solution.
    """
    job = _job(spec, platform, day, before, progress)
    fields: Fields = {}
    for part in PARTS:
        fields |= _part(part, job)
    return EnvLock(
        version=LOCK_VERSION,
        name=spec.name,
        spec_sha256=spec_sha256(job.spec),
        spec_parts=spec_parts(job.spec),
        platform=job.spec.platform,
        source_date_epoch=int(dt.datetime.combine(day, dt.time(), dt.timezone.utc).timestamp()),
        **fields,
    )


def refresh_lock(spec: EnvSpec, before: EnvLock, part: str, day: dt.date, progress: Progress) -> EnvLock:
    """`before` with one part resolved again; every other part stays as it is.

    `day` counts for packages alone, since nothing else is chosen by it; the source date epoch stays, so that no other
    layer changes. LockError where the spec has moved on in another part as well.
    """
    if part not in PARTS:
        raise WrongUse(f"--only {part!r} is no part of a lock", f"it is one of {', '.join(PARTS)}")
    job = _job(spec, before.platform, day, before, progress)
    said = spec_parts(job.spec)
    others = [other for other in PARTS if other != part and before.spec_parts.get(other) != said[other]]
    if others and before.spec_parts:
        raise LockError(
            f"{spec.name} can't be refreshed in {part} alone: its spec has moved on in {' and '.join(others)} too",
            f"lock it whole: `invoke lock --env {spec.name}`",
        )
    if others and before.spec_sha256 != spec_sha256(job.spec):
        raise LockError(
            f"{spec.name} can't be refreshed in {part} alone: its lock is older than its spec and does not say in what",
            f"lock it whole: `invoke lock --env {spec.name}`",
        )
    return msgspec.structs.replace(
        before, spec_sha256=spec_sha256(job.spec), spec_parts=said, drift=(), **_part(part, job)
    )


def _job(spec: EnvSpec, platform: str, day: dt.date, before: EnvLock | None, progress: Progress) -> _Job:
    if spec.base.suite not in GLIBC_MINOR:
        raise SpecError(f"{spec.name}: suite {spec.base.suite!r} is not one of {', '.join(GLIBC_MINOR)}")
    its = for_platform(spec, platform)
    return _Job(its, its.platform == spec.platform, day, before, progress)


def _part(part: str, job: _Job) -> Fields:
    match part:
        case "base":
            return _base(job)
        case "python":
            return _python(job)
        case "packages":
            return _packages(job)
    return {"data": tuple(resolve_data(one, job.spec, job.progress) for one in job.spec.data)}


def _base(job: _Job) -> Fields:
    spec = job.spec
    fields: Fields = {"suite": spec.base.suite, "base_archive": None, "base_image": None, "base": (), "base_date": ""}
    if spec.base.archive:
        fields["base_archive"] = _archive(spec)
    elif spec.base.image:
        fields["base_image"] = resolve_image(spec.base.image, spec.platform, job.progress)
    else:
        job.progress.say(f"{spec.name}: base from Debian {spec.base.suite}")
        mirror, architecture = sources.debian_mirror(spec.base.suite), MACHINES[spec.platform][1]
        found = debian.resolve(mirror, spec.base.suite, architecture, spec.base.packages, get)
        fields |= {"base": found.packages, "base_date": found.date}
    return fields


def _archive(spec: EnvSpec) -> LockedArchive:
    """The named image archive, kept in the store so that builds find it by its hash."""
    path = spec_path(spec.name).parent / spec.base.archive
    if not path.is_file():
        raise SpecError(f"envs/specs/{spec.name}.toml: base.archive {spec.base.archive!r} is not there")
    image = read_archive(path)
    if image.platform != spec.platform:
        raise SpecError(f"{path.name}: an image for {image.platform}, not for {spec.platform}", "name another archive")
    for layer in image.layers:
        for _ in layer.stream():  # raises where a layer is not what the configuration says
            pass
    sha256 = sha256_file(path)
    keep(path, sha256)
    return LockedArchive(
        file=path.name,
        sha256=sha256,
        bytes=path.stat().st_size,
        image_id=image.image_id,
        diff_ids=tuple(str(layer.diff_id) for layer in image.layers),
    )


def _packages(job: _Job) -> Fields:
    spec, newest = job.spec, f"{job.day.isoformat()}T00:00:00Z"
    job.progress.say(f"{spec.name}: resolving {len(spec.packages)} pinned packages as of {job.day}, {spec.platform}")
    solved = resolve_conda(spec, job.day, job.progress) if spec.installer == "conda" else None
    resolved = solved.wheels if solved else resolve_wheels(spec.packages, {}, spec, newest)
    conda = solved.conda if solved else ()
    names = {one.name for one in resolved} | {one.name for one in conda}
    # what is left out and trimmed is written for the spec's own platform: another may not ask for it at all
    if job.is_own_platform and (strangers := sorted(set(spec.omit) - names)):
        raise SpecError(f"envs/specs/{spec.name}.toml: omit names {strangers[0]!r}, which nothing asks for")
    trim = {name: patterns for name, patterns in sorted(spec.trim.items()) if job.is_own_platform or name in names}
    packages = tuple(one for one in resolved if one.name not in spec.omit)
    conda = tuple(one for one in conda if one.name not in spec.omit)
    _check_hashes((*conda, *packages), spec)
    pins = {**python_pins(conda), **{one.name: one.version for one in packages}}
    test = tuple(one for one in resolve_wheels(spec.test, pins, spec, newest) if one.name not in pins)
    return {
        "exclude_newer": newest,
        "installer": spec.installer,
        "omit": tuple(sorted(names & set(spec.omit))),
        "trim": {name: tuple(sorted(patterns)) for name, patterns in trim.items()},
        **({"conda": conda, "python": solved.python} if solved else {}),
        "package": packages,
        "test": test,
        "hub": hub_weights(packages, job.before.hub if job.before else (), job.progress),
    }


def _check_hashes(packages: Iterable[LockedConda | LockedWheel], spec: EnvSpec) -> None:
    for one in packages:
        if (allowed := spec.hashes.get(one.name)) and one.sha256 not in allowed:
            raise LockError(
                f"{one.file}: sha256 is {one.sha256}, none of the {len(allowed)} that [hashes] of the spec allow",
                f"find out why, or take {one.name} out of [hashes] in envs/specs/{spec.name}.toml",
            )


def _python(job: _Job) -> Fields:
    if job.spec.installer == "conda":  # one of its packages
        return {"interpreter": ()}
    versions = {one.version for one in job.spec.interpreter}
    if len(versions) != 1:
        raise SpecError(
            f"envs/specs/{job.spec.name}.toml: the [[interpreter]] sources for {job.spec.platform} "
            f"name {len(versions)} versions, not one"
        )
    found = [_interpreter(one, job) for one in job.spec.interpreter]
    return {"python": versions.pop(), "interpreter": tuple(one for one in found if one)}


def _interpreter(one: InterpreterSpec, job: _Job) -> LockedInterpreter | None:
    """None for an installed one of another kind of machine, whose bytes no lock has told yet."""
    if one.source == "python-build-standalone":
        return LockedInterpreter(source=one.source, version=one.version, file=one.file, sha256=one.sha256)
    if job.spec.platform != host_platform():
        old = job.before.interpreter if job.before else ()
        kept = next((it for it in old if (it.source, it.version) == (one.source, one.version)), None)
        how = "stays as it was locked" if kept else "is left out"
        job.progress.say(f"the installed CPython of {job.spec.platform} {how}: this machine is {host_platform()}")
        return kept
    here = interpreter.installed(one.version.rpartition(".")[0])
    found = next((it for it in here if it.version == one.version), None)
    if found is None:
        raise LockError(f"CPython {one.version} is not installed here", "install it, or take that [[interpreter]] out")
    return locked_install(found)


def locked_install(one: interpreter.Installed) -> LockedInterpreter:
    """The lock's entry of an installed CPython, by the tree that it makes."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        interpreter.carry_installed(one, tree)
        return LockedInterpreter(source="installed", version=one.version, sha256=interpreter.tree_sha256(tree))
