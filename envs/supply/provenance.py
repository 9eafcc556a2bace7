"""An image and its lock -> SLSA v1 provenance in an in-toto statement: who made it, how, and out of what.

No clock and no random id: the same lock, tool and pipelines give the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from envs.errors import CheckFailed
from envs.files import sha256_file
from envs.image import ImagePlan
from envs.lock import EnvLock, LockedInterpreter
from envs.paths import ROOT
from envs.supply.components import Component, components

MEDIA_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:edgekiln:image-from-lock:v1"
BUILDER_VARIABLE = "EDGEKILN_BUILDER_ID"
DEFAULT_BUILDER = "edgekiln/local"


class Byproduct(msgspec.Struct, frozen=True):
    """A document that is made with the image; the statement vouches for its bytes."""

    name: str
    media_type: str
    sha256: str


class Statement(msgspec.Struct, frozen=True):
    """What a check of a written statement needs of it."""

    lock: str  # sha256:...
    byproducts: tuple[Byproduct, ...]


class Builder(msgspec.Struct, frozen=True, kw_only=True):
    """What makes images here: its id, and the digests (sha256:...) of the tool and of the pipelines."""

    id: str
    tool: str
    pipelines: str


def this_builder() -> Builder:
    """The builder of this checkout; EDGEKILN_BUILDER_ID names another id."""
    from envs.workspace import pipeline_digest

    name = os.environ.get(BUILDER_VARIABLE) or DEFAULT_BUILDER
    return Builder(id=name, tool=tool_digest(), pipelines=pipeline_digest())


def tool_digest(root: Path = ROOT) -> str:
    """sha256 over the code that makes images and over what it was locked to run with; specs and locks apart."""
    files = [root / "tasks.py", root / "envs" / "locks" / "tool.txt", *(root / "envs").rglob("*.py")]
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.relative_to(root).as_posix()):
        digest.update(f"{file.relative_to(root).as_posix()} {sha256_file(file)}\n".encode())
    return "sha256:" + digest.hexdigest()


def encode(
    lock: EnvLock,
    plan: ImagePlan,
    builder: Builder,
    interpreter: LockedInterpreter | None = None,
    byproducts: Sequence[Byproduct] = (),
) -> bytes:
    """The statement. `interpreter` is the one of the lock's sources that the image holds, where the caller knows.

    BuildError while a layer of the image was never streamed: its digest is not known.
    """
    name = f"edgekiln/{lock.name}"
    invocation = uuid.uuid5(uuid.NAMESPACE_URL, f"{lock.digest} {plan.manifest_digest}")
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": _digest(plan.manifest_digest)},
            {"name": f"{name}#config", "digest": _digest(plan.image_id)},
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"env": lock.name, "lock": lock.digest, "platform": lock.platform},
                "internalParameters": {
                    "tool": builder.tool,
                    "pipelines": builder.pipelines,
                    "sourceDateEpoch": lock.source_date_epoch,
                    **({"interpreter": msgspec.to_builtins(interpreter)} if interpreter else {}),
                    **({"drift": lock.drift} if lock.drift else {}),
                },
                "resolvedDependencies": [_dependency(one) for one in _used(components(lock), interpreter)],
            },
            "runDetails": {
                "builder": {"id": builder.id},
                "metadata": {"invocationId": f"urn:uuid:{invocation}"},
                "byproducts": [
                    {"name": one.name, "mediaType": one.media_type, "digest": {"sha256": one.sha256}}
                    for one in byproducts
                ],
            },
        },
    }
    return msgspec.json.format(msgspec.json.encode(statement, order="deterministic"), indent=2) + b"\n"


def _used(found: Sequence[Component], interpreter: LockedInterpreter | None) -> Iterator[Component]:
    """The components, of the interpreter's sources only the one that was used where that is known."""
    for one in found:
        if one.kind != "interpreter" or interpreter is None:
            yield one
        elif one.sha256 == interpreter.sha256:
            yield msgspec.structs.replace(one, use="image")


def _dependency(one: Component) -> dict[str, Any]:
    """A resource descriptor; what only has the first digits of a hash says so in its annotations."""
    annotations = {"use": one.use, **({"bytes": one.bytes} if one.bytes else {}), **dict(one.facts)}
    return {
        "name": one.name,
        "uri": one.purl,
        **({"digest": {"sha256": one.sha256}} if one.sha256 else {}),
        "annotations": annotations,
    }


def _digest(text: str) -> dict[str, str]:
    algorithm, _, digits = text.partition(":")
    return {algorithm: digits}


def read(content: bytes) -> Statement:
    """The lock and the byproducts of a statement. CheckFailed for anything that `encode` does not write."""
    try:
        predicate = msgspec.json.decode(content)["predicate"]
        return Statement(
            lock=str(predicate["buildDefinition"]["externalParameters"]["lock"]),
            byproducts=tuple(
                Byproduct(one["name"], one["mediaType"], one["digest"]["sha256"])
                for one in predicate["runDetails"]["byproducts"]
            ),
        )
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise CheckFailed("the provenance is not a statement that edgekiln writes", "make it again") from error
