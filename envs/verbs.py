"""What the verbs of tasks.py do: each calls the wing, prints for people or machines, gives the exit code."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from envs.cli import print_json
from envs.display import Terminal, mib, print_rows, show_event
from envs.errors import WrongUse

if TYPE_CHECKING:
    from envs.engines.base import Engine, Task


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


def build_environment(env: str, engine: str, context: str, as_json: bool) -> int:
    """Build, or write a context for plain `docker build`."""
    from envs.build import build, image_plan
    from envs.engines.choose import choose

    terminal = Terminal()
    if context:
        from envs.image_context import write_context
        from envs.lock import read_lock
        from envs.sources import uv
        from envs.tree import ensure_tree

        locked = read_lock(env)
        tree = ensure_tree(locked, terminal)
        write_context(locked, image_plan(locked, tree, terminal), tree, uv(), Path(context))
        terminal.say(f"wrote {context}: DOCKER_BUILDKIT=1 docker build -t edgekiln/{env}:docker {context}")
        return 0
    chosen = choose(engine)
    terminal.say(chosen.why)
    built = build(env, chosen, terminal)
    facts = {
        "env": env,
        "engine": chosen.engine.name,
        "lock_digest": built.lock.digest,
        "image": built.environment.image,
        "image_bytes": built.image_bytes,
        "tree": str(built.environment.tree),
        "tree_bytes": built.record.size_bytes,
        "interpreter": built.record.interpreter.source,
    }
    if as_json:
        print_json(facts)
    else:
        print_rows(
            [(key, mib(value) if key.endswith("bytes") else str(value or "-")) for key, value in facts.items()],
            ("", ""),
        )
    return 0


def run(model: str, env: str, engine: str, sparsity: str, weights: str, cache: bool, as_json: bool) -> int:
    """The pipeline."""
    from envs.run import RunOptions, run_model
    from envs.run_table import print_report

    terminal = Terminal()
    options = RunOptions(model=model, env=env, engine=engine, weights=weights, sparsity=sparsity, use_cache=cache)
    report = run_model(options, terminal, lambda event: show_event(terminal.console, event))
    print_json(report) if as_json else print_report(report)
    return 0 if report.ok else 1


def _task(
    env: str, engine: str, terminal: Terminal, command: tuple[str, ...], name: str | None = None
) -> tuple[Engine, Task]:
    """The chosen engine, and a command for it that sees what every container of the environment sees."""
    from envs.build import build
    from envs.data import ensure_data
    from envs.engines.base import Task
    from envs.engines.choose import choose
    from envs.run import import_path, standard_mounts

    chosen = choose(engine)
    terminal.say(chosen.why)
    built = build(env, chosen, terminal)
    mounts = standard_mounts(ensure_data(built.lock, terminal))
    task = Task(
        environment=built.environment,
        command=command,
        mounts=mounts,
        workdir=chosen.engine.view(mounts[0]),
        variables=import_path(chosen.engine),
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
    from envs.run import import_path

    if not command:
        raise WrongUse("exec has no command", "write it after two dashes: invoke exec -- python script.py")
    where = choose(engine).engine
    container = name or _default_name(env)
    if name or any(one.name == container and one.state == "running" for one in where.containers()):
        return where.exec(container, command, variables=import_path(where), workdir=None)
    terminal = Terminal()
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


def images(engine: str, as_json: bool) -> int:
    """This project's images."""
    from envs.engines.choose import choose

    listed = choose(engine).engine.images()
    if as_json:
        print_json(listed)
    else:
        rows = [
            (i.env, ", ".join(i.tags), i.id.removeprefix("sha256:")[:12], mib(i.size_bytes), i.engine) for i in listed
        ]
        print_rows(rows, ("ENV", "TAGS", "ID", "SIZE", "ENGINE"))
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


def environments(as_json: bool) -> int:
    """The environments and their state."""
    from envs.errors import EdgekilnError
    from envs.lock import read_lock
    from envs.spec import load_spec, spec_names
    from envs.tree import existing_tree

    listed = []
    for name in spec_names():
        try:
            spec = load_spec(name)
            locked = read_lock(name)
            state = "built" if existing_tree(locked) else "locked"
            listed.append(
                {"env": name, "state": state, "python": locked.python, "summary": spec.summary, "problem": ""}
            )
        except EdgekilnError as error:
            listed.append({"env": name, "state": "unusable", "python": "", "summary": "", "problem": str(error)})
    if as_json:
        print_json(listed)
    else:
        rows = [(e["env"], e["state"], e["python"], e["summary"] or e["problem"]) for e in listed]
        print_rows(rows, ("ENV", "STATE", "PYTHON", ""))
    return 0


def models(env: str, as_json: bool) -> int:
    """The models that can be named."""
    from envs.data import PACKAGED_WEIGHTS
    from envs.lock import read_lock
    from envs.run import model_names

    names = model_names(read_lock(env))
    listed = [
        {
            "model": name,
            "weights": "in the lock's data" if name in PACKAGED_WEIGHTS else "framework's hub, else random",
        }
        for name in names
    ]
    if as_json:
        print_json(listed)
    else:
        print_rows([(m["model"], m["weights"]) for m in listed], ("MODEL", "WEIGHTS"))
    return 0


def test(env: str, engine: str, host: bool, k: str) -> int:
    """All suites, the host's first."""
    from envs.testing import run_suites

    return run_suites(env, engine, host, k, Terminal())


def lint() -> int:
    """ruff and mypy."""
    from envs.testing import run_linters

    return run_linters(Terminal())
