"""Documents that belong to an image, as OCI referrers: manifests whose `subject` is the image's.

A registry that lists referrers itself says so (`OCI-Subject`); for one that does not, the list is an index under
the tag `sha256-<hex>`, as the distribution specification has it.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from envs.errors import RegistryError
from envs.image import MANIFEST_TYPE
from envs.progress import SilentBar
from envs.registry.client import INDEXES, Client, Descriptor, Manifest, digest_of
from envs.registry.upload import bytes_blob, push_blob

EMPTY, EMPTY_TYPE = b"{}", "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"
TRIES = 4  # another writer may replace the list between our reading and writing it


class Attachable(Protocol):
    """A document as bytes, and what it is."""

    @property
    def name(self) -> str: ...
    @property
    def media_type(self) -> str: ...
    @property
    def artifact_type(self) -> str: ...
    @property
    def content(self) -> bytes: ...


def attach(client: Client, subject: Descriptor, document: Attachable) -> Descriptor:
    """The document is in the repository and listed as a referrer of `subject`; its manifest's descriptor.

    The same document gives the same manifest: attaching it again changes nothing.
    """
    for content in (EMPTY, document.content):
        push_blob(client, bytes_blob(content, document.name), SilentBar())
    manifest = _manifest(subject, document)
    entry = Descriptor(
        media_type=MANIFEST_TYPE,
        digest=digest_of(manifest),
        size=len(manifest),
        artifact_type=document.artifact_type,
        annotations={TITLE: document.name},
    )
    response = client.put_manifest(entry.digest, MANIFEST_TYPE, manifest)
    if "OCI-Subject" not in response.headers:
        _list_by_tag(client, subject.digest, entry)
    return entry


def referrers(client: Client, digest: str) -> tuple[Descriptor, ...]:
    """What refers to that manifest: as the registry lists it, else as the tag does."""
    response = client.send("GET", client.url(f"referrers/{digest}"), stream=True)
    response.close()
    if response.status_code == 200:
        content = client.document(f"referrers/{digest}", "", INDEXES[0])
        return msgspec.json.decode(content, type=Manifest).manifests
    return _listed(client, digest)


def content_of(client: Client, entry: Descriptor) -> bytes:
    """The document behind a referrer. RegistryError where its manifest names not exactly one."""
    _, manifest = client.manifest(entry.digest)
    if len(manifest.layers) != 1:
        raise RegistryError(f"{client.name}: the referrer {entry.digest[:19]} holds {len(manifest.layers)} documents")
    digest = manifest.layers[0].digest
    return client.document(f"blobs/{digest}", digest, "*/*")


def _manifest(subject: Descriptor, document: Attachable) -> bytes:
    content = Descriptor(
        media_type=document.media_type,
        digest=digest_of(document.content),
        size=len(document.content),
        annotations={TITLE: document.name},
    )
    fields = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": document.artifact_type,
        "config": Descriptor(media_type=EMPTY_TYPE, digest=digest_of(EMPTY), size=len(EMPTY)),
        "layers": [content],
        "subject": subject,
        "annotations": {TITLE: document.name},
    }
    return msgspec.json.encode(fields, order="deterministic")


def _list_by_tag(client: Client, digest: str, entry: Descriptor) -> None:
    for _ in range(TRIES):
        listed = _listed(client, digest)
        if any(one.digest == entry.digest for one in listed):
            return
        index = {"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": [*listed, entry]}
        content = msgspec.json.encode(index, order="deterministic")
        client.put_manifest(_tag(digest), INDEXES[0], content, read_back=False)  # the next turn reads
    raise RegistryError(f"{client.name}: the list of documents changes while it is written", "push again")


def _listed(client: Client, digest: str) -> tuple[Descriptor, ...]:
    response = client.send("HEAD", client.url(f"manifests/{_tag(digest)}"), headers={"Accept": INDEXES[0]})
    if response.status_code == 404:
        return ()
    return client.manifest(_tag(digest))[1].manifests


def _tag(digest: str) -> str:
    return digest.replace(":", "-")
