"""A base out of an image archive (`docker save`), known by its sha256: the layers are taken as they are."""

from __future__ import annotations

import functools
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from envs.errors import BuildError
from envs.files import sha256_file
from envs.image_base import BaseImage
from envs.layers import Known, Layer


class _Manifest(msgspec.Struct, frozen=True):
    """The fields of manifest.json that a base needs."""

    config: str = msgspec.field(name="Config")
    layers: tuple[str, ...] = msgspec.field(name="Layers")


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...]


class _Config(msgspec.Struct, frozen=True):
    rootfs: _RootFs
    os: str = ""
    architecture: str = ""


class ArchiveImage(msgspec.Struct, frozen=True):
    """The one image of an archive; its layers prove their digests as they are streamed."""

    image_id: str  # what `docker load` yields
    platform: str
    layers: tuple[Layer, ...]


def archive_base(archive: Path, sha256: str) -> BaseImage:
    """The layers of the archive's one image. BuildError where it is another file or holds no such image."""
    if sha256_file(archive) != sha256:
        raise BuildError(f"{archive.name}: not the archive that was named: its sha256 differs", "get it again")
    image = read_archive(archive)
    return BaseImage(image.layers, f"image {image.image_id.removeprefix('sha256:')[:12]}")


def read_archive(archive: Path) -> ArchiveImage:
    """What an archive holds. BuildError where it is no archive of one image."""
    try:
        with tarfile.open(archive, "r:") as tar:
            manifests = msgspec.json.decode(_file(tar, "manifest.json").read(), type=tuple[_Manifest, ...])
            if len(manifests) != 1:
                raise BuildError(f"{archive.name}: holds {len(manifests)} images", "save one image alone")
            manifest = manifests[0]
            config = _file(tar, manifest.config).read()
            decoded = msgspec.json.decode(config, type=_Config)
            diff_ids = decoded.rootfs.diff_ids
            sizes = [_file(tar, member).seek(0, io.SEEK_END) for member in manifest.layers]
    except (tarfile.TarError, msgspec.DecodeError, KeyError) as error:
        raise BuildError(
            f"{archive.name}: no image archive ({error})",
            "make it with `docker save -o FILE IMAGE`, uncompressed",
        ) from error
    image = hashlib.sha256(config).hexdigest()
    if len(diff_ids) != len(sizes):
        raise BuildError(
            f"{archive.name}: {len(sizes)} layers, but its configuration names {len(diff_ids)}", "get it again"
        )
    layers = tuple(
        Layer(
            f"base-{place}",
            f"layer {place} of image {image[:12]}",
            Known(diff_id, size),
            archive,
            functools.partial(_chunks, archive, name),
        )
        for place, (name, diff_id, size) in enumerate(zip(manifest.layers, diff_ids, sizes, strict=True), 1)
    )
    return ArchiveImage(f"sha256:{image}", f"{decoded.os}/{decoded.architecture}", layers)


def _file(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    content = tar.extractfile(name)  # follows the links by which an archive names a layer twice
    if content is None:
        raise KeyError(f"{name} is no file")
    return content


def _chunks(archive: Path, name: str) -> Iterator[bytes]:
    with tarfile.open(archive, "r:") as tar:
        content = _file(tar, name)
        yield from iter(functools.partial(content.read, 1 << 20), b"")
