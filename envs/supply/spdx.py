"""Components -> SPDX 2.3 JSON, the same bytes for the same lock."""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Any

import msgspec

from envs.image import short_digest
from envs.lock import EnvLock
from envs.supply.components import Component, Kind, components, timestamp

MEDIA_TYPE = "application/spdx+json"
ROOT = "SPDXRef-environment"
PURPOSES: dict[Kind, str] = {
    "deb": "LIBRARY",
    "wheel": "LIBRARY",
    "conda": "LIBRARY",
    "interpreter": "APPLICATION",
    "image": "CONTAINER",
    "archive": "CONTAINER",
    "weights": "FILE",
    "data": "FILE",
}


def encode(lock: EnvLock) -> bytes:
    """The lock's bill of materials. Licences are NOASSERTION: a lock does not hold them."""
    found = components(lock)
    ids = {one.key: _id(one) for one in found}
    root = {
        "SPDXID": ROOT,
        "name": f"edgekiln/{lock.name}",
        "versionInfo": short_digest(lock.digest),
        "primaryPackagePurpose": "CONTAINER",
        "comment": "; ".join((f"lock {lock.digest}", f"platform {lock.platform}", *map("drift {}".format, lock.drift))),
        **_UNKNOWN,
    }
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"edgekiln-{lock.name}",
        "documentNamespace": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'edgekiln:{lock.digest}/spdx')}",
        "creationInfo": {"created": timestamp(lock), "creators": ["Tool: edgekiln"]},
        "packages": [root, *(_package(one, ids[one.key]) for one in found)],
        "relationships": [
            _relation("SPDXRef-DOCUMENT", "DESCRIBES", ROOT),
            *(_relates(one, ids) for one in found),
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document, order="deterministic"), indent=2) + b"\n"


_UNKNOWN: dict[str, Any] = {
    "downloadLocation": "NOASSERTION",  # where bytes come from is configuration; the purl names them
    "filesAnalyzed": False,
    "licenseConcluded": "NOASSERTION",
    "licenseDeclared": "NOASSERTION",
    "copyrightText": "NOASSERTION",
}


def _package(one: Component, identifier: str) -> dict[str, Any]:
    references = [("PACKAGE-MANAGER", "purl", one.purl)] + ([("SECURITY", "cpe23Type", one.cpe)] if one.cpe else [])
    facts = (f"use {one.use}", f"bytes {one.bytes}" if one.bytes else "", *map(" ".join, one.facts))
    return {
        "SPDXID": identifier,
        "name": one.name,
        "versionInfo": one.version,
        "primaryPackagePurpose": PURPOSES[one.kind],
        "comment": "; ".join(filter(None, facts)),
        "externalRefs": [
            {"referenceCategory": category, "referenceType": kind, "referenceLocator": locator}
            for category, kind, locator in references
        ],
        **({"packageFileName": one.file} if one.file else {}),
        **({"checksums": [{"algorithm": "SHA256", "checksumValue": one.sha256}]} if one.sha256 else {}),
        **_UNKNOWN,
    }


def _relates(one: Component, ids: dict[str, str]) -> dict[str, str]:
    if one.parent:
        return _relation(ids[one.parent], "CONTAINS", ids[one.key])
    match one.use:
        case "image":
            return _relation(ROOT, "CONTAINS", ids[one.key])
        case "alternative":
            return _relation(ids[one.key], "OPTIONAL_COMPONENT_OF", ROOT)
        case "test":
            return _relation(ids[one.key], "TEST_DEPENDENCY_OF", ROOT)
        case "data":
            return _relation(ids[one.key], "RUNTIME_DEPENDENCY_OF", ROOT)


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _id(one: Component) -> str:
    """Readable, and unique by a few digits of the key's hash."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", one.name)
    return f"SPDXRef-{one.kind}-{readable}-{hashlib.sha256(one.key.encode()).hexdigest()[:10]}"
