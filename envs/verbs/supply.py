"""`sbom` and `audit`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from envs.cli import print_json
from envs.display import Terminal, print_rows
from envs.errors import WrongUse

if TYPE_CHECKING:
    from envs.lock import EnvLock
    from envs.supply.audit import Audit
    from envs.supply.documents import Document


def sbom(env: str, platform: str, kind: str, output: str, key: str, public_key: str, as_json: bool) -> int:
    """Print one document, or write several into a folder; or check those in a folder."""
    from envs.lock import read_lock
    from envs.supply import documents

    formats = (*documents.BILLS, "provenance", "all")
    if kind and kind not in formats:
        raise WrongUse(f"--format {kind!r}", f"it is one of {', '.join(formats)}")
    kind = kind or ("all" if output else "cyclonedx")
    _check_use(kind, output, key, public_key, as_json)
    locked = read_lock(env, platform)
    if public_key:
        documents.check_written(Path(output), locked, Path(public_key))
        Terminal().say(f"{output}: the signature holds, and the documents are the ones of lock {locked.digest}")
        return 0
    terminal = Terminal()
    made = _documents(locked, kind, terminal)
    if key:
        made += [documents.signature(one, Path(key)) for one in made if one.name.endswith(".provenance.json")]
    if not output:
        sys.stdout.buffer.write(made[0].content)
        return 0
    paths = documents.write_documents(made, Path(output))
    _show_written(locked, made, paths, as_json)
    return 0


def _check_use(kind: str, output: str, key: str, public_key: str, as_json: bool) -> None:
    if not output and (kind == "all" or key or public_key or as_json):
        raise WrongUse("this needs a folder for the documents", "name one with --output DIR")
    if key and kind not in ("provenance", "all"):
        raise WrongUse("--sign signs the provenance", "use --format provenance or all")


def _documents(locked: EnvLock, kind: str, terminal: Terminal) -> list[Document]:
    from envs.supply import documents

    if kind in documents.BILLS:
        return [documents.bill(locked, kind)]
    from envs.build import image_plan
    from envs.tree import ensure_tree, read_record

    tree = ensure_tree(locked, terminal)
    plan = image_plan(locked, tree, terminal)
    for layer in plan.layers:
        if layer.diff_id is None:  # a digest is known once the layer was packed
            bar = terminal.bar(f"layer {layer.name}", layer.bytes)
            for chunk in layer.stream():
                bar.advance(len(chunk))
            bar.close()
    made = documents.documents(locked, plan, read_record(tree).interpreter)
    return [one for one in made if kind == "all" or one.name.endswith(".provenance.json")]


def _show_written(locked: EnvLock, made: Sequence[Document], paths: Sequence[Path], as_json: bool) -> None:
    listed = [
        {
            "name": one.name,
            "media_type": one.media_type,
            "digest": one.digest,
            "bytes": len(one.content),
            "path": str(path),
        }
        for one, path in zip(made, paths, strict=True)
    ]
    if as_json:
        print_json({"env": locked.name, "lock_digest": locked.digest, "documents": listed})
    else:
        rows = [(str(one["path"]), str(one["media_type"]), str(one["digest"])) for one in listed]
        print_rows(rows, ("DOCUMENT", "TYPE", "DIGEST"))


def audit(env: str, platform: str, vulnerabilities: str, ignore: Sequence[str], as_json: bool) -> int:
    """Look the lock's packages up; 1 where something matches or can't be decided."""
    from envs.lock import read_lock
    from envs.supply import audit as auditing
    from envs.supply.osv_files import read_entries
    from envs.supply.targets import likely_source, stored_source, targets

    if not vulnerabilities:
        raise WrongUse("audit needs vulnerabilities to look in", "give a file, a folder or a .zip in OSV format")
    terminal = Terminal()
    locked = read_lock(env, platform)
    found, notes = targets(locked, lambda deb: stored_source(deb) or likely_source(deb))
    entries = read_entries(Path(vulnerabilities), terminal)
    done = auditing.audit(found, entries, frozenset(ignore), notes)
    if as_json:
        print_json({"env": env, "lock_digest": locked.digest, "ok": done.ok, **_fields(done)})
    else:
        _show_audit(done, len({one.component.key for one in found}), terminal)
    for one in sorted(set(ignore) - set(done.ignored)):
        terminal.say(f"--ignore {one}: nothing was found under this id")
    return 0 if done.ok else 1


def _fields(done: Audit) -> dict[str, object]:
    import msgspec

    return msgspec.structs.asdict(done)


def _show_audit(done: Audit, looked_up: int, terminal: Terminal) -> None:
    from rich.markup import escape

    rows = [
        (
            escape(_printable(one.id)),
            one.package if one.use == "image" else f"{one.package} ({one.use})",
            one.installed,
            _printable(", ".join(one.fixed_in)) or "-",
            escape(_printable(one.severity)) or "-",
            escape(_printable(one.summary)),
        )
        for one in done.findings
    ]
    if rows:
        print_rows(rows, ("ID", "PACKAGE", "INSTALLED", "FIXED IN", "SEVERITY", "SUMMARY"))
    for undecided in done.undecided:
        what = f"{undecided.id} for {undecided.package} {undecided.installed}: {undecided.reason}"
        terminal.say(f"undecided: {_printable(what)}")
    for entry in done.malformed[:10]:
        terminal.say(f"can't be read: {_printable(entry.where)}: {_printable(entry.reason)}")
    if len(done.malformed) > 10:
        terminal.say(f"and {len(done.malformed) - 10} more that can't be read (--json lists them)")
    for note in done.notes:
        terminal.say(f"note: {note}")
    terminal.say(
        f"{looked_up} packages against {done.read} entries ({done.withdrawn} withdrawn, "
        f"{len(done.malformed)} can't be read, {len(done.ignored)} ignored): "
        f"{len(done.findings)} found, {len(done.undecided)} undecided"
    )


def _printable(text: str) -> str:
    """Text of others without what moves a terminal's cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()
