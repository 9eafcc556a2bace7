"""Components -> CycloneDX 1.6 JSON, the same bytes for the same lock."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from envs.image import short_digest
from envs.lock import EnvLock
from envs.supply.components import Component, Kind, Use, components, timestamp

MEDIA_TYPE = "application/vnd.cyclonedx+json"
TYPES: dict[Kind, str] = {
    "deb": "library",
    "wheel": "library",
    "conda": "library",
    "interpreter": "application",
    "image": "container",
    "archive": "container",
    "weights": "machine-learning-model",
    "data": "data",
}
SCOPES: dict[Use, str] = {"image": "required", "alternative": "optional", "test": "excluded", "data": "optional"}
OPAQUE = ("image", "archive")  # what is inside them the lock can't list


def encode(lock: EnvLock) -> bytes:
    """The lock's bill of materials."""
    found = components(lock)
    tops = [one for one in found if not one.parent]
    root = f"edgekiln:{lock.digest}"
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{root}/cyclonedx')}",
        "version": 1,
        "metadata": {
            "timestamp": timestamp(lock),
            "tools": {"components": [{"type": "application", "name": "edgekiln"}]},
            "component": {
                "type": "container",
                "bom-ref": root,
                "name": f"edgekiln/{lock.name}",
                "version": short_digest(lock.digest),
                "properties": _properties(
                    ("lock-digest", lock.digest),
                    ("platform", lock.platform),
                    *(("drift", line) for line in lock.drift),
                ),
            },
        },
        "components": [_component(one, [part for part in found if part.parent == one.key]) for one in tops],
        "dependencies": [
            {"ref": root, "dependsOn": [one.key for one in tops if one.use in ("image", "data")]},
            *({"ref": one.key} for one in tops),
        ],
        "compositions": [{"aggregate": "incomplete", "assemblies": [one.key]} for one in tops if one.kind in OPAQUE],
    }
    return msgspec.json.format(msgspec.json.encode(document, order="deterministic"), indent=2) + b"\n"


def _component(one: Component, parts: list[Component]) -> dict[str, Any]:
    optional: dict[str, Any] = {
        "hashes": [{"alg": "SHA-256", "content": one.sha256}] if one.sha256 else [],
        "cpe": one.cpe,
        "components": [_component(part, []) for part in parts],
    }
    return {
        "type": TYPES[one.kind],
        "bom-ref": one.key,
        "name": one.name,
        "version": one.version,
        "scope": SCOPES[one.use],
        "purl": one.purl,
        "properties": _properties(
            ("use", one.use),
            ("file", one.file),
            ("bytes", str(one.bytes) if one.bytes else ""),
            *one.facts,
        ),
        **{key: value for key, value in optional.items() if value},
    }


def _properties(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"name": f"edgekiln:{name}", "value": value} for name, value in pairs if value]
