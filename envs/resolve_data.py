"""Data at lock time: pictures and weights inside wheels, and what the framework's hub publishes."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from envs import hubweights
from envs.data import TORCHVISION, ensure_data, hub_file
from envs.errors import FetchError, LockError, SpecError, WrongUse
from envs.fetch import fetch, list_index, wheel
from envs.files import sha256_file
from envs.lock import EnvLock, LockedData, LockedFile, LockedHubWeights, LockedWheel
from envs.platforms import GLIBC_MINOR, MACHINES
from envs.progress import Progress
from envs.resolve_python import best_wheel, wheel_tags
from envs.spec import DataSpec, EnvSpec
from envs.transfer import Unavailable

LARGEST_MEMBER_BYTES = 8 << 30


def resolve_data(one: DataSpec, spec: EnvSpec, progress: Progress) -> LockedData:
    """The files that the spec asks for, out of one wheel: the same wheel whatever the spec's platform."""
    prefix = re.sub(r"[-_.]+", "_", one.package).lower() + f"-{one.version}-"
    listed = {
        file: entry
        for file, entry in list_index(one.package).items()
        if file.endswith(".whl") and file.lower().startswith(prefix)
    }
    tags = wheel_tags(spec.python, MACHINES["linux/amd64"][0], GLIBC_MINOR[spec.base.suite])
    # data is the same in every wheel of a release: one that does not fit this Python will do
    name = best_wheel(listed, tags) or next((f for f in sorted(listed) if "linux" in f or "-any" in f), None)
    if name is None or not listed[name].sha256:
        raise LockError(f"data {one.collection}: the index has no hashed wheel of {one.package} {one.version}")
    locked = LockedWheel(
        name=one.package,
        version=one.version,
        file=name,
        sha256=listed[name].sha256,
        bytes=listed[name].bytes,
    )
    (path,) = fetch([wheel(locked, "data")], one.package, progress)
    files: list[LockedFile] = []
    with zipfile.ZipFile(path) as archive:
        for pattern in one.files:
            hits = sorted(i.filename for i in archive.infolist() if fnmatch.fnmatchcase(i.filename, pattern))
            if not hits:
                raise SpecError(f"data {one.collection}: {pattern!r} matches no file of {name}")
            files += [_locked_file(archive, archive.getinfo(hit)) for hit in hits]
    return LockedData(collection=one.collection, wheel=locked, files=tuple(files))


def _locked_file(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> LockedFile:
    if member.file_size > LARGEST_MEMBER_BYTES:
        raise LockError(f"{archive.filename}: {member.filename} unpacks to {member.file_size:,} bytes", "take it out")
    digest, size = hashlib.sha256(), 0
    with archive.open(member) as content:
        for block in iter(functools.partial(content.read, 1 << 20), b""):
            digest.update(block)
            size += len(block)
    return LockedFile(path=member.filename, sha256=digest.hexdigest(), bytes=size)


def hub_weights(
    packages: Iterable[LockedWheel], before: Sequence[LockedHubWeights], progress: Progress
) -> tuple[LockedHubWeights, ...]:
    """What torchvision among the packages publishes; whole hashes that the lock before knew of the same files stay."""
    vision = next((one for one in packages if one.name == "torchvision"), None)
    if vision is None:
        return ()
    (path,) = fetch([wheel(vision)], "torchvision", progress)
    return with_hashes(hubweights.published(path), {one.file: one.sha256 for one in before})


def with_hashes(hub: Iterable[LockedHubWeights], known: Mapping[str, str]) -> tuple[LockedHubWeights, ...]:
    """The same entries, with the whole sha256 of each file that is known."""
    return tuple(msgspec.structs.replace(one, sha256=known.get(one.file, "") or one.sha256) for one in hub)


def hash_weights(lock: EnvLock, models: Sequence[str], progress: Progress) -> EnvLock:
    """The lock with the whole sha256 of these models' published weights, each downloaded and hashed.

    WrongUse for a model without any, FetchError where the hub can't be reached.
    """
    by_model = {one.model: one for one in lock.hub}
    known: dict[str, str] = {}
    for name in models:
        published = by_model.get(name.removeprefix(TORCHVISION))
        if published is None:
            raise WrongUse(f"--weights {name}: no weights are published for it", "`invoke models` lists the models")
        try:
            path = hub_file(published, ensure_data(lock, progress, only=()), progress)
        except Unavailable as error:
            raise FetchError(
                f"{published.file}: {error.reason}", "lock them on a machine that reaches the hub"
            ) from error
        known[published.file] = sha256_file(path)
    return msgspec.structs.replace(lock, hub=with_hashes(lock.hub, known))
