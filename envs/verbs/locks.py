"""`lock`."""

from __future__ import annotations

import datetime as dt

from envs.cli import print_json
from envs.display import Terminal
from envs.errors import WrongUse


def lock(env: str, newest: str, check: bool, as_json: bool) -> int:
    """Make or check a lock."""
    from envs.errors import LockError
    from envs.lock import lock_path, read_lock, write_lock
    from envs.resolve import describe, make_lock
    from envs.spec import load_spec

    terminal = Terminal()
    spec = load_spec(env)
    if check:
        digest = read_lock(env).digest
        print_json({"env": env, "lock_digest": digest}) if as_json else terminal.say(f"{env}: up to date, {digest}")
        return 0
    try:
        day = dt.date.fromisoformat(newest) if newest else dt.datetime.now(dt.timezone.utc).date()
    except ValueError as error:
        raise WrongUse(f"--newest {newest!r} is no day", "write it as in 2026-11-01") from error
    try:
        before = read_lock(env)
    except LockError:
        before = None
    made = make_lock(spec, day, terminal)
    moved = describe(before, made)
    path = write_lock(made)
    if as_json:
        print_json({"env": env, "lock_digest": made.digest, "path": str(path), "moved": moved})
    else:
        for line in moved:
            terminal.say(f"  {line}")
        terminal.say(f"wrote {lock_path(env).name}, {made.digest}")
    return 0
