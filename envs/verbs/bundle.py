"""`bundle`."""

from __future__ import annotations

import shutil
from pathlib import Path

from envs.cli import print_json
from envs.display import Terminal, mib, print_rows
from envs.errors import WrongUse


def bundle(env: str, platform: str, output: str, layers: bool, load: str, engine: str, as_json: bool) -> int:
    """Write a bundle, or take one in."""
    if load and (output or not layers):
        raise WrongUse("--load takes a bundle in, --output and --no-layers write one", "give one or the other")
    return _load(Path(load), engine, as_json) if load else _write(env, platform, output, layers, as_json)


def _write(env: str, platform: str, output: str, layers: bool, as_json: bool) -> int:
    from envs.bundle.contents import gather
    from envs.bundle.write import write_bundle
    from envs.image import short_digest
    from envs.lock import read_lock
    from envs.tree import building

    terminal = Terminal()
    lock = read_lock(env, platform)
    path = Path(output or f"{env}-{short_digest(lock.digest)}.bundle.tar").absolute()
    if path.is_dir():
        raise WrongUse(f"--output {output}: it is a folder", "name a file")
    work = path.with_name(path.name + ".work")
    with building(f"bundle-{env}", terminal):
        manifest, files = gather(lock, layers, work, terminal)
        write_bundle(manifest, files, path, terminal)
        shutil.rmtree(work)
    facts: dict[str, object] = {
        "env": env,
        "bundle": str(path),
        "bundle_bytes": path.stat().st_size,
        "bundle_digest": manifest.digest,
        "lock_digest": lock.digest,
        "image": manifest.image.image_id if manifest.image else "",
        "members": len(manifest.members),
    }
    _show(facts, as_json)
    return 0


def _load(path: Path, engine: str, as_json: bool) -> int:
    from envs.bundle.load import load_bundle

    terminal = Terminal()
    loaded = load_bundle(path, engine, terminal)
    facts: dict[str, object] = {
        "env": loaded.lock.name,
        "bundle_digest": loaded.bundle_digest,
        "lock_digest": loaded.lock.digest,
        "image": loaded.image,
        "members": loaded.members,
        "new_bytes": loaded.new_bytes,
    }
    _show(facts, as_json)
    terminal.say(f"everything is here: `invoke build --env {loaded.lock.name}` needs no network")
    return 0


def _show(facts: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    rows = [(key, mib(value) if key.endswith("_bytes") else str(value or "-")) for key, value in facts.items()]
    print_rows(rows, ("", ""))
