"""What a container may be called, which one a person means, and what both engines say of a wrong state."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Sequence

import msgspec

from envs.engines.base import Container, Task
from envs.errors import WrongUse
from envs.files import exclusive
from envs.paths import cache_root


def bash(task: Task) -> Task:
    """The task as a bash whose prompt names the environment; off a terminal it reads commands from stdin."""
    words = ("bash", "--norc", "--noprofile", *(("-i",) if os.isatty(0) and os.isatty(1) else ()))
    prompt = {"PS1": f"({task.environment.name}) \\w\\$ "}
    return msgspec.structs.replace(task, command=words, variables={**task.variables, **prompt})


def of(task: Task) -> str:
    """The name of the task's kept container. WrongUse where it can't be one."""
    name = task.name or f"edgekiln-{task.environment.name}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]+", name):
        raise WrongUse(f"--name {name!r} can't be a name", "use letters, digits, dots, dashes and underscores")
    return name


def alone(engine: str, name: str) -> contextlib.AbstractContextManager[None]:
    """Whoever makes or changes that container waits for the one who does so now."""
    return exclusive(cache_root() / "locks" / f"{engine}-{name}", lambda: None)


def find(asked: str, containers: Sequence[Container]) -> Container:
    """The one container meant: by full name or id, or by a unique prefix of either.

    WrongUse where none is, or where several are.
    """
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
    return WrongUse(f"{one.name} is not running", f"start it: `invoke start --env {one.env} --name {one.name}`")


def refuse_other_lock(one: Container) -> WrongUse:
    """What `start` says where the name is taken by a container of another lock or image."""
    digest = one.lock_digest.removeprefix("sha256:")[:12]
    return WrongUse(
        f"{one.name} was made from another lock ({one.env}, {digest}) or image",
        f"remove it first: `invoke rm --name {one.name} --force`",
    )
