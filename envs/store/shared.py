"""A store that somebody else keeps: a folder laid out as our own `store/` is, only ever read.

Several users of one machine (or of one network file system) share downloads by it: EDGEKILN_STORE, or `store` in
sources.toml, names it. It is looked in after the own store and before anything is downloaded; nothing is written there.
"""

from __future__ import annotations

import functools
from pathlib import Path

from envs import sources
from envs.errors import FetchError
from envs.files import sha256_file


def shared_file(sha256: str, name: str) -> Path | None:
    """That file in the shared store, or None. FetchError where it is there under a hash that its bytes don't have."""
    folder = sources.shared_store()
    path = folder / sha256 / name if folder else None
    return path if path is not None and path.is_file() and _is_whole(path, sha256) else None


@functools.cache
def _is_whole(path: Path, sha256: str) -> bool:
    """Others may write there, so each file is read once a process before it is believed."""
    if sha256_file(path) != sha256:
        raise FetchError(
            f"{path}: the shared store holds other bytes than the name of the folder says",
            f"tell who keeps it, or go on without it (unset {sources.VARIABLES['store']})",
        )
    return True
