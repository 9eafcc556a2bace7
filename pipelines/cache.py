"""Content-addressed outputs of stages: `objects/aa/SHA256` and `keys/KEY.json`.

An object is written before the key that names it, both by rename: whenever a run is killed, what is there is whole.
Objects are read-only and checked each time they are used.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from pipelines.contract import Artifact, Fact, Status


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage left: its outputs (paths relative to the stage's folder), and what it said."""

    status: Status
    reason: str
    summary: str
    facts: dict[str, Fact]
    outputs: tuple[Artifact, ...]


def key_of(*parts: object) -> str:
    """sha256 over the parts as JSON with sorted keys."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write under a temporary name and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class Cache:
    """The cache of one workspace."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, key: str) -> Entry | None:
        """The entry of that key if every object it names is whole; a damaged object is removed."""
        try:
            entry = msgspec.json.decode(self._key(key).read_bytes(), type=Entry)
        except (OSError, msgspec.DecodeError):
            return None
        for output in entry.outputs:
            held = self.object(output.sha256)
            if not held.is_file() or sha256_file(held) != output.sha256:
                held.unlink(missing_ok=True)
                return None
        return entry

    def take(self, folder: Path) -> tuple[Artifact, ...]:
        """Move every file of a stage's folder into the cache."""
        taken = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            digest, size = sha256_file(path), path.stat().st_size
            held = self.object(digest)
            held.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(0o444)
            path.replace(held)
            taken.append(Artifact(path=path.relative_to(folder).as_posix(), sha256=digest, bytes=size))
        return tuple(taken)

    def put(self, key: str, entry: Entry) -> None:
        """Remember an entry whose objects are there."""
        write_atomic(self._key(key), msgspec.json.encode(entry))

    def lay_out(self, outputs: Sequence[Artifact], folder: Path) -> Mapping[str, Path]:
        """The outputs as files of a run: links to the objects, copies where linking is refused."""
        laid = {}
        for output in outputs:
            path = folder / output.path
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(self.object(output.sha256), path)
            except OSError:
                half = path.with_name(f".{path.name}.half")
                shutil.copy(self.object(output.sha256), half)  # with its mode: read-only
                half.replace(path)
            laid[output.path] = path
        return laid

    def object(self, sha256: str) -> Path:
        """Where that object is held."""
        return self._root / "objects" / sha256[:2] / sha256

    def _key(self, key: str) -> Path:
        return self._root / "keys" / f"{key}.json"
