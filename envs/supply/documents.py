"""The documents that go with an image: next to its files, and as referrers in a registry."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from envs.errors import CheckFailed, WorkspaceError, WrongUse
from envs.files import explain_os_error, sha256_file, write_atomic
from envs.image import ImagePlan
from envs.lock import EnvLock, LockedInterpreter
from envs.supply import cyclonedx, provenance, sign, spdx
from envs.supply.provenance import Builder, Byproduct, this_builder

BILLS = {"cyclonedx": ("cdx", cyclonedx), "spdx": ("spdx", spdx)}
SIGNATURE_TYPE = "application/vnd.edgekiln.minisign"


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A document as bytes; `artifact_type` is what a registry lists it under, among an image's referrers."""

    name: str  # its file name
    media_type: str
    artifact_type: str
    content: bytes

    @property
    def digest(self) -> str:
        """sha256:... of the content."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"


def bill(lock: EnvLock, kind: str) -> Document:
    """A bill of materials of a kind that BILLS has; it follows from the lock alone."""
    suffix, encoder = BILLS[kind]
    return Document(
        name=f"{lock.name}.{suffix}.json",
        media_type=encoder.MEDIA_TYPE,
        artifact_type=encoder.MEDIA_TYPE,
        content=encoder.encode(lock),
    )


def documents(
    lock: EnvLock,
    plan: ImagePlan,
    interpreter: LockedInterpreter | None = None,
    builder: Builder | None = None,
) -> tuple[Document, ...]:
    """Both bills of materials, and the provenance, which names the bills' digests.

    `interpreter` is the one the image holds (`read_record(tree).interpreter`). BuildError while a layer's digest is
    not known.
    """
    bills = (bill(lock, "cyclonedx"), bill(lock, "spdx"))
    byproducts = [Byproduct(one.name, one.media_type, one.digest.removeprefix("sha256:")) for one in bills]
    statement = provenance.encode(lock, plan, builder or this_builder(), interpreter, byproducts)
    name = f"{lock.name}.provenance.json"
    kind = provenance.MEDIA_TYPE
    return (*bills, Document(name=name, media_type=kind, artifact_type=kind, content=statement))


def signature(document: Document, key: Path) -> Document:
    """The detached signature of a document, by a minisign key. Errors as in sign.sign."""
    content = sign.sign(document.content, key, f"edgekiln {document.name} {document.digest}")
    return Document(
        name=f"{document.name}.minisig",
        media_type=SIGNATURE_TYPE,
        artifact_type=SIGNATURE_TYPE,
        content=content,
    )


def write_documents(found: Sequence[Document], folder: Path) -> list[Path]:
    """Write each under its name, whole or not at all; their paths. WorkspaceError where the folder can't be written."""
    try:
        for one in found:
            write_atomic(folder / one.name, one.content)
    except OSError as error:
        raise explain_os_error(error) or WorkspaceError(f"{folder}: {error.strerror}", "name another folder") from error
    return [folder / one.name for one in found]


def check_written(folder: Path, lock: EnvLock, public_key: Path) -> None:
    """Whether the documents in a folder are the signed ones of this lock.

    CheckFailed where the signature does not hold, where the statement is of another lock, or where a bill that it
    names was changed; WrongUse where the statement or its signature is not there.
    """
    path = folder / f"{lock.name}.provenance.json"
    try:
        content, signed = path.read_bytes(), path.with_name(f"{path.name}.minisig").read_bytes()
    except OSError as error:
        remedy = "write them with `invoke sbom --output DIR --sign KEY`"
        raise WrongUse(f"{error.filename}: {error.strerror}", remedy) from error
    sign.verify(content, signed, public_key)
    statement = provenance.read(content)
    if statement.lock != lock.digest:
        raise CheckFailed(f"{path}: is of lock {statement.lock}, not of {lock.digest}", "make the documents again")
    for one in statement.byproducts:
        beside = folder / one.name
        if beside.exists() and sha256_file(beside) != one.sha256:
            raise CheckFailed(f"{beside}: not the bytes that the signed provenance names", "make the documents again")
