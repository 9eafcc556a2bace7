"""What was measured: `measured.toml`, one table a cell, and what each result says about which parts."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Literal

import msgspec
import tomli_w

from envs import toml
from envs.files import write_atomic

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
    """Put the cell into the file, in place of one with the same versions. The file is whole or as it was."""
    others = [one for one in read_measured(path).cell if (one.python, one.versions) != (cell.python, cell.versions)]
    ordered = sorted((*others, cell), key=lambda one: (one.python, sorted(one.versions.items())))
    measured = Measured(cell=tuple(ordered))
    write_atomic(path, (HEAD + tomli_w.dumps(msgspec.to_builtins(measured, builtin_types=(dt.date,)))).encode())
    return measured


def observations(measured: Measured) -> tuple[Observation, ...]:
    """Each result as a statement about the parts that took part in it, and no others."""
    found = [_observed(cell, result) for cell in measured.cell for result in cell.result]
    return tuple(dict.fromkeys(found))


def _observed(cell: Cell, result: Result) -> Observation:
    taking_part = {
        "import": ("python", result.package, *result.loaded),
        "export": ("torch", *(("onnx", "onnxscript") if result.exporter == "dynamo" else ())),
        "check": ("onnx",),
        "run": ("onnxruntime",),
    }[result.what]
    own = {part: version for part, version in cell.versions.items() if part in taking_part}
    if result.what == "import":
        own["python"] = cell.python
    else:
        own["opset"] = str(result.opset)
    if result.what == "export":
        own["exporter"] = result.exporter
    if result.what in ("check", "run"):
        own["ir"] = str(result.ir)
    return Observation(values=tuple(sorted(own.items())), ok=not result.error, said=result.error)
