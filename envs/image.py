"""EnvLock, base and tree -> image: its configuration, its id, and the archive that an engine loads.

Nothing here talks to an engine or writes a file. The image id is the sha256 of the configuration, which holds
the layers' digests: the same lock gives the same id on every machine.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from envs.engines.base import DRIFT_LABEL, ENV_LABEL, LOCK_LABEL, PART_LABEL, PROJECT_LABEL, ROOT_UID
from envs.errors import BuildError
from envs.image_base import BaseImage
from envs.image_tar import Entry, tar_end, tar_header, tar_padding
from envs.layers import IMAGE_ROOT, Layer, tree_layers
from envs.lock import EnvLock

VARIABLES = {
    "PATH": f"/{IMAGE_ROOT}/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",  # noqa: S108 - the only place that can be written; whoever the user is
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",  # the root is read-only: trying costs time
}
WORKDIR = "/workspace"
COMMAND = ("bash",)

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


class Pulled(msgspec.Struct, frozen=True):
    """What a registry's image brings along, to be kept byte for byte."""

    config: bytes
    manifest: bytes
    tags: tuple[str, ...]


class ImagePlan(msgspec.Struct, frozen=True):
    """An image that can be made: everything about it but the bytes of its layers."""

    name: str
    lock_digest: str
    platform: str
    epoch: int
    description: str
    layers: tuple[Layer, ...]
    drift: tuple[str, ...] = ()  # as in EnvLock
    pulled: Pulled | None = None  # made elsewhere: nothing of it follows from the other fields

    @property
    def tags(self) -> tuple[str, ...]:
        """`latest`, and one that stays with this lock; a drifted image only gets one that says so."""
        if self.pulled is not None:
            return self.pulled.tags
        repository = f"edgekiln/{self.name}"
        if self.drift:
            return (f"{repository}:drifted-{short_digest(self.lock_digest)}",)
        return f"{repository}:latest", f"{repository}:{short_digest(self.lock_digest)}"

    @property
    def is_known(self) -> bool:
        """Whether every layer's digest is known, and with them the image id."""
        return all(layer.diff_id for layer in self.layers)

    @property
    def image_id(self) -> str:
        """The id that an engine gives this image. BuildError while a layer was never streamed."""
        return f"sha256:{hashlib.sha256(self.config()).hexdigest()}"

    def config(self) -> bytes:
        """The image configuration, as Docker and OCI have it in common."""
        if self.pulled is not None:
            return self.pulled.config
        if not self.is_known:
            raise BuildError(f"image {self.name}: a layer's digest is not known before it was written once")
        created = _rfc3339(self.epoch)
        system, _, architecture = self.platform.partition("/")
        document = {
            "architecture": architecture,
            "os": system,
            "created": created,
            "config": {
                "User": f"{ROOT_UID}:{ROOT_UID}",
                "Env": [f"{name}={value}" for name, value in VARIABLES.items()],
                "Cmd": list(COMMAND),
                "WorkingDir": WORKDIR,
                "Labels": self.labels(),
            },
            "history": [
                {"created": created, "created_by": f"edgekiln: {layer.name}", "comment": layer.comment}
                for layer in self.layers
            ],
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
        }
        return msgspec.json.encode(document, order="deterministic")

    def manifest(self) -> bytes:
        """The OCI image manifest. Layers are plain tars: a compressor's bytes move with its version, these can't."""
        if self.pulled is not None:
            return self.pulled.manifest
        config = self.config()
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {
                "mediaType": CONFIG_TYPE,
                "digest": f"sha256:{hashlib.sha256(config).hexdigest()}",
                "size": len(config),
            },
            "layers": [
                {"mediaType": LAYER_TYPE, "digest": layer.diff_id, "size": layer.bytes} for layer in self.layers
            ],
        }
        return msgspec.json.encode(document, order="deterministic")

    @property
    def manifest_digest(self) -> str:
        """The digest by which a registry or a layout names this image. BuildError as for `image_id`."""
        return f"sha256:{hashlib.sha256(self.manifest()).hexdigest()}"

    def labels(self) -> dict[str, str]:
        """Ours, by which the engine's images are found, and OCI's."""
        drift = {DRIFT_LABEL: "; ".join(self.drift)} if self.drift else {}
        return {
            **drift,
            PROJECT_LABEL: "edgekiln",
            ENV_LABEL: self.name,
            LOCK_LABEL: self.lock_digest,
            "org.opencontainers.image.title": f"edgekiln/{self.name}",
            "org.opencontainers.image.version": short_digest(self.lock_digest),
            "org.opencontainers.image.description": self.description,
            "org.opencontainers.image.created": _rfc3339(self.epoch),
        }

    def archive_size(self, skip: int = 0) -> int:
        """About how many bytes `archive` gives: the layers, which are all but a few thousand of them."""
        return sum(layer.bytes for layer in self.layers[skip:])

    def archive(self, skip: int = 0) -> Iterator[bytes]:
        """The image in `docker save` form, without its first `skip` layers, which the engine has already."""
        yield from self.archive_layers(skip, len(self.layers))
        yield from self.archive_end(self.config(), len(self.layers), self.tags)

    def archive_layers(self, start: int, stop: int) -> Iterator[bytes]:
        """The first part of an archive. Layers come before the configuration: their digests may become known only
        as they go by.
        """
        for place, layer in list(enumerate(self.layers))[start:stop]:
            yield tar_header(Entry(_member(place, layer), "file", 0o644, layer.bytes), self.epoch)
            yield from layer.stream()
            yield tar_padding(layer.bytes)

    def archive_end(self, config: bytes, stop: int, tags: tuple[str, ...]) -> Iterator[bytes]:
        """The rest of an archive: what makes an image of the first `stop` layers."""
        config_name = f"{hashlib.sha256(config).hexdigest()}.json"
        layers = [_member(place, layer) for place, layer in enumerate(self.layers[:stop])]
        manifest = [{"Config": config_name, "RepoTags": tags or None, "Layers": layers}]
        for name, content in ((config_name, config), ("manifest.json", msgspec.json.encode(manifest))):
            yield tar_header(Entry(name, "file", 0o644, len(content)), self.epoch)
            yield content + tar_padding(len(content))
        yield tar_end()

    def config_of_first(self, stop: int) -> bytes:
        """A nameless image of the first `stop` layers, by which an engine can be given an image in pieces."""
        system, _, architecture = self.platform.partition("/")
        diff_ids = [layer.diff_id for layer in self.layers[:stop]]
        document = {
            "architecture": architecture,
            "os": system,
            "config": {"Labels": {PART_LABEL: self.name}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        return msgspec.json.encode(document, order="deterministic")


def _member(place: int, layer: Layer) -> str:
    return f"{place:02d}-{layer.name}/layer.tar"


def plan_image(lock: EnvLock, tree: Path, base: BaseImage) -> ImagePlan:
    """The image of a locked environment whose tree lies at `tree`."""
    return ImagePlan(
        name=lock.name,
        lock_digest=lock.digest,
        platform=lock.platform,
        epoch=lock.source_date_epoch,
        description=f"edgekiln environment {lock.name}: Python {lock.python} on {base.description}",
        layers=(*base.layers, *tree_layers(tree, lock.source_date_epoch)),
        drift=lock.drift,
    )


def short_digest(digest: str) -> str:
    """The first 12 hex digits: as much of a digest as a tag or a table shows."""
    return digest.removeprefix("sha256:")[:12]


def _rfc3339(epoch: int) -> str:
    return datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
