"""Whether every lock of the checkout is there, unedited, and its spec's."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from envs.errors import EdgekilnError
from envs.lock import locked_platforms, read_lock
from envs.spec import load_spec, spec_names


class LockState(msgspec.Struct, frozen=True, kw_only=True):
    """One lock as it stands; `exit_code` is that of its problem, or 0."""

    env: str
    platform: str = ""
    state: str  # up to date, not locked (and meant to be so), unusable
    lock_digest: str = ""
    problem: str = ""
    exit_code: int = 0


def lock_states() -> Iterator[LockState]:
    """All environments by name, each with every platform that it has a lock for."""
    for env in spec_names():
        try:
            platforms = locked_platforms(env)
            if not platforms and not load_spec(env).locked:
                yield LockState(env=env, state="not locked")
                continue
        except EdgekilnError as error:
            yield _unusable(env, "", error)
            continue
        for platform in platforms or [""]:
            try:
                digest = read_lock(env, platform).digest
                yield LockState(env=env, platform=platform, state="up to date", lock_digest=digest)
            except EdgekilnError as error:
                yield _unusable(env, platform, error)


def _unusable(env: str, platform: str, error: EdgekilnError) -> LockState:
    return LockState(env=env, platform=platform, state="unusable", problem=str(error), exit_code=error.exit_code)
