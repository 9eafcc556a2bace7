"""What is in the cache, as items that are kept or removed as one, and how many bytes each of them frees."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from envs.store.needs import Needs
from envs.tree import RECORD, read_record

TEMPORARY = (
    *(".verify-*", "store/.*", "store/*/.*", "trees/.*", "layers/.*", "data/.*", "data/*/hub/.*", "interpreters/.*"),
    *("native/.*", "compilers/.*", "locks-json/.*", "locks-json/*/.*", "conda/.*", "bundle/.*"),
    *("registry/*/.*", "registry/pushed/*/.*"),
)
MEMORIES = ("bundle/*", "registry/uploads/*", "registry/pushed/*/*")
Kind = Literal[
    "source", "tree", "layer", "data", "unpacked", "tool", "kernels", "memory", "partial", "leftover", "result"
]
ABANDONED_S = 86_400.0  # no write of ours takes a day: what has no owner's pid in its name and is older is left over
RECORD_FOLDER = Path(RECORD).parent.name  # whoever lists trees reads their records: that is no use
OWNER = re.compile(r"^\.(?:verify-(\d+)-.*|.*[-.](\d+)(?:\.unpacked)?)$")  # the pid in a temporary name


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """Files that are kept or removed as one."""

    kind: Kind
    name: str
    paths: tuple[Path, ...]
    used_at: float  # seconds since 1970: the latest time that a file of it was read or written
    needed_by: str = ""  # why it must stay; "" where nothing needs it
    guards: tuple[Path, ...] = ()  # lock files that whoever makes or reads it holds


class Ledger:
    """Bytes on disk by inode: a file with a second name is freed with the last of its names."""

    def __init__(self) -> None:
        self._bytes: dict[tuple[int, int], int] = {}
        self._links: dict[tuple[int, int], int] = {}
        self._files: dict[tuple[Path, ...], list[tuple[int, int]]] = {}
        self.total_bytes = 0

    def enter(self, paths: tuple[Path, ...]) -> float:
        """Count what lies at and below these paths; when any of it was used last."""
        used = 0.0
        inodes = self._files[paths] = []
        for file, status in itertools.chain.from_iterable(map(_files, paths)):
            inode = (status.st_dev, status.st_ino)
            if inode not in self._bytes:
                self._bytes[inode] = status.st_blocks * 512
                self._links[inode] = status.st_nlink
                self.total_bytes += self._bytes[inode]
            inodes.append(inode)
            if file.parent.name != RECORD_FOLDER:
                used = max(used, status.st_atime, status.st_mtime)
        return used

    def remove(self, item: Item) -> int:
        """The bytes that become free when this item goes, after those that went before it."""
        freed = 0
        for inode in self._files[item.paths]:
            self._links[inode] -= 1
            if self._links[inode] == 0:
                freed += self._bytes[inode]
        self.total_bytes -= freed
        return freed


def _files(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The file, or all files below the folder; what goes away meanwhile is passed over."""
    there = [Path(folder, name) for folder, _, names in os.walk(path) for name in names] or [path]
    for file in there:
        with contextlib.suppress(FileNotFoundError):
            yield file, file.lstat()


def inventory(cache: Path, needs: Needs, ledger: Ledger, now: float) -> list[Item]:
    """Everything in the cache that may ever be removed. Lock files and kept local containers are not in it."""
    return [
        *_leftovers(cache, ledger, now),
        *_sources(cache, needs, ledger, now),
        *_trees(cache, needs, ledger),
        *_layers(cache, needs, ledger),
        *_data(cache, needs, ledger),
        *_kernels(cache, needs, ledger),
        *_whole(cache, needs, ledger),
    ]


def results(cache: Path, ledger: Ledger) -> list[Item]:
    """The cache of a workspace: objects, keys, what vendors' containers left. A key without its objects is no hit."""
    found = [*cache.glob("objects/*/*"), *cache.glob("keys/*.json"), *cache.glob("vendor/*")]
    return [_item("result", path.stem[:12], (path,), ledger) for path in sorted(found) if not _hidden(path)]


def _item(
    kind: Kind, name: str, paths: tuple[Path, ...], ledger: Ledger, needed_by: str = "", guards: tuple[Path, ...] = ()
) -> Item:
    used = ledger.enter(paths)
    return Item(kind=kind, name=name, paths=paths, used_at=used, needed_by=needed_by, guards=guards)


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _leftovers(cache: Path, ledger: Ledger, now: float) -> Iterator[Item]:
    """Temporary names whose writer is gone."""
    for path in sorted(found for pattern in TEMPORARY for found in cache.glob(pattern)):
        owner = OWNER.match(path.name)
        gone = owner is not None and not Path("/proc", owner[1] or owner[2]).exists()
        if gone or (owner is None and path.lstat().st_mtime < now - ABANDONED_S):
            yield _item("leftover", path.name, (path,), ledger)


