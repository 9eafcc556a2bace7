"""One comparison: the rebuild on one side, an image, a container or a tree on the other, and the report of it."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from envs.layers import tree_layers
from envs.lock import EnvLock
from envs.verify.causes import explain
from envs.verify.compare import compare_configs, compare_digests, compare_files, compare_order, shown
from envs.verify.detail import detail
from envs.verify.evidence import Evidence
from envs.verify.flat import Files, as_exported, flatten, folders, implied
from envs.verify.folders import read_tree
from envs.verify.images import ReadImage, lock_label
from envs.verify.injected import Injected
from envs.verify.kept import Kept, contents
from envs.verify.rebuild import Rebuilt, own_names
from envs.verify.records import Difference, Digest, VerifyReport
from envs.verify.tars import Keep, ReadLayer, keep_nothing

ReadSide = Callable[[bool, Keep], ReadImage]  # facts, keep
Contents = Mapping[str, bytes]


class _Sides(msgspec.Struct, frozen=True):
    """Both sides as files, and the contents of those that differ as far as they were kept."""

    ours: Files
    theirs: Files
    left: Contents
    right: Contents


def check_image(rebuilt: Rebuilt, subject: str, read: ReadSide) -> VerifyReport:
    """An image against the rebuild: its digests first, file by file where they differ."""
    began = time.monotonic()
    ours, theirs = rebuilt.read(facts=False), read(False, keep_nothing)
    names = tuple(layer.name for layer in rebuilt.plan().layers)
    digests = compare_digests(ours, theirs, names)
    notes = [*_manifest_notes(ours, theirs), *label_notes(lock_label(theirs.config), rebuilt.lock)]
    if theirs.config == ours.config and all(one.ours == one.theirs for one in digests):
        return _report(rebuilt, subject, began, (), None, digests, notes)
    rebuilt.progress.say(f"{subject} differs: comparing file by file")
    ours = rebuilt.read(facts=True)
    our_files = flatten(layer.members for layer in ours.layers)
    kept = Kept(our_files)
    theirs = read(True, kept.take)
    sides = _Sides(
        our_files,
        flatten(layer.members for layer in theirs.layers),
        _kept_of(rebuilt, kept),
        contents(theirs.layers),
    )
    found = [*compare_configs(ours.config, theirs.config), *compare_files(sides.ours, sides.theirs)]
    for name, one, other in zip(names, ours.layers, theirs.layers, strict=False):
        found += compare_order(one, other, name)
    if not found:
        found.append(Difference("(layers)", "form", f"{len(ours.layers)} layers", f"{len(theirs.layers)} layers"))
    return _report(rebuilt, subject, began, found, sides, digests, notes)


def check_container(
    rebuilt: Rebuilt, subject: str, export: Callable[[Keep], ReadLayer], injected: Injected
) -> VerifyReport:
    """A container's files against the rebuilt image's, without what the engine puts into every container."""
    began = time.monotonic()
    ours = as_exported(flatten(layer.members for layer in rebuilt.read(facts=True).layers))
    kept = Kept(ours)
    theirs = export(kept.take)
    everything = as_exported(flatten([theirs.members]))
    passed = {path for path in {*ours, *everything} if injected.holds(path)} | (implied(ours) & {*everything})
    sides = _Sides(
        {path: fact for path, fact in ours.items() if path not in passed},
        {path: fact for path, fact in everything.items() if path not in passed},
        _kept_of(rebuilt, kept),
        theirs.contents,
    )
    found = compare_files(sides.ours, sides.theirs, injected.clockless())
    return _report(rebuilt, subject, began, found, sides, passed_over=_topmost(passed & {*everything}))


def check_tree(rebuilt: Rebuilt, tree: Path) -> VerifyReport:
    """The tree in the cache against the rebuilt one. Every file is read: no RECORD and no remembered digest counts."""
    began = time.monotonic()
    sides = []
    for label, place in (("the rebuilt tree", rebuilt.tree), ("the tree in the cache", tree)):
        bar = rebuilt.progress.bar(label, 0)
        try:
            sides.append(read_tree(place, bar))
        finally:
            bar.close()
    ours, theirs = sides
    kept = Kept(ours)
    for fact in theirs.values():
        kept.take(fact)
    left, right = ({path: (place / path).read_bytes() for path in kept.paths} for place in (rebuilt.tree, tree))
    found = compare_files(ours, theirs)
    return _report(rebuilt, f"tree {tree}", began, found, _Sides(ours, theirs, left, right))


def check_memory(rebuilt: Rebuilt, tree: Path) -> VerifyReport | None:
    """The layer digests remembered beside the tree against the rebuilt ones; None where none are remembered.

    A wrong one would make a build believe that an image is there which is not.
    """
    began = time.monotonic()
    memory = tree.with_name(f"{tree.name}.layers.json")
    if not memory.exists():
        return None
    epoch = rebuilt.lock.source_date_epoch
    true = {layer.name: str(layer.diff_id) for layer in rebuilt.plan().layers}
    held = {layer.name: str(layer.diff_id) for layer in tree_layers(tree, epoch) if layer.diff_id}
    found = [
        Difference(f"(remembered layer) {name}", "content", true.get(name, ""), digest)
        for name, digest in held.items()
        if true.get(name) != digest
    ]
    return _report(rebuilt, f"remembered digests in {memory.name}", began, found, None)


def _kept_of(rebuilt: Rebuilt, kept: Kept) -> Contents:
    """Our content of the files whose other content was kept: one more pass, where there are any."""
    if not kept.paths:
        return {}
    return contents(rebuilt.read(facts=True, keep=lambda fact: fact.path in kept.paths).layers)


def _topmost(paths: Collection[str]) -> tuple[str, ...]:
    """Those that lie below no other of them, printable."""
    return tuple(shown(path) for path in sorted(paths) if not any(above in paths for above in folders(path)))


def _report(
    rebuilt: Rebuilt,
    subject: str,
    began: float,
    found: Iterable[Difference],
    sides: _Sides | None,
    digests: tuple[Digest, ...] = (),
    notes: Iterable[str] = (),
    passed_over: tuple[str, ...] = (),
) -> VerifyReport:
    raw, lines = list(found), list(notes)
    differences = _explained(rebuilt, raw, sides) if raw else ()
    pairs = []
    if sides is not None:
        changed = {one.path for one in differences if one.what == "content"}
        both = sorted(path for path in {*sides.left} & {*sides.right} if shown(path) in changed)
        pairs = [(shown(path), sides.left[path], sides.right[path]) for path in both]
    details = detail(pairs, lines)
    lock = rebuilt.lock.digest
    paths = len({one.path for one in differences})
    said = f"{len(differences)} differences in {paths} places" if len(differences) != 1 else "1 difference"
    verdict = f"these are the bytes of lock {lock}" if not raw else f"NOT the bytes of lock {lock}: {said}"
    return VerifyReport(
        subject=subject,
        env=rebuilt.lock.name,
        lock_digest=lock,
        equal=not raw,
        verdict=verdict,
        digests=digests,
        files=len({*sides.ours, *sides.theirs}) if sides else 0,
        differences=differences,
        by_what=dict(collections.Counter(one.what for one in differences).most_common()),
        by_cause=dict(collections.Counter(one.cause or "unknown" for one in differences).most_common()),
        passed_over=passed_over,
        detail=details,
        notes=tuple(lines),
        elapsed_s=round(time.monotonic() - began, 3),
    )


def _explained(rebuilt: Rebuilt, found: list[Difference], sides: _Sides | None) -> tuple[Difference, ...]:
    names = own_names()
    records_hold = not any(one.path.endswith(".dist-info/RECORD") for one in found)
    recorded = rebuilt.recorded() if records_hold else frozenset()
    by_shown = {shown(path): path for path in {*sides.ours, *sides.theirs}} if sides else {}
    made = []
    for one in found:
        path = by_shown.get(one.path)
        if sides is None or path is None:  # a field of the configuration, a layer: its values are the contents
            evidence = Evidence(path=one.path, what=one.what, left=one.ours.encode(), right=one.theirs.encode())
        else:
            evidence = Evidence(
                path=path,
                what=one.what,
                ours=sides.ours.get(path),
                theirs=sides.theirs.get(path),
                left=sides.left.get(path),
                right=sides.right.get(path),
                recorded=path in recorded,
                names=names,
            )
        made.append(explain(one, evidence))
    return tuple(made)


def label_notes(said: str, lock: EnvLock) -> list[str]:
    """What to tell where an image or container says that it comes from another lock."""
    if said in ("", lock.digest):
        return []
    return [f"it says it was made from another lock, {said}: compare it with that one"]


def _manifest_notes(ours: ReadImage, theirs: ReadImage) -> list[str]:
    if not theirs.manifest or theirs.manifest == ours.manifest:
        return []
    why = "compressed layers, or another writer"
    return [f"its manifest is another one ({why}): only configuration and layers were compared"]
