"""TOML files into checked structs, with errors that name file, key and the allowed ones."""

from __future__ import annotations

import re
import sys
import typing
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from envs.errors import SpecError
from envs.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

T = TypeVar("T", bound=msgspec.Struct)


def shown(path: Path) -> str:
    """The path as a reader knows it: relative to the checkout where it lies inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def parse_toml(path: Path) -> dict[str, Any]:
    """The file's tables. SpecError names file, line and column."""
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{shown(path)}: not valid TOML: {error}", "mend the file") from error
    return tables


def convert(tables: dict[str, Any], kind: type[T], path: Path) -> T:
    """Tables into `kind`. SpecError names the key that is unknown, missing or of the wrong type."""
    try:
        return msgspec.convert(tables, kind)
    except msgspec.ValidationError as error:
        raise SpecError(f"{shown(path)}: {_explain(str(error), kind)}", "mend the file") from error


def _explain(message: str, kind: type[msgspec.Struct]) -> str:
    where = re.search(r" - at `\$(.*)`$", message)
    place = where.group(1).lstrip(".") if where else ""
    table = f"in [{place}]" if place else "at top level"
    if unknown := re.match(r"Object contains unknown field `(.+?)`", message):
        allowed = ", ".join(_fields_at(kind, place))
        return f"unknown key {unknown.group(1)!r} {table}; allowed: {allowed}"
    if missing := re.match(r"Object missing required field `(.+?)`", message):
        return f"key {missing.group(1)!r} is missing {table}"
    return f"key {place!r}: {message.split(' - at ')[0]}" if place else message


def _fields_at(kind: Any, place: str) -> list[str]:
    for part in re.findall(r"[^.\[\]]+", re.sub(r"\[[^\]]*\]", "[]", place)):
        hints = typing.get_type_hints(kind)
        kind = hints[part]
        while not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            kind = typing.get_args(kind)[0]
    return sorted(field.name for field in msgspec.structs.fields(kind))
