"""A base image from a registry, by the digest of its manifest: looked up by `invoke lock`, fetched by hash at build.

Where the registry lies is configuration; private ones are read with docker's credentials.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import msgspec

from envs import sources
from envs.errors import FetchError, LockError
from envs.fetch import fetch, stored
from envs.image_base import BaseImage
from envs.layers import Known, Layer
from envs.lock import LockedImage, LockedLayer
from envs.progress import Progress
from envs.registry.blobs import measured, unpacked
from envs.registry.client import Client, Manifest
from envs.wanted import Wanted


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...]


class _Config(msgspec.Struct, frozen=True):
    rootfs: _RootFs


def resolve_image(reference: str, platform: str, progress: Progress) -> LockedImage:
    """Lock `REPOSITORY@sha256:...` for a platform; its layers are fetched and unpacked once to know their sizes.

    LockError where the reference is no digest or the platform is not in it; RegistryError where the registry
    refuses or serves other bytes.
    """
    named = re.fullmatch(r"([a-z0-9][a-z0-9._/-]*)@(sha256:[0-9a-f]{64})", reference)
    if not named:
        raise LockError(f"base.image {reference!r} names no digest", "write it as in library/debian@sha256:...")
    repository, digest = named.groups()
    client = Client.of_url(sources.registry_url(), repository)
    _, manifest = client.manifest(digest)
    if manifest.manifests:
        digest = of_platform(manifest, platform, reference)
        _, manifest = client.manifest(digest)
    diff_ids = read_diff_ids(client, manifest, reference)[1]
    blobs = [_of_base(client.blob(one.digest, one.size)) for one in manifest.layers]
    paths = fetch(blobs, f"base image {repository}", progress)
    layers = []
    for one, path, diff_id in zip(manifest.layers, paths, diff_ids, strict=True):
        known = measured(path)
        if known.diff_id != diff_id:
            raise LockError(f"{reference}: layer {one.digest[:19]} is not what its configuration says")
        layers.append(
            LockedLayer(
                sha256=one.digest.removeprefix("sha256:"), bytes=one.size, diff_id=diff_id, unpacked_bytes=known.bytes
            )
        )
    return LockedImage(repository=repository, digest=digest, layers=tuple(layers))


def registry_base(image: LockedImage, progress: Progress) -> BaseImage:
    """The image's layers, as they are; what the store lacks is fetched by its sha256."""
    missing = [one for one in image.layers if not stored(one.sha256, "blob").exists()]
    fetch(_blobs(image.repository, missing), f"base image {image.repository}", progress)
    layers = []
    for place, one in enumerate(image.layers, 1):
        path = stored(one.sha256, "blob")
        known = Known(one.diff_id, one.unpacked_bytes)
        comment = f"layer {place} of {image.repository}@{image.digest[:19]}"
        layers.append(Layer(f"base-{place}", comment, known, path, functools.partial(unpacked, path)))
    return BaseImage(tuple(layers), f"{image.repository}@{image.digest[:19]}")


def _blobs(repository: str, layers: Sequence[LockedLayer]) -> list[Wanted]:
    """As the registry has them; without a usable registry a bundle may still hold them."""
    try:
        client = Client.of_url(sources.registry_url(), repository)
    except FetchError as error:
        unusable = error

        def locate() -> str:
            raise unusable

        return [_of_base(Wanted("blob", one.sha256, one.bytes, locate)) for one in layers]
    return [_of_base(client.blob(f"sha256:{one.sha256}", one.bytes)) for one in layers]


def _of_base(blob: Wanted) -> Wanted:
    """What is said of it where it is nowhere."""
    return msgspec.structs.replace(blob, part="base", source="registry")


def read_diff_ids(client: Client, manifest: Manifest, reference: str) -> tuple[bytes, tuple[str, ...]]:
    """The image's configuration and the digests of the tars in its layers. LockError where it is no image's."""
    if manifest.config is None or not manifest.layers:
        raise LockError(f"{reference}: its manifest describes no image", "name the digest of an image")
    digest = manifest.config.digest
    content = client.document(f"blobs/{digest}", digest, "*/*")
    try:
        diff_ids = msgspec.json.decode(content, type=_Config).rootfs.diff_ids
    except msgspec.DecodeError as error:
        raise LockError(f"{reference}: its configuration is no image's", "name the digest of an image") from error
    if len(diff_ids) != len(manifest.layers):
        raise LockError(f"{reference}: manifest and configuration differ in their number of layers")
    return content, diff_ids


def of_platform(index: Manifest, platform: str, reference: str) -> str:
    """The digest of the platform's manifest in an index. LockError where it is not in it."""
    for one in index.manifests:
        if f"{one.platform.get('os')}/{one.platform.get('architecture')}" == platform:
            return one.digest
    raise LockError(f"{reference}: nothing for {platform} in it", "name an image that was built for it")
