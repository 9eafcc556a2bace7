"""`build`, `images`, `envs`."""

from __future__ import annotations

from pathlib import Path

from envs.cli import print_json
from envs.display import Terminal, mib, print_rows


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
