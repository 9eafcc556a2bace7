"""What was measured: `measured.toml`, one table a cell, and what each result says about which parts."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Literal

import msgspec
import tomli_w

from envs import toml
from envs.files import exclusive, write_atomic
from envs.paths import cache_root

MEASURED = "measured.toml"
HEAD = "# Written by `invoke match --measure`: what happened on linux/amd64, whatever was documented.\n\n"


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that was tried in a cell. `error` "" where it worked.

    import: `package` in a process of its own. export: by `exporter` at `opset`. check: onnx.checker on a file of
    `opset` and `ir`. run: onnxruntime on it, compared with torch.
    """

    what: Literal["import", "export", "check", "run"]
    package: str = ""
    loaded: tuple[str, ...] = ()  # import: parts that were in the process when it ended
    exporter: str = ""
    opset: int = 0
    ir: int = 0  # export: as written
    max_difference: float | None = None  # run: largest absolute difference to torch's output
    error: str = ""


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One environment: exact versions, what they could do together, and on which day that was seen."""

    python: str
    versions: dict[str, str]  # part -> version
    day: dt.date
    error: str = ""  # it could not be installed, and why
    result: tuple[Result, ...] = ()


class Measured(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All cells."""

    cell: tuple[Cell, ...] = ()


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What one result says: these exact values go together, or do not."""

    values: tuple[tuple[str, str], ...]  # (part, value)
    ok: bool
    said: str


def read_measured(path: Path) -> Measured:
    """The file's cells; none where there is no file yet."""
    return toml.convert(toml.parse_toml(path), Measured, path) if path.exists() else Measured()


def record(path: Path, cell: Cell) -> Measured:
    """Put the cell into the file, in place of one with the same versions. The file is whole or as it was.

    Two that measure at the same time wait for each other.
    """
    with exclusive(cache_root() / "locks" / "measured", waiting=lambda: None):
        return _record(path, cell)


def _record(path: Path, cell: Cell) -> Measured:
    others = [one for one in read_measured(path).cell if (one.python, one.versions) != (cell.python, cell.versions)]
    ordered = sorted((*others, cell), key=lambda one: (one.python, sorted(one.versions.items())))
    measured = Measured(cell=tuple(ordered))
    write_atomic(path, (HEAD + tomli_w.dumps(msgspec.to_builtins(measured, builtin_types=(dt.date,)))).encode())
    return measured


def observations(measured: Measured) -> tuple[Observation, ...]:
    """Each result as a statement about the parts that took part in it and no others; a run that went well, which needs
    all that comes before it, also about the whole set. An import that went well says nothing by itself.
    """
    found = []
    for cell in measured.cell:
        for one in cell.result:
            if one.error or one.what != "import":
                found.append(Observation(values=_values(cell, one), ok=not one.error, said=one.error))
            if one.what == "run" and not one.error:
                whole = {**cell.versions, "python": cell.python, **_file(one), "exporter": one.exporter}
                found.append(Observation(values=tuple(sorted(whole.items())), ok=True, said=""))
    return tuple(dict.fromkeys(found))


def _values(cell: Cell, one: Result) -> tuple[tuple[str, str], ...]:
    taking_part = {
        "import": (one.package, *one.loaded),
        "export": ("torch", *(("onnx", "onnxscript") if one.exporter == "dynamo" else ())),
        "check": ("onnx",),
        "run": ("onnxruntime",),
    }[one.what]
    values = {part: version for part, version in cell.versions.items() if part in taking_part}
    match one.what:
        case "import":
            values["python"] = cell.python
        case "export":
            values |= {"exporter": one.exporter, "opset": str(one.opset)}
        case _:
            values |= _file(one)
    return tuple(sorted(values.items()))


def _file(one: Result) -> dict[str, str]:
    return {"opset": str(one.opset), "ir": str(one.ir)}
