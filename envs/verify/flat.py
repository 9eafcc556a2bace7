"""Layers -> the files that a container sees: whiteouts applied, later layers over earlier ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from envs.verify.records import FileFact

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"

Files = dict[str, FileFact]


def flatten(layers: Iterable[Iterable[FileFact]]) -> Files:
    """The files after the last layer; a hard link carries the hash and size of its first path."""
    files: Files = {}
    for members in layers:
        listed = list(members)
        for fact in listed:  # they hide what lies below this layer, not what it brings itself
            folder, _, name = fact.path.rpartition("/")
            if name == OPAQUE:
                _remove_below(files, folder)
            elif name.startswith(WHITEOUT):
                hidden = f"{folder}/{name[len(WHITEOUT) :]}" if folder else name[len(WHITEOUT) :]
                files.pop(hidden, None)
                _remove_below(files, hidden)
        for fact in listed:
            if fact.path.rpartition("/")[2].startswith(WHITEOUT):
                continue
            old = files.get(fact.path)
            if old is not None and old.kind == "dir" and fact.kind != "dir":
                _remove_below(files, fact.path)
            files[fact.path] = _linked(fact, files)
    return files


def _remove_below(files: Files, folder: str) -> None:
    inside = f"{folder}/" if folder else ""
    for path in [path for path in files if path.startswith(inside)]:
        del files[path]


def _linked(fact: FileFact, files: Files) -> FileFact:
    target = files.get(fact.link) if fact.kind == "hardlink" else None
    return msgspec.structs.replace(fact, sha256=target.sha256, size=target.size) if target else fact


def as_exported(files: Files) -> Files:
    """The same files without what only an export decides: which of two hard links is the first, and owners' names."""
    return {path: _plain(fact) for path, fact in files.items()}


def _plain(fact: FileFact) -> FileFact:
    if fact.kind == "hardlink":
        return msgspec.structs.replace(fact, kind="file", link="", owner="")
    return msgspec.structs.replace(fact, owner="")


def implied(files: Files) -> set[str]:
    """Folders above the files that no layer names: whoever unpacks them chooses their mode and time."""
    above = {folder for path in files for folder in folders(path)}
    return above - {*files}


def folders(path: str) -> Iterator[str]:
    """Every folder above a path, the nearest first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
