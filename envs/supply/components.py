"""EnvLock -> components: everything that the lock names, in one form that SBOMs, provenance and audit share.

Pure: it follows from the lock alone, so that the same lock gives the same documents on every machine.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from envs.lock import (
    EnvLock,
    LockedArchive,
    LockedConda,
    LockedData,
    LockedDeb,
    LockedHubWeights,
    LockedImage,
    LockedInterpreter,
    LockedWheel,
)
from envs.supply.purl import purl, quoted_path

Kind = Literal["deb", "wheel", "conda", "interpreter", "image", "archive", "weights", "data"]
Use = Literal["image", "alternative", "test", "data"]
WEIGHTS = (".pth", ".pt", ".onnx", ".npz", ".safetensors", ".h5")


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """One thing the lock names.

    `use` says where it ends up: in the image; in none, because another source of the same was there
    (alternative); beside the image for its tests; or beside it as data.
    """

    kind: Kind
    use: Use
    name: str
    version: str
    purl: str
    file: str  # its name where it comes from
    sha256: str = ""  # "" where only the first digits are locked
    bytes: int = 0  # 0 where the lock does not say
    cpe: str = ""
    parent: str = ""  # `key` of the component whose part this is
    facts: tuple[tuple[str, str], ...] = ()  # what no standard field holds: (name, value)

    @property
    def key(self) -> str:
        """Unique among the components of a lock."""
        return f"{self.use}:{self.purl}"


def components(lock: EnvLock) -> tuple[Component, ...]:
    """All components of a lock, sorted by key. An interpreter out of a conda package is there as that package."""
    found = [
        *(_deb(one, lock.suite) for one in lock.base),
        *([_archive(lock.base_archive)] if lock.base_archive else []),
        *([_image(lock.base_image, lock.platform)] if lock.base_image else []),
        *(_interpreter(one, place) for place, one in enumerate(lock.interpreter) if one.source != "conda"),
        *(_conda(one) for one in lock.conda),
        *(_wheel(one, "image") for one in lock.package),
        *(_wheel(one, "test") for one in lock.test),
        *(part for one in lock.data for part in _data(one)),
        *(_hub(one) for one in lock.hub),
    ]
    return tuple(sorted({one.key: one for one in found}.values(), key=lambda one: one.key))


def source_name(deb: LockedDeb) -> str:
    """The source package of a Debian package, which the pool's folders are named for; "" in any other pool."""
    found = re.fullmatch(r"pool/[^/]+/(?:lib)?[a-z0-9]/([a-z0-9][a-z0-9+.-]+)/[^/]+", deb.file)
    return found[1] if found else ""


def timestamp(lock: EnvLock) -> str:
    """The lock's own time, which stands in every document where a clock would: RFC 3339, UTC."""
    return dt.datetime.fromtimestamp(lock.source_date_epoch, dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _deb(one: LockedDeb, suite: str) -> Component:
    source = source_name(one)
    upstream = source if source != one.name else ""
    return Component(
        kind="deb",
        use="image",
        name=one.name,
        version=one.version,
        purl=purl(
            "deb",
            one.name,
            one.version,
            namespace="debian",
            arch=one.architecture,
            distro=suite,
            upstream=upstream,
        ),
        file=one.file,
        sha256=one.sha256,
        bytes=one.bytes,
        facts=(("source-package", source),) if source else (),
    )


def _archive(one: LockedArchive) -> Component:
    facts = (("image-id", one.image_id),) if one.image_id else ()
    return Component(
        kind="archive",
        use="image",
        name=PurePosixPath(one.file).name,
        version=one.sha256[:12],
        purl=purl("generic", PurePosixPath(one.file).name, one.sha256[:12], checksum=f"sha256:{one.sha256}"),
        file=one.file,
        sha256=one.sha256,
        bytes=one.bytes,
        facts=(*facts, *(("diff-id", diff_id) for diff_id in one.diff_ids)),
    )


def _image(one: LockedImage, platform: str) -> Component:
    name = one.repository.rpartition("/")[2].lower()
    return Component(
        kind="image",
        use="image",
        name=one.repository,
        version=one.digest,
        purl=purl("oci", name, one.digest, arch=platform.partition("/")[2]),
        file=one.repository,
        sha256=one.digest.removeprefix("sha256:"),
        bytes=sum(layer.bytes for layer in one.layers),
        facts=tuple(("layer", f"sha256:{layer.sha256}") for layer in one.layers),
    )


def _interpreter(one: LockedInterpreter, place: int) -> Component:
    return Component(
        kind="interpreter",
        use="alternative" if place else "image",
        name="cpython",
        version=one.version,
        purl=purl("generic", "cpython", one.version, checksum=f"sha256:{one.sha256}"),
        file=one.file,
        sha256=one.sha256,
        cpe=f"cpe:2.3:a:python:python:{one.version}:*:*:*:*:*:*:*",
        facts=(("source", one.source),),
    )


def _conda(one: LockedConda) -> Component:
    archive = "tar.bz2" if one.file.endswith(".tar.bz2") else "conda"
    return Component(
        kind="conda",
        use="image",
        name=one.name,
        version=one.version,
        purl=purl(
            "conda",
            one.name,
            one.version,
            build=one.build,
            channel=one.channel,
            subdir=one.subdir,
            type=archive,
        ),
        file=one.file,
        sha256=one.sha256,
        bytes=one.bytes,
    )


def _wheel(one: LockedWheel, use: Use) -> Component:
    return Component(
        kind="wheel",
        use=use,
        name=one.name,
        version=one.version,
        purl=purl("pypi", one.name.replace("_", "-").lower(), one.version),
        file=one.file,
        sha256=one.sha256,
        bytes=one.bytes,
    )


def _data(one: LockedData) -> Iterator[Component]:
    wheel = _wheel(one.wheel, "data")
    yield wheel
    for file in one.files:
        yield Component(
            kind="weights" if file.path.endswith(WEIGHTS) else "data",
            use="data",
            name=f"{one.collection}/{file.path}",
            version=one.wheel.version,
            purl=f"{wheel.purl}#{quoted_path(file.path)}",
            file=file.path,
            sha256=file.sha256,
            bytes=file.bytes,
            parent=wheel.key,
        )


def _hub(one: LockedHubWeights) -> Component:
    return Component(
        kind="weights",
        use="data",
        name=one.model,
        version=one.name,
        purl=purl("generic", one.model, one.name, file_name=one.file),
        file=one.file,
        sha256=one.sha256,
        facts=() if one.sha256 else (("sha256-prefix", one.sha256_prefix),),
    )
