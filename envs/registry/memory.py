"""What is remembered of registries between two runs: where a blob was pushed, and uploads that broke off.

A cache like any other: whatever is in it is asked of the registry again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec

from envs.files import write_atomic
from envs.paths import cache_root

MOST_BLOBS = 500  # of one repository
MOST_SOURCES = 2  # repositories that are asked to lend a blob


def note_pushed(host: str, repository: str, digests: Iterable[str]) -> None:
    """These blobs are in that repository."""
    new = list(dict.fromkeys(digests))
    old = [one for one in _read(_pushed(host, repository)) if one not in new]
    write_atomic(_pushed(host, repository), msgspec.json.encode((new + old)[:MOST_BLOBS]))


def lenders(host: str, repository: str, digest: str) -> list[str]:
    """Other repositories of the registry that have the blob, as far as this machine pushed it there."""
    folder = _pushed(host, repository).parent
    others = (path for path in sorted(folder.glob("*.json")) if path != _pushed(host, repository))
    return [unquote(path.stem) for path in others if digest in _read(path)][:MOST_SOURCES]


def note_upload(url: str, location: str) -> None:
    """Where an upload that broke off goes on; `url` is the blob's own address."""
    path = _upload(url)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # who knows the address may go on with it
    write_atomic(path, location.encode())


def upload_of(url: str) -> str:
    """Where it goes on, "" where none is known."""
    try:
        return _upload(url).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def forget_upload(url: str) -> None:
    _upload(url).unlink(missing_ok=True)


def _upload(url: str) -> Path:
    return cache_root() / "registry" / "uploads" / hashlib.sha256(url.encode()).hexdigest()


def _pushed(host: str, repository: str) -> Path:
    return cache_root() / "registry" / "pushed" / quote(host, safe="") / f"{quote(repository, safe='')}.json"


def _read(path: Path) -> list[str]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[str])
    except (OSError, msgspec.DecodeError):
        return []
