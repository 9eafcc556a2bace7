"""An image into a registry, from its plan: an engine would write the manifest anew, and its digest would change."""

from __future__ import annotations

import msgspec

from envs.errors import WrongUse
from envs.image import MANIFEST_TYPE, ImagePlan
from envs.layers import Layer
from envs.progress import Bar, Progress
from envs.registry.client import Client, Descriptor
from envs.registry.memory import note_pushed
from envs.registry.reference import Reference
from envs.registry.upload import Outcome, bytes_blob, push_blob


class PushedBlob(msgspec.Struct, frozen=True):
    """A layer or the configuration, and whether it had to be sent."""

    name: str
    digest: str
    bytes: int
    outcome: Outcome


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the registry now, read back and compared."""

    reference: str  # HOST/REPOSITORY@sha256:...
    digest: str
    tag: str  # "" where none was asked for
    image_id: str
    blobs: tuple[PushedBlob, ...]

    @property
    def sent_bytes(self) -> int:
        """What went over the wire."""
        return sum(blob.bytes for blob in self.blobs if blob.outcome == "sent")


def push_image(client: Client, plan: ImagePlan, target: Reference, progress: Progress) -> Pushed:
    """Blobs first, then the manifest under its digest, last the tag: a broken push is never seen as an image.

    WrongUse where the target names a digest; RegistryError where the registry refuses or stays away.
    """
    if target.digest:
        raise WrongUse(f"{target}: a digest follows from the image", "name HOST/REPOSITORY or HOST/REPOSITORY:TAG")
    bar = progress.bar(f"pushing {plan.name} to {client.name}", plan.archive_size())
    try:
        done = [_push(client, layer, bar) for layer in plan.layers]
        config = plan.config()
        done.append(_push(client, bytes_blob(config, "config"), bar))
    finally:
        bar.close()
    manifest, digest = plan.manifest(), plan.manifest_digest
    client.put_manifest(digest, MANIFEST_TYPE, manifest)
    if target.tag:
        client.put_manifest(target.tag, MANIFEST_TYPE, manifest)
    note_pushed(client.host, client.repository, [blob.digest for blob in done])
    return Pushed(reference=target.at(digest), digest=digest, tag=target.tag, image_id=plan.image_id, blobs=tuple(done))


def _push(client: Client, blob: Layer, bar: Bar) -> PushedBlob:
    outcome = push_blob(client, blob, bar)
    return PushedBlob(blob.name, str(blob.diff_id), blob.bytes, outcome)


def subject_of(plan: ImagePlan) -> Descriptor:
    """The image as its documents point to it."""
    return Descriptor(media_type=MANIFEST_TYPE, digest=plan.manifest_digest, size=len(plan.manifest()))
