"""requirements.txt, as pip reads it: pins, hashes, markers, files that it names; pinned or not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from envs.init.found import DEFAULT_PYTHON, Found, Notes
from envs.toml import shown

WHERE_FROM = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--no-index", "--trusted-host")
HARMLESS = ("--require-hashes", "--prefer-binary", "--only-binary", "--no-binary", "--pre", "--use-feature")


def read_requirements(path: Path, python: str) -> Found:
    """The packages of a requirements file. SpecError names file and line of what no spec can hold."""
    notes = Notes(path)
    _read(path, python or DEFAULT_PYTHON, notes, (path.resolve(),))
    return Found(packages=notes.packages, loose=tuple(notes.loose), hashes=notes.hashes, decide=tuple(notes.decide))


def _read(path: Path, python: str, notes: Notes, trail: tuple[Path, ...]) -> None:
    outer, notes.path = notes.path, path
    for line, text in _lines(notes):
        option = re.match(r"(--?[A-Za-z-]+)[ =]?\s*(.*)", text)
        if not option:
            hashes = tuple(re.findall(r"--hash[= ]sha256:([0-9a-f]{64})\b", text))
            if "--hash" in text and not hashes:
                raise notes.error(line, "a hash that is no sha256", "take the file's sha256")
            notes.require(re.split(r"\s+--", text)[0].strip(), line, python, hashes)
        elif option[1] in ("-r", "--requirement"):
            other = path.parent / option[2]
            if not other.is_file() or other.resolve() in trail:
                raise notes.error(line, f"{option[2]!r} is not there, or names itself")
            _read(other, python, notes, (*trail, other.resolve()))
        elif option[1] in WHERE_FROM:
            notes.say(f"{shown(path)} says where packages come from: set EDGEKILN_INDEX_URL, no spec holds an address")
        elif option[1] in ("-c", "--constraint"):
            notes.say(f"{shown(path)} names constraints ({option[2]}), which are not read: pin what they hold back")
        elif option[1] not in HARMLESS:
            raise notes.error(line, f"{text!r} can't be read", "take it out")
    notes.path = outer


def _lines(notes: Notes) -> Iterator[tuple[int, str]]:
    """Logical lines with the number of their first, without comments."""
    try:
        text = notes.path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise notes.error(0, "it is no text in UTF-8") from error
    begun, gathered = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        plain = re.sub(r"(^|\s)#.*$", "", line).strip()
        begun = begun or number
        gathered += plain.removesuffix("\\").rstrip() + " "
        if plain.endswith("\\"):
            continue
        if gathered.strip():
            yield begun, gathered.strip()
        begun, gathered = 0, ""
    if gathered.strip():
        yield begun, gathered.strip()
