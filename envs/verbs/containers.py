"""`shell`, `exec`, `start`, `stop`, `restart`, `rm`, `ps`, `logs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.cli import print_json
from envs.display import Terminal, print_rows
from envs.errors import WrongUse

if TYPE_CHECKING:
    from envs.engines.base import Engine, Task


def _task(
    env: str, engine: str, terminal: Terminal, command: tuple[str, ...], name: str | None = None
) -> tuple[Engine, Task]:
    """The chosen engine, and a command for it that sees what every container of the environment sees."""
    from envs.build import build
    from envs.data import ensure_data
    from envs.engines.base import Task
    from envs.engines.choose import choose
    from envs.mounts import import_path, standard_mounts

    chosen = choose(engine)
    terminal.say(chosen.why)
    built = build(env, chosen, terminal)
    mounts = standard_mounts(ensure_data(built.lock, terminal))
    task = Task(
        environment=built.environment,
        command=command,
        mounts=mounts,
        workdir=chosen.engine.view(mounts[0]),
        variables=import_path(chosen.engine, terminal),
        name=name,
    )
    return chosen.engine, task


def _default_name(env: str) -> str:
    """What `start` calls the environment's own container."""
    return f"edgekiln-{env}"


def shell(env: str, engine: str) -> int:
    """An interactive bash."""
    where, task = _task(env, engine, Terminal(), ("bash",))
    return where.shell(task)


def start(env: str, engine: str, name: str, as_json: bool) -> int:
    """Create or start a kept container."""
    terminal = Terminal()
    where, task = _task(env, engine, terminal, ("sleep", "infinity"), name or _default_name(env))
    container = where.start(task)
    print_json(container) if as_json else terminal.say(f"{container.name} is {container.state}")
    return 0


def execute(env: str, engine: str, name: str, command: list[str]) -> int:
    """A command in the kept container, or in one of its own where none is kept."""
    from envs.engines.choose import choose
    from envs.mounts import import_path

    if not command:
        raise WrongUse("exec has no command", "write it after two dashes: invoke exec -- python script.py")
    terminal = Terminal()
    where = choose(engine).engine
    container = name or _default_name(env)
    if name or any(one.name == container and one.state == "running" for one in where.containers()):
        return where.exec(container, command, variables=import_path(where, terminal), workdir=None)
    where, task = _task(env, engine, terminal, tuple(command))
    terminal.say(f"{container} is not running: this command gets a container of its own (`invoke start` keeps one)")
    return where.attach(task)


def container(action: str, env: str, engine: str, name: str, **more: bool) -> int:
    """stop, restart or remove one."""
    from envs.engines.choose import choose

    target = name or _default_name(env)
    getattr(choose(engine).engine, action)(target, **more)
    words = {"stop": "stopped", "restart": "restarted", "remove": "removed"}
    Terminal().say(f"{target} {words[action]}")
    return 0


def containers(engine: str, as_json: bool) -> int:
    """This project's containers."""
    from envs.engines.choose import choose

    listed = choose(engine).engine.containers()
    if as_json:
        print_json(listed)
    else:
        rows = [(c.name, c.env, c.state, c.engine, c.created, c.command) for c in listed]
        print_rows(rows, ("NAME", "ENV", "STATE", "ENGINE", "CREATED", "COMMAND"))
    return 0


def logs(env: str, engine: str, name: str, follow: bool) -> int:
    """What a container's main process wrote."""
    import sys

    from envs.engines.choose import choose

    def sink(block: bytes) -> None:
        sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()

    choose(engine).engine.logs(name or _default_name(env), follow=follow, sink=sink)
    return 0
