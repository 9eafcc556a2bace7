"""What must stay: what a lock of this checkout names, what a container of ours uses, what a process runs from."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from envs import toml
from envs.data import data_key
from envs.engines.base import Container
from envs.engines.choose import choose
from envs.engines.local import LocalEngine
from envs.errors import SpecError
from envs.image_base import base_key
from envs.lock import LOCK_VERSION, EnvLock
from envs.native import LEVELS, kernels_key, read_sources
from envs.tree import existing_tree, test_tree, trees_root

SHA256 = re.compile(r"\b[0-9a-f]{64}\b")


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """Why what stays; each map goes from a name in the cache to the reason that a reader is told."""

    sources: dict[str, str] = {}  # sha256 of a file in store/
    trees: dict[str, str] = {}  # folder in trees/
    layers: dict[str, str] = {}  # content key in layers/
    data: dict[str, str] = {}  # folder in data/
    locks: dict[str, str] = {}  # sha256:... digest of a lock
    kernels: dict[str, str] = {}  # key in native/
    all_data: str = ""  # why no data folder may go at all
    notes: tuple[str, ...] = ()  # what could not be read or asked


class Uses(msgspec.Struct, frozen=True, kw_only=True):
    """Who uses the cache at this moment."""

    containers: tuple[Container, ...] = ()  # running and stopped, of both engines
    running_from: frozenset[str] = frozenset()  # folders in trees/ that a process of this machine runs from
    unasked: str = ""  # why there may be containers that could not be listed


def uses() -> Uses:
    """Ask both engines and the process table."""
    chosen = choose("auto")
    listed = LocalEngine().containers()
    unasked = ""
    if chosen.docker is not None:
        listed = [*listed, *chosen.docker.containers()]
    elif shutil.which("dockerd") or shutil.which("docker"):
        unasked = f"{chosen.why}; its containers can't be listed"
    return Uses(containers=tuple(listed), running_from=frozenset(_running_from(trees_root())), unasked=unasked)


def _running_from(trees: Path) -> Iterator[str]:
    for link in Path("/proc").glob("[0-9]*/exe"):
        try:
            program = link.readlink()
        except OSError:  # gone, or another user's
            continue
        if program.is_relative_to(trees):
            yield program.relative_to(trees).parts[0]


def needed(using: Uses, locks: Path) -> Needs:
    """What the locks in that folder and those uses need.

    Sources come from the text of every file there: each sha256 in it, whatever its format. A lock that this tool can't
    read otherwise may need any tree and data, so that all of them stay and a note says so.
    """
    notes = [using.unasked] if using.unasked else []
    sources: dict[str, str] = {}
    read: list[tuple[EnvLock, str]] = []
    blind = ""
    for path in sorted(file for file in locks.iterdir() if file.is_file()):
        why = f"lock {path.name.partition('.lock.')[0]}"
        sources.update(dict.fromkeys(SHA256.findall(path.read_text("utf-8", errors="replace")), why))
        if path.name.endswith(".lock.toml"):
            if lock := _read(path):
                read.append((lock, why))
            else:
                blind = f"{toml.shown(path)} can't be read by this tool"
                notes.append(f"{blind}: all trees and data stay")
    digests = {lock.digest: why for lock, why in read}
    unknown = next((one.name for one in using.containers if one.lock_digest not in digests), "")
    trees = _trees(read, using, blind)
    return Needs(
        sources=sources,
        trees=trees,
        layers={**_layers(trees), **{base_key(k.base, k.source_date_epoch): why for k, why in read if k.base}},
        data={data_key(lock): why for lock, why in read},
        locks=digests,
        kernels={kernels_key(platform, read_sources()): "these sources" for platform in LEVELS},
        all_data=blind or using.unasked or (unknown and f"container {unknown}"),
        notes=tuple(notes),
    )


def _trees(read: Sequence[tuple[EnvLock, str]], using: Uses, blind: str) -> dict[str, str]:
    trees = {test_tree(lock).name: why for lock, why in read}
    trees.update({tree.name: why for lock, why in read if (tree := existing_tree(lock))})
    trees.update({one.image: f"container {one.name}" for one in using.containers if one.engine == "local"})
    trees.update(dict.fromkeys(using.running_from, "a process runs from it"))
    if blind:
        there = [path.name for path in trees_root().glob("*") if path.is_dir() and not path.name.startswith(".")]
        trees = {**dict.fromkeys(there, blind), **trees}
    return trees


def _layers(trees: Iterable[str]) -> dict[str, str]:
    """Content keys that the layer memories of these trees name."""
    found: dict[str, str] = {}
    for name in trees:
        memory = trees_root() / f"{name}.layers.json"
        if memory.exists():
            found.update(
                dict.fromkeys(SHA256.findall(memory.read_text("utf-8", errors="replace")), f"tree {name[:12]}")
            )
    return found


def _read(path: Path) -> EnvLock | None:
    """The lock, whether or not it belongs to its spec any more; None where its format is another."""
    try:
        tables = toml.parse_toml(path)
        tables.pop("digest", None)
        lock = toml.convert(tables, EnvLock, path)
    except SpecError:
        return None
    return lock if lock.version == LOCK_VERSION else None
