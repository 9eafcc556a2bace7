"""Two sets of facts -> what differs, path by path; who is right and why is not asked here."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from envs.verify.flat import Files
from envs.verify.images import ReadImage
from envs.verify.records import Difference, Digest, FileFact
from envs.verify.tars import ReadLayer


def same_content(ours: FileFact, theirs: FileFact) -> bool:
    """Whether two regular files (a hard link is one) have the same bytes."""
    return (ours.sha256, ours.size) == (theirs.sha256, theirs.size)


def compare_files(ours: Files, theirs: Files, clockless: Collection[str] = ()) -> Iterator[Difference]:
    """Differences in the order of their paths; the times of `clockless` paths are not compared."""
    for path in sorted({*ours, *theirs}):
        one, other = ours.get(path), theirs.get(path)
        if other is None and one is not None:
            yield Difference(shown(path), "missing", _brief(one), "")
        elif one is None and other is not None:
            yield Difference(shown(path), "extra", "", _brief(other))
        elif one is not None and other is not None and one != other:
            yield from _compare(one, other, path in clockless)


def _compare(ours: FileFact, theirs: FileFact, clockless: bool) -> Iterator[Difference]:
    path = shown(ours.path)
    regular = {ours.kind, theirs.kind} <= {"file", "hardlink"}
    if ours.kind != theirs.kind:
        yield Difference(path, "kind", ours.kind, theirs.kind)
        if not regular:
            return  # nothing else of them can be compared
    if regular and not same_content(ours, theirs):
        yield Difference(path, "content", _brief(ours), _brief(theirs))
    if ours.kind == theirs.kind and ours.link != theirs.link:
        yield Difference(path, "link", shown(ours.link), shown(theirs.link))
    if ours.mode != theirs.mode:
        yield Difference(path, "mode", f"{ours.mode:04o}", f"{theirs.mode:04o}")
    if (ours.uid, ours.gid, ours.owner) != (theirs.uid, theirs.gid, theirs.owner):
        yield Difference(path, "owner", _owner(ours), _owner(theirs))
    if ours.mtime != theirs.mtime and not clockless:
        yield Difference(path, "mtime", _time(ours.mtime), _time(theirs.mtime))
    if ours.xattrs != theirs.xattrs:
        yield Difference(path, "xattr", _names(ours), _names(theirs))


def compare_digests(ours: ReadImage, theirs: ReadImage, names: tuple[str, ...]) -> tuple[Digest, ...]:
    """The configuration's digest and every layer's, side by side; `names` are the layers' names on our side."""
    pairs = [Digest("configuration", *(f"sha256:{hashlib.sha256(x.config).hexdigest()}" for x in (ours, theirs)))]
    for place in range(max(len(ours.layers), len(theirs.layers))):
        sides = [x.layers[place].diff_id if place < len(x.layers) else "" for x in (ours, theirs)]
        name = names[place] if place < len(names) else f"layer {place + 1}"
        pairs.append(Digest(name, *sides))
    return tuple(pairs)


def compare_order(ours: ReadLayer, theirs: ReadLayer, name: str) -> Iterator[Difference]:
    """What a layer's digest depends on beyond its files: their order, and how the archive writes them."""
    if ours.diff_id == theirs.diff_id:
        return
    paths, others = ([fact.path for fact in layer.members] for layer in (ours, theirs))
    if paths != others and sorted(paths) == sorted(others):
        first = next(place for place, pair in enumerate(zip(paths, others, strict=True)) if pair[0] != pair[1])
        yield Difference(f"({name})", "order", shown(paths[first]), shown(others[first]))
    elif ours.members == theirs.members:
        yield Difference(f"({name})", "form", ours.diff_id, theirs.diff_id)


def compare_configs(ours: bytes, theirs: bytes) -> Iterator[Difference]:
    """Which fields of two image configurations differ; their spelling where no field does."""
    if ours == theirs:
        return
    left, right = (_fields(msgspec.json.decode(one)) for one in (ours, theirs))
    differing = [key for key in sorted({*left, *right}) if left.get(key) != right.get(key)]
    for key in differing:
        yield Difference(f"(configuration) {key}", "content", left.get(key, "-"), right.get(key, "-"))
    if not differing:
        yield Difference("(configuration)", "form", f"{len(ours)} bytes", f"{len(theirs)} bytes")


def _fields(value: Any, name: str = "") -> dict[str, str]:
    """Leaves by their dotted name."""
    if isinstance(value, dict) and value:
        return {k: v for key, one in value.items() for k, v in _fields(one, f"{name}.{key}".lstrip(".")).items()}
    if isinstance(value, list) and value:
        return {k: v for place, one in enumerate(value) for k, v in _fields(one, f"{name}[{place}]").items()}
    return {name: shown(value) if isinstance(value, str) else msgspec.json.encode(value).decode()}


def shown(text: str) -> str:
    """A path or link as it can be printed: bytes that are no UTF-8 as escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _brief(fact: FileFact) -> str:
    if fact.kind in ("file", "hardlink"):
        return f"{fact.kind}, {fact.size:,} bytes, sha256 {fact.sha256[:12]}"
    return f"{fact.kind} {shown(fact.link)}".strip()


def _owner(fact: FileFact) -> str:
    return f"{fact.uid}:{fact.gid}" + (f" ({shown(fact.owner)})" if fact.owner else "")


def _names(fact: FileFact) -> str:
    return ", ".join(f"{name}={shown(value)[:40]}" for name, value in fact.xattrs) or "none"


def _time(seconds: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat()
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"
