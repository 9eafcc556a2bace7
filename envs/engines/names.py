"""Which container a person means: a full name, or a unique prefix of name or id."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from envs.engines.base import Container
from envs.errors import WrongUse


def find(asked: str, containers: Sequence[Container]) -> Container:
    """The one container meant. WrongUse where none is, or where several are."""
    for one in containers:
        if asked in (one.name, one.id):
            return one
    meant = [one for one in containers if asked and (one.name.startswith(asked) or one.id.startswith(asked))]
    if len(meant) == 1:
        return meant[0]
    if meant:
        names = ", ".join(sorted(one.name for one in meant))
        raise WrongUse(f"{asked!r} could be {names}", "write more of the name")
    near = difflib.get_close_matches(asked, [one.name for one in containers], n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else "`invoke ps` lists them, `invoke start` makes one"
    raise WrongUse(f"no container is called {asked!r}", hint)


def refuse_running(one: Container) -> WrongUse:
    """What `rm` says of a running container."""
    return WrongUse(f"{one.name} is running", f"stop it first (`invoke stop --name {one.name}`), or use --force")


def refuse_stopped(one: Container) -> WrongUse:
    """What `exec` says of a container that is not running."""
    return WrongUse(f"{one.name} is not running", f"start it: `invoke start --env {one.env}`")


def refuse_other_lock(one: Container) -> WrongUse:
    """What `start` says where the name is taken by a container of another lock or image."""
    return WrongUse(
        f"{one.name} was made from another lock ({one.lock_digest[:19]}) or image",
        f"remove it first: `invoke rm --name {one.name} --force`",
    )
