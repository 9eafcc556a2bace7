"""`build`, `images`, `envs`."""

from __future__ import annotations

from pathlib import Path

from envs.cli import print_json
from envs.display import Terminal, mib, print_rows


def build_environment(env: str, engine: str, as_json: bool) -> int:
    """Build into the engine."""
    from envs.build import build
    from envs.engines.choose import choose

    terminal = Terminal()
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


def write_context(env: str, folder: str) -> int:
    """The same image as a context for plain `docker build`."""
    from envs import image_context
    from envs.build import image_plan
    from envs.lock import read_lock
    from envs.sources import uv
    from envs.tree import ensure_tree

    terminal = Terminal()
    locked = read_lock(env)
    tree = ensure_tree(locked, terminal)
    image_context.write_context(locked, image_plan(locked, tree, terminal), tree, uv(), Path(folder))
    terminal.say(f"wrote {folder}: DOCKER_BUILDKIT=1 docker build -t edgekiln/{env}:docker {folder}")
    return 0


def write_image(env: str, platform: str, output: str, as_json: bool) -> int:
    """The image as files with its documents beside it, for any machine's platform; no engine is asked."""
    from envs.build import image_plan
    from envs.image_oci import parse_output, write_output
    from envs.lock import read_lock
    from envs.supply.documents import documents, write_documents
    from envs.tree import ensure_tree, read_record

    terminal = Terminal()
    target = parse_output(output)
    locked = read_lock(env, platform)
    tree = ensure_tree(locked, terminal)
    plan = image_plan(locked, tree, terminal)
    write_output(plan, target, terminal)
    beside = target.path.with_name(f"{target.path.name}.documents")
    write_documents(documents(locked, plan, read_record(tree).interpreter), beside)
    facts = {
        "env": env,
        "platform": plan.platform,
        "lock_digest": plan.lock_digest,
        "image_id": plan.image_id,
        "manifest_digest": plan.manifest_digest,
        "layers": [{"name": layer.name, "digest": layer.diff_id, "bytes": layer.bytes} for layer in plan.layers],
        "output": output,
        "documents": str(beside),
    }
    if as_json:
        print_json(facts)
    else:
        print_rows([(key, str(value)) for key, value in facts.items() if key != "layers"], ("", ""))
        print_rows([(one.name, str(one.diff_id), mib(one.bytes)) for one in plan.layers], ("LAYER", "DIGEST", "SIZE"))
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
    from envs.lock import lock_command, lock_path, read_lock
    from envs.spec import load_spec, spec_names
    from envs.tree import existing_tree

    listed = []
    for name in spec_names():
        try:
            spec = load_spec(name)
            if not lock_path(name).exists():
                missing = f"`{lock_command(name)}` makes its lock"
                listed.append({"env": name, "state": "not locked", "python": "", "summary": "", "problem": missing})
                continue
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
