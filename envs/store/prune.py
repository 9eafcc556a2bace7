"""Make the cache smaller: what is old, or too much, goes; what anything needs stays. Least recently used goes first."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator

import msgspec

from envs.files import exclusive
from envs.paths import LOCKS, cache_root, runs_root
from envs.progress import Progress
from envs.store.items import Item, Ledger, inventory, results
from envs.store.needs import needed, uses

RESULTS_REST_S = 3600.0  # a pipeline that is at work now may be about to link what it has just found


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What may stay; None means no limit of that kind. Leftovers of killed processes go in any case."""

    older_than_s: float | None = None
    max_bytes: int | None = None


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """One item that was removed (or would be), and what that freed."""

    kind: str
    name: str
    freed_bytes: int
    unused_s: float


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What a call did. `over_bytes` is what the cache still is above the size that was asked for."""

    dry_run: bool
    removed: tuple[Removed, ...]
    freed_bytes: int
    kept_bytes: int
    over_bytes: int
    spare_bytes: int  # of what stays: nothing needs it, an age or a size would remove it
    notes: tuple[str, ...]


class _Busy(Exception):
    """Somebody holds the lock of an item."""


def prune(limits: Limits, progress: Progress, *, with_results: bool = False, dry_run: bool = False) -> Pruned:
    """Prune the user's cache (and the stage cache of the workspace), and say what went."""
    now = time.time()
    needs = needed(uses(), LOCKS)
    ledger = Ledger()
    items = inventory(cache_root(), needs, ledger, now)
    if with_results:
        found = results(runs_root() / ".cache", ledger)
        items += [item for item in found if item.used_at < now - RESULTS_REST_S]
    removed, notes = [], list(needs.notes)
    for item in doomed(items, limits, now, lambda: ledger.total_bytes):
        try:
            if not dry_run:
                _remove(item)
        except _Busy:
            notes.append(f"{item.kind} {item.name} is in use by another process: it stays")
            continue
        freed = ledger.remove(item)
        removed.append(Removed(kind=item.kind, name=item.name, freed_bytes=freed, unused_s=round(now - item.used_at)))
        progress.say(f"{'would remove' if dry_run else 'removed'} {item.kind} {item.name}")
    kept = ledger.total_bytes
    gone = {(one.kind, one.name) for one in removed}
    spare = [item for item in items if not item.needed_by and (item.kind, item.name) not in gone]
    return Pruned(
        dry_run=dry_run,
        removed=tuple(removed),
        freed_bytes=sum(one.freed_bytes for one in removed),
        kept_bytes=kept,
        over_bytes=max(0, kept - limits.max_bytes) if limits.max_bytes is not None else 0,
        spare_bytes=sum(ledger.remove(item) for item in spare),
        notes=tuple(notes),
    )


def doomed(items: Iterable[Item], limits: Limits, now: float, total_bytes: Callable[[], int]) -> Iterator[Item]:
    """What has to go, in its order. `total_bytes` is asked again after each: its caller has removed that one."""
    free = [item for item in items if not item.needed_by]
    free.sort(key=lambda item: (item.kind != "leftover", item.used_at))
    for item in free:
        old = limits.older_than_s is not None and item.used_at <= now - limits.older_than_s
        much = limits.max_bytes is not None and total_bytes() > limits.max_bytes
        if item.kind == "leftover" or old or much:
            yield item


def _remove(item: Item) -> None:
    """Out of sight in one step, then away; a kill in between leaves what the next call knows as left over."""
    with contextlib.ExitStack() as held:
        for guard in item.guards:
            held.enter_context(exclusive(guard, _busy))
        for path in item.paths:
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
                continue
            hidden = path if path.name.startswith(".") else path.with_name(f".{path.name}-{os.getpid()}")
            path.rename(hidden)
            shutil.rmtree(hidden)
        for guard in item.guards:
            if guard.suffix == ".lock":  # of a download: it goes with the file
                guard.unlink(missing_ok=True)


def _busy() -> None:
    raise _Busy
