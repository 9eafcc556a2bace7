"""An image out of a registry: its manifest, and its blobs by digest in the store."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

from envs.engines.base import ENV_LABEL, LOCK_LABEL
from envs.errors import FetchError, LockError, RegistryError
from envs.fetch import Gone, fetch
from envs.image import ImagePlan, Pulled, short_digest
from envs.layers import Known, Layer
from envs.platforms import host_platform
from envs.progress import Progress
from envs.registry.base import of_platform, read_diff_ids
from envs.registry.blobs import is_packed, measured, unpacked
from envs.registry.client import Client, Descriptor, digest_of
from envs.registry.reference import Reference, parse_reference


class Remote(msgspec.Struct, frozen=True):
    """A registry's image whose bytes are in the store; `digest` is of the manifest for one platform."""

    named: Reference
    digest: str
    manifest: bytes
    config: bytes
    layers: tuple[Layer, ...]

    @property
    def reference(self) -> str:
        """HOST/REPOSITORY@sha256:..., which will always be this image."""
        return self.named.at(self.digest)

    @property
    def image_id(self) -> str:
        """The id that an engine gives it."""
        return digest_of(self.config)

    @property
    def labels(self) -> dict[str, str]:
        """What its configuration says of it."""
        return self._facts.config.labels or {}

    @property
    def platform(self) -> str:
        """As locks name it: linux/amd64."""
        return f"{self._facts.os}/{self._facts.architecture}"

    @property
    def _facts(self) -> _Config:
        try:
            return msgspec.json.decode(self.config, type=_Config)
        except msgspec.DecodeError as error:
            raise RegistryError(f"{self.reference}: its configuration can't be read: {error}") from error


class _Settings(msgspec.Struct, frozen=True):
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)


class _Config(msgspec.Struct, frozen=True):
    config: _Settings = _Settings()
    architecture: str = ""
    os: str = ""


def fetch_image(reference: str, progress: Progress, platform: str = "") -> Remote:
    """The image for this machine's platform unless another is named; what the store has is not fetched again.

    WrongUse for a reference that can't be read; RegistryError or FetchError where something can't be had or has
    other bytes than its digest says; LockError where it is no image, or none for the platform. By a tag it is what
    the tag names now: the caller is told.
    """
    named = parse_reference(reference)
    client = Client.of_host(named.host, named.repository)
    content, manifest = client.manifest(named.digest or named.tag or "latest")
    if not named.digest:
        progress.say(f"{named}: a tag can be moved, so this is whatever it names now")
    try:
        if manifest.manifests:
            digest = of_platform(manifest, platform or host_platform(), str(named))
            content, manifest = client.manifest(digest)
        config, diff_ids = read_diff_ids(client, manifest, str(named))
        paths = fetch([client.blob(one.digest, one.size) for one in manifest.layers], f"image {named}", progress)
    except LockError as error:
        raise RegistryError(error.message, error.remedy) from error
    except RegistryError:
        raise
    except FetchError as error:  # it names a blob, and the lock that there is none of
        remedy = "run the same command again: what has arrived stays"
        wrong = "the registry serves other bytes than the image's manifest names: do not use it"
        message = f"{client.name}: {error.message.replace('the lock says', 'the manifest says')}"
        raise RegistryError(message, remedy if isinstance(error, Gone) else wrong) from error
    parts = enumerate(zip(manifest.layers, paths, diff_ids, strict=True), 1)
    layers = tuple(_layer(f"layer-{place}", str(named), *part) for place, part in parts)
    return Remote(named, digest_of(content), content, config, layers)


def pulled_plan(image: Remote, tags: tuple[str, ...]) -> ImagePlan:
    """The image as an engine is given it: nothing of it is made anew."""
    return ImagePlan(
        name=image.labels.get(ENV_LABEL) or image.named.repository,
        lock_digest=image.labels.get(LOCK_LABEL, ""),
        platform=image.platform,
        epoch=0,
        description=f"pulled from {image.named}",
        layers=image.layers,
        pulled=Pulled(image.config, image.manifest, tags),
    )


def own_tags(image: Remote) -> tuple[str, ...]:
    """Where it came from, as a tag: never one of this project's, which stand for what was built from a lock."""
    named = image.named
    return (f"{named.host}/{named.repository}:{named.tag or short_digest(image.digest)}",)


def _layer(name: str, whole: str, one: Descriptor, path: Path, diff_id: str) -> Layer:
    """RegistryError where the tar in the blob is not the one that the configuration names."""
    is_tar = one.digest == diff_id and not is_packed(path)  # then it was checked when it came into the store
    known = Known(diff_id, path.stat().st_size) if is_tar else measured(path)
    if known.diff_id != diff_id:
        raise RegistryError(f"{whole}: {name} is not what its configuration says", "do not use this image")
    return Layer(name, f"{name} of {whole}", known, path, functools.partial(unpacked, path))
