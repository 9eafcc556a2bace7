"""`run` and `models`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.cli import print_json
from envs.display import EventLines, Terminal, print_rows

if TYPE_CHECKING:
    from envs.run_options import RunOptions


def run(options: RunOptions, as_json: bool) -> int:
    """The pipeline."""
    from envs.run import run_model
    from envs.run_table import print_report

    terminal = Terminal()
    report = run_model(options, terminal, EventLines(terminal.console).show)
    print_json(report) if as_json else print_report(report)
    return 0 if report.ok else 1


def models(env: str, as_json: bool) -> int:
    """The models that can be named."""
    from envs.data import PACKAGED_WEIGHTS
    from envs.lock import read_lock
    from envs.run import model_names
    from envs.spec import load_spec
    from envs.toolchain import exporting

    names = model_names(read_lock(exporting(load_spec(env)).name))
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
