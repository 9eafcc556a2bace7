"""`init`."""

from __future__ import annotations

from pathlib import Path

from envs.cli import print_json
from envs.display import Terminal


def init(file: str, name: str, python: str, as_json: bool) -> int:
    """Make a spec from a person's own file."""
    from envs.init.make import init as make
    from envs.toml import shown

    terminal = Terminal()
    made = make(Path(file), name, python, terminal)
    spec, path = made.spec, shown(made.path)
    if as_json:
        print_json(
            {
                "env": spec.name,
                "path": str(made.path),
                "installer": spec.installer,
                "python": spec.python,
                "packages": len(spec.packages),
                "conda_packages": len(spec.conda.packages) if spec.conda else 0,
                "decide": made.decide,
            }
        )
        return 0
    conda = f"{len(spec.conda.packages)} conda packages and " if spec.conda else ""
    terminal.say(f"wrote {path}: Python {spec.python}, {conda}{len(spec.packages)} pinned packages; still to decide:")
    for line in made.decide:
        terminal.say(f"  {line}")
    terminal.say(f"then: invoke lock --env {spec.name}")
    return 0
