"""OSV entries out of whatever they come in: one object, a list, `vulns`, JSON lines, a folder, a zip as published."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from envs.errors import WrongUse
from envs.progress import Progress
from envs.supply.osv import Entry

LARGEST_ENTRY_BYTES = 32 << 20  # of one member of a zip: nobody writes an advisory that long
SUFFIXES = (".json", ".jsonl", ".ndjson")

_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Malformed(msgspec.Struct, frozen=True):
    """An entry that can't be read; `packages` are the names it seems to be about."""

    where: str
    reason: str
    packages: frozenset[str] = frozenset()


def read_entries(path: Path, progress: Progress) -> Iterator[Entry | Malformed]:
    """The entries of a file, a zip or a folder, one at a time. WrongUse where it holds nothing of OSV's."""
    if not path.exists():
        raise WrongUse(f"{path}: no such file or folder", "give a file or folder of vulnerabilities in OSV format")
    is_osv, unreadable = False, ""
    bar = progress.bar(f"reading {path.name}", _size(path))
    try:
        for where, content in _texts(path):
            if isinstance(content, Malformed):
                unreadable = unreadable or f" ({content.where}: {content.reason})"
                yield content
                continue
            bar.advance(len(content))
            for entry in _entries(where, content):
                if entry is None:  # an empty `vulns`: OSV's own way to say "none"
                    is_osv = True
                    continue
                if isinstance(entry, Entry):
                    is_osv = True
                else:
                    unreadable = unreadable or f" ({entry.where}: {entry.reason})"
                yield entry
    finally:
        bar.close()
    if not is_osv:
        raise WrongUse(
            f"{path}: holds no vulnerability in OSV format", "give .json, .jsonl, a folder or a .zip of them"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in _files(path))


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def _texts(path: Path) -> Iterator[tuple[str, bytes | Malformed]]:
    if path.is_dir():
        for file in _files(path):
            yield str(file.relative_to(path)), file.read_bytes()
    elif zipfile.is_zipfile(path):
        yield from _members(path)
    else:
        yield path.name, path.read_bytes()


def _members(path: Path) -> Iterator[tuple[str, bytes | Malformed]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = f"{path.name}:{member.filename}"
            if not member.filename.lower().endswith(SUFFIXES):
                continue
            try:
                with archive.open(member) as file:
                    content = file.read(LARGEST_ENTRY_BYTES + 1)
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
                yield name, Malformed(name, f"can't be unpacked: {error}")
                continue
            if len(content) > LARGEST_ENTRY_BYTES:
                yield name, Malformed(name, f"unpacks to more than {LARGEST_ENTRY_BYTES >> 20} MiB")
            else:
                yield name, content


def _entries(where: str, content: bytes) -> Iterator[Entry | Malformed | None]:
    try:
        whole = _decode(content)
    except _FAULTS as error:
        lines = [(number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
        if len(lines) < 2 or not lines[0][1].strip().startswith(b"{") or not lines[0][1].strip().endswith(b"}"):
            yield Malformed(where, str(error))
            return
        for number, line in lines:
            yield _entry(f"{where}, line {number}", line)
        return
    if isinstance(whole, dict) and "vulns" in whole:
        try:
            whole = msgspec.json.decode(whole["vulns"], type=list[msgspec.Raw] | None) or []
        except _FAULTS as error:
            yield Malformed(where, f"vulns: {error}")
            return
        if not whole:
            yield None
    if isinstance(whole, dict):
        yield _entry(where, content)
        return
    for number, raw in enumerate(whole, 1):
        yield _entry(f"{where}, entry {number}", raw)


def _decode(content: bytes) -> dict[str, msgspec.Raw] | list[msgspec.Raw]:
    decoded: dict[str, msgspec.Raw] | list[msgspec.Raw]
    decoded = msgspec.json.decode(content, type=dict[str, msgspec.Raw] | list[msgspec.Raw])
    return decoded


def _entry(where: str, raw: bytes | msgspec.Raw) -> Entry | Malformed:
    try:
        return msgspec.json.decode(raw, type=Entry)
    except _FAULTS as error:
        return Malformed(where, str(error), _package_names(raw))


def _package_names(raw: bytes | msgspec.Raw) -> frozenset[str]:
    """The names under affected[].package, as far as they can be made out."""
    try:
        loose: Any = msgspec.json.decode(raw)
    except _FAULTS:
        return frozenset()
    affected = loose.get("affected") if isinstance(loose, dict) else None
    packages = [one.get("package") for one in affected if isinstance(one, dict)] if isinstance(affected, list) else []
    return frozenset(str(package.get("name")) for package in packages if isinstance(package, dict))
