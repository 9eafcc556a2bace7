"""A small real lock with a base out of an archive, and images that were changed after they were made."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from making import small_lock
from serving import make_wheel
from verify_cases import CASES, locked_files

from envs.fetch import keep
from envs.files import sha256_file
from envs.lock import EnvLock, LockedArchive

SITE = "opt/edgekiln/lib/python3.10/site-packages"
Member = tuple[tarfile.TarInfo, bytes]


def lock_with_base(work: Path) -> EnvLock:
    """A lock that builds here; its sources are in the store of the cache in use."""
    wheels = work / "wheels"
    lock = small_lock(wheels)
    cases = make_wheel(wheels, "cases", "1.0", {f"{name}": data for name, data in locked_files().items()})
    base = work / "base.tar"
    base.write_bytes(image([{"etc/passwd": b"root:x:0:0::/root:/bin/sh\n", "bin/sh": b"no shell"}]))
    archive = LockedArchive(file=base.name, sha256=sha256_file(base), bytes=base.stat().st_size)
    for path in (*wheels.glob("*.whl"), base):
        keep(path, sha256_file(path))
    return small_lock(wheels, package=(cases, *lock.package), base_archive=archive)


def image(layers: Iterable[dict[str, bytes]]) -> bytes:
    """A `docker save` archive."""
    return packed([[_member(name, data) for name, data in layer.items()] for layer in layers], {"config": {}})


def packed(layers: Iterable[list[Member]], config: dict[str, Any]) -> bytes:
    """The archive of these layers, its digests true."""
    tars = [_tar(layer) for layer in layers]
    diff_ids = [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in tars]
    written = json.dumps({**config, "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
    name = f"{hashlib.sha256(written).hexdigest()}.json"
    names = [f"{place}/layer.tar" for place in range(len(tars))]
    manifest = [{"Config": name, "RepoTags": config.get("tags"), "Layers": names}]
    whole = {**dict(zip(names, tars, strict=True)), name: written, "manifest.json": json.dumps(manifest).encode()}
    return _tar([_member(name, data) for name, data in whole.items()])


def changed(archive: bytes, change: Callable[[list[list[Member]]], None], tags: list[str] | None = None) -> bytes:
    """The archive with its layers as `change` leaves them: lists of members, lowest layer first."""
    members = {info.name: data for info, data in _members(archive)}
    manifest = json.loads(members["manifest.json"])[0]
    layers = [_members(members[name]) for name in manifest["Layers"]]
    change(layers)
    config = json.loads(members[manifest["Config"]])
    return packed(layers, {**config, "tags": tags or manifest["RepoTags"]})


def inject_all(layers: list[list[Member]]) -> None:
    """Every case, each in the layer that holds its file."""
    for case in CASES:
        path = case.path[1:] if case.path.startswith("/") else f"{SITE}/{case.path}"
        holding = next((layer for layer in layers if any(info.name == path for info, _ in layer)), layers[-1])
        place = next((place for place, (info, _) in enumerate(holding) if info.name == path), None)
        if case.theirs is None:
            del holding[place]  # type: ignore[arg-type]
            continue
        info, data = _member(path, case.theirs)
        if place is None:
            holding.append((info, data))
            continue
        old = holding[place][0]
        info.mode, info.mtime = old.mode, old.mtime
        for field, value in case.header.items():
            setattr(info, field, f"{SITE}/{value}" if (field, info.type) == ("linkname", tarfile.LNKTYPE) else value)
        holding[place] = (info, data)


def _members(archive: bytes) -> list[Member]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = []
        for info in tar:
            file = tar.extractfile(info) if info.isfile() else None
            found.append((copy.copy(info), file.read() if file else b""))
        return found


def _member(name: str, data: bytes) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def _tar(members: Iterable[Member]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()