def _sources(cache: Path, needs: Needs, ledger: Ledger, now: float) -> Iterator[Item]:
    store = cache / "store"
    for folder in sorted(path for path in store.glob("*") if path.is_dir() and not _hidden(path)):
        names = ", ".join(sorted(file.name for file in folder.iterdir() if not _hidden(file)))
        guards = (store / f"{folder.name}.lock",)
        yield _item("source", names or folder.name, (folder,), ledger, needs.sources.get(folder.name, ""), guards)
    for tree in sorted(path for path in (cache / "interpreters").glob("*.tar") if not _hidden(path)):
        yield _item("source", f"interpreter {tree.stem[:12]}", (tree,), ledger, needs.sources.get(tree.stem, ""))
    for part in sorted(store.glob("*.part")):
        lock = part.with_suffix(".lock")  # its downloader holds it
        item = _item("partial", part.name, (part, lock), ledger, guards=(lock,))
        yield msgspec.structs.replace(item, kind="leftover") if item.used_at < now - ABANDONED_S else item


def _trees(cache: Path, needs: Needs, ledger: Ledger) -> Iterator[Item]:
    for tree in sorted(path for path in (cache / "trees").glob("*") if path.is_dir() and not _hidden(path)):
        memory = tree.with_name(f"{tree.name}.layers.json")
        env = read_record(tree).env if (tree / RECORD).exists() else ""
        guards = tuple(cache / "locks" / f"{what}-{env}" for what in ("tree", "image")) if env else ()
        name = f"{env or 'test tools'} {tree.name[:17]}"
        yield _item("tree", name, (memory, tree), ledger, needs.trees.get(tree.name, ""), guards)


def _layers(cache: Path, needs: Needs, ledger: Ledger) -> Iterator[Item]:
    for known in sorted(path for path in (cache / "layers").glob("*.json") if not _hidden(path)):
        paths = (known, known.with_suffix(".tar"))
        yield _item("layer", known.stem[:12], paths, ledger, needs.layers.get(known.stem, ""))


def _data(cache: Path, needs: Needs, ledger: Ledger) -> Iterator[Item]:
    for folder in sorted(path for path in (cache / "data").glob("*") if path.is_dir() and not _hidden(path)):
        needed = needs.data.get(folder.name, "") or needs.all_data
        guards = (cache / "locks" / f"data-{folder.name}",)
        yield _item("data", folder.name[:12], (folder,), ledger, needed, guards)


def _kernels(cache: Path, needs: Needs, ledger: Ledger) -> Iterator[Item]:
    """Compiled kernels, made or brought by a bundle: a change of a source leaves the ones before it unused."""
    found = [path for path in (cache / "native").glob("*") if not _hidden(path)]
    guards = (cache / "locks" / "kernels",)
    for key in sorted({path.name.removesuffix(".tar") for path in found}):
        paths = tuple(path for path in (cache / "native" / key, cache / "native" / f"{key}.tar") if path.exists())
        yield _item("kernels", key[:12], paths, ledger, needs.kernels.get(key, ""), guards)


def _whole(cache: Path, needs: Needs, ledger: Ledger) -> Iterator[Item]:
    """What only saves time: unpacked wheels, conda's tools, the compiler, what was sent where, locks as JSON."""
    locks = cache / "locks"
    if (unpacked := cache / "unpacked").is_dir():
        guards = tuple(sorted(path for path in locks.glob("*") if path.name.startswith(("tree-", "test-"))))
        yield _item("unpacked", "wheels, unpacked once for all trees", (unpacked,), ledger, guards=guards)
    for tool in sorted(cache.glob("conda/tool-*")):
        yield _item("tool", f"conda {tool.name}", (tool,), ledger, guards=(locks / "conda-tool",))
    for compiler in sorted(path for path in cache.glob("compilers/*") if not _hidden(path)):
        yield _item("tool", f"compiler {compiler.name[:12]}", (compiler,), ledger, guards=(locks / "kernels",))
    for memory in sorted(path for pattern in MEMORIES for path in cache.glob(pattern) if not _hidden(path)):
        yield _item("memory", memory.relative_to(cache).as_posix(), (memory,), ledger)
    for folder in sorted(path for path in cache.glob("locks-json/*") if not _hidden(path)):
        name = folder.relative_to(cache).as_posix()
        yield _item("memory", name, (folder,), ledger, needs.locks.get(f"sha256:{folder.name}", ""))
