"""A base image from a registry, by the digest of its manifest: looked up by `invoke lock`, fetched by hash at build.

Registry API v2 (OCI distribution specification). Where the registry lies is configuration. Reading is anonymous:
a token is asked for where the registry wants one.
"""

from __future__ import annotations

import functools
import hashlib
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import requests

from envs import sources
from envs.errors import LockError
from envs.fetch import TIMEOUT_S, Wanted, fetch, session, stored, unreachable
from envs.image_base import BaseImage, file_chunks
from envs.layers import Known, Layer
from envs.lock import LockedImage, LockedLayer
from envs.progress import Progress

MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
GZIP_OR_PLAIN = 47  # zlib's window bits: the header says which


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    digest: str
    size: int
    media_type: str = ""
    platform: dict[str, Any] = {}


class _Manifest(msgspec.Struct, frozen=True):
    config: _Descriptor | None = None
    layers: tuple[_Descriptor, ...] = ()
    manifests: tuple[_Descriptor, ...] = ()


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...]


class _Config(msgspec.Struct, frozen=True):
    rootfs: _RootFs


def resolve_image(reference: str, platform: str, progress: Progress) -> LockedImage:
    """Lock `REPOSITORY@sha256:...` for a platform; its layers are fetched and unpacked once to know their sizes.

    LockError where the reference is no digest, the registry serves other bytes, or the platform is not in it.
    """
    named = re.fullmatch(r"([a-z0-9][a-z0-9._/-]*)@(sha256:[0-9a-f]{64})", reference)
    if not named:
        raise LockError(f"base.image {reference!r} names no digest", "write it as in library/debian@sha256:...")
    repository, digest = named.groups()
    manifest = _manifest(repository, digest)
    if manifest.manifests:
        digest = _of_platform(manifest, platform, reference)
        manifest = _manifest(repository, digest)
    if manifest.config is None or not manifest.layers:
        raise LockError(f"{reference}: its manifest describes no image", "name the digest of an image")
    config = msgspec.json.decode(
        _get(f"{repository}/blobs/{manifest.config.digest}", manifest.config.digest), type=_Config
    )
    blobs = [_blob(repository, one.digest, one.size) for one in manifest.layers]
    paths = fetch(blobs, f"base image {repository}", progress)
    layers = []
    for one, path, diff_id in zip(manifest.layers, paths, config.rootfs.diff_ids, strict=True):
        hasher, size = hashlib.sha256(), 0
        for block in _unpacked(path):
            hasher.update(block)
            size += len(block)
        if f"sha256:{hasher.hexdigest()}" != diff_id:
            raise LockError(f"{reference}: layer {one.digest[:19]} is not what its configuration says")
        layers.append(
            LockedLayer(sha256=one.digest.removeprefix("sha256:"), bytes=one.size, diff_id=diff_id, unpacked_bytes=size)
        )
    return LockedImage(repository=repository, digest=digest, layers=tuple(layers))


def registry_base(image: LockedImage, progress: Progress) -> BaseImage:
    """The image's layers, as they are; what the store lacks is fetched by its sha256."""
    blobs = [_blob(image.repository, f"sha256:{one.sha256}", one.bytes) for one in image.layers]
    fetch(blobs, f"base image {image.repository}", progress)
    layers = []
    for place, one in enumerate(image.layers, 1):
        path = stored(one.sha256, "blob")
        known = Known(one.diff_id, one.unpacked_bytes)
        comment = f"layer {place} of {image.repository}@{image.digest[:19]}"
        layers.append(Layer(f"base-{place}", comment, known, path, functools.partial(_unpacked, path)))
    return BaseImage(tuple(layers), f"{image.repository}@{image.digest[:19]}")


def _manifest(repository: str, digest: str) -> _Manifest:
    try:
        return msgspec.json.decode(_get(f"{repository}/manifests/{digest}", digest), type=_Manifest)
    except msgspec.DecodeError as error:
        raise LockError(f"{repository}@{digest}: no manifest: {error}", "name the digest of an image") from error


def _of_platform(index: _Manifest, platform: str, reference: str) -> str:
    for one in index.manifests:
        if f"{one.platform.get('os')}/{one.platform.get('architecture')}" == platform:
            return one.digest
    raise LockError(f"{reference}: nothing for {platform} in it", "name an image that was built for it")


def _get(path: str, digest: str) -> bytes:
    """A small document of the registry, checked against its digest."""
    url = f"{sources.registry_url()}/v2/{path}"
    try:
        response = session().get(url, headers={"Accept": ", ".join(MANIFESTS)}, timeout=TIMEOUT_S, auth=Anonymous())
        response.raise_for_status()
    except requests.RequestException as error:
        raise LockError(*unreachable(path, url, error)) from error
    if f"sha256:{hashlib.sha256(response.content).hexdigest()}" != digest:
        raise LockError(f"{path}: the registry serves other bytes than its digest says", "do not use this registry")
    return response.content


def _blob(repository: str, digest: str, size: int) -> Wanted:
    sha256 = digest.removeprefix("sha256:")
    return Wanted("blob", sha256, size, lambda: f"{sources.registry_url()}/v2/{repository}/blobs/{digest}", Anonymous())


def _unpacked(path: Path) -> Iterator[bytes]:
    """The layer's tar: gzip is undone, a plain tar passes through."""
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            yield from file_chunks(path)
            return
    inflate = zlib.decompressobj(GZIP_OR_PLAIN)
    for block in file_chunks(path):
        yield inflate.decompress(block)
    yield inflate.flush()


class Anonymous(requests.auth.AuthBase):
    """Answers `401` with a token that the registry's own token service gives to everybody."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.register_hook("response", self._answer)  # type: ignore[no-untyped-call]
        return request

    def _answer(self, response: requests.Response, **how: Any) -> requests.Response:
        challenge = response.headers.get("WWW-Authenticate", "")
        tried = "Authorization" in response.request.headers
        if response.status_code != 401 or tried or not challenge.startswith("Bearer "):
            return response
        asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        query = {name: asked[name] for name in ("service", "scope") if name in asked}
        reply = session().get(asked.get("realm", ""), params=query, timeout=TIMEOUT_S)
        reply.raise_for_status()
        token = reply.json().get("token") or reply.json().get("access_token")
        again = response.request.copy()
        again.headers["Authorization"] = f"Bearer {token}"
        again.deregister_hook("response", self._answer)  # type: ignore[no-untyped-call]
        response.close()
        sent: requests.Response = response.connection.send(again, **how)
        sent.history.append(response)
        return sent
