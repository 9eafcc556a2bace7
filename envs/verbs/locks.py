"""`lock`."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from envs.cli import print_json
from envs.display import Terminal
from envs.errors import LockError, WrongUse

if TYPE_CHECKING:
    from envs.lock import EnvLock
    from envs.lock_diff import Touched

ALL = "all"


def lock(env: str, newest: str, only: str, platform: str, weights: str, write: bool, as_json: bool) -> int:
    """Make a lock, whole or one part of it, and say what moved; without `write` nothing is written."""
    from envs.lock import read_lock, write_lock
    from envs.lock_diff import moves, touched, unpacked_bytes
    from envs.resolve import make_lock, refresh_lock
    from envs.resolve_data import hash_weights
    from envs.spec import load_spec

    terminal = Terminal()
    if only and only != "packages" and newest:
        raise WrongUse(f"--newest says nothing about {only}", "only packages are chosen by a day: leave it out")
    day = _day(newest)
    spec = load_spec(env)
    before = _before(env, platform)
    if only:
        made = refresh_lock(spec, before or read_lock(env, platform), only, day, terminal)
    else:
        made = make_lock(spec, day, terminal, platform=platform, before=before)
    if weights:
        made = hash_weights(made, weights.split(","), terminal)
    moved = moves(before, made)
    image = touched(before, made, unpacked_bytes) if before and before.digest != made.digest else None
    path = write_lock(made) if write else None
    if as_json:
        facts = {"env": env, "platform": made.platform, "lock_digest": made.digest, "path": path and str(path)}
        print_json({**facts, "new": before is None, "moved": moved, "image": image})
        return 0
    for line in [str(one) for one in moved] if before else ["new lock"]:
        terminal.say(f"  {line}")
    if before and not moved:
        terminal.say("  nothing moved")
    if image:
        terminal.say(f"  image {image.tag_before} -> {image.tag_after}, {_what(image)}")
    terminal.say(f"wrote {path.name}, {made.digest}" if path else f"nothing was written; it would be {made.digest}")
    return 0


def check(env: str, platform: str, as_json: bool) -> int:
    """Whether the lock is there and its spec's; for `all` every environment and platform that has one."""
    from envs.lock import read_lock
    from envs.lock_check import lock_states

    terminal = Terminal()
    if env != ALL:
        digest = read_lock(env, platform).digest
        print_json({"env": env, "lock_digest": digest}) if as_json else terminal.say(f"{env}: up to date, {digest}")
        return 0
    if platform:
        raise WrongUse("--env all checks every platform that has a lock", "leave out --platform")
    states = list(lock_states())
    if as_json:
        print_json(states)
    else:
        for one in states:
            said = one.problem or f"{one.state} {one.lock_digest}"
            terminal.say(f"{one.env} {one.platform}".strip() + f": {said}".rstrip())
    return max((one.exit_code for one in states), default=0)


def _day(newest: str) -> dt.date:
    try:
        return dt.date.fromisoformat(newest) if newest else dt.datetime.now(dt.timezone.utc).date()
    except ValueError as error:
        raise WrongUse(f"--newest {newest!r} is no day", "write it as in 2026-11-01") from error


def _before(env: str, platform: str) -> EnvLock | None:
    """The lock as it stands, however old; None where there is none that can be read."""
    from envs.lock import lock_path, read_lock_file

    try:
        return read_lock_file(lock_path(env, platform))
    except LockError:
        return None


def _what(image: Touched) -> str:
    """The layers and mounts that change, in words."""
    layers = f"other layers: {', '.join(image.layers)}" if image.layers else "the same layers"
    return f"{layers}; other {' and '.join(image.mounted)}" if image.mounted else layers
