"""`prune-store`."""

from __future__ import annotations

import math

from envs.cli import print_json
from envs.display import Terminal, mib, print_rows
from envs.errors import WrongUse

DAY_S = 86_400.0


def prune_store(older_than: str, max_size: str, results: bool, dry_run: bool, as_json: bool) -> int:
    """Remove what is old or too much from the cache."""
    from envs.store.prune import Limits, prune

    terminal = Terminal()
    days = _number("--older-than", older_than, "days, as in 30")
    gib = _number("--max-size", max_size, "GiB, as in 20 or 0.5")
    limits = Limits(
        older_than_s=None if days is None else days * DAY_S,
        max_bytes=None if gib is None else int(gib * 2**30),
    )
    done = prune(limits, terminal, with_results=results, dry_run=dry_run)
    if as_json:
        print_json(done)
        return 0
    rows = [(one.kind, one.name, mib(one.freed_bytes), f"{one.unused_s / DAY_S:.1f} days") for one in done.removed]
    if rows:
        print_rows(rows, ("WHAT", "NAME", "FREES", "NOT USED FOR"))
    for note in done.notes:
        terminal.say(note)
    verb = "would free" if dry_run else "freed"
    terminal.say(f"{verb} {mib(done.freed_bytes)}; {mib(done.kept_bytes)} stay")
    if done.over_bytes:
        terminal.say(f"{mib(done.over_bytes)} more than --max-size are needed by locks, containers or running builds")
    elif done.spare_bytes and days is None and gib is None:
        terminal.say(f"nothing needs {mib(done.spare_bytes)} of it: --older-than DAYS or --max-size GiB removes that")
    return 0


def _number(option: str, text: str, unit: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise WrongUse(f"{option} {text!r} is no number of that kind", f"write {unit}")
    return value
