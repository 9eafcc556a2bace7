"""One conversion in a process of its own: a tool that crashes, hangs or prints takes nothing else with it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import msgspec

from pipelines.errors import PipelineError
from pipelines.vendors.base import Converted, Job, Vendor
from pipelines.vendors.tool import run_tool


def convert_apart(tool: Vendor, job: Job, log: Path, timeout_s: float) -> Converted:
    """What the tool made; `error` says in one line why it made nothing. All it printed is in `log`."""
    path = Path(job.work, "job.json")
    path.write_bytes(msgspec.json.encode(job))
    home = Path(job.work, "home")
    home.mkdir()
    folders = {"HOME": str(home), "TMPDIR": str(home)}  # a container's own /tmp is small, and nothing runs from it
    try:
        code = run_tool(
            [sys.executable, "-m", "pipelines.vendors", path],
            log,
            timeout_s=timeout_s,
            folder=Path(job.work),
            variables=folders,
        )
        made = _result(job)
    except PipelineError as error:
        return Converted(file="", error=str(error))
    if made is None:
        return Converted(file="", error=_died(tool, code, log))
    missing = [name or "file" for name in (made.file, *made.beside) if not Path(job.out, name).is_file()]
    if missing and not made.error:
        return Converted(file="", error=f"the tool ended well and left no {missing[0]}{_says(tool, log)}")
    return made


def _result(job: Job) -> Converted | None:
    try:
        return msgspec.json.decode(Path(job.result).read_bytes(), type=Converted)
    except FileNotFoundError:
        return None


def _died(tool: Vendor, code: int, log: Path) -> str:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    return f"{tool.name} {how}{_says(tool, log)}"


def _says(tool: Vendor, log: Path) -> str:
    said = tool.cause(log.read_text("utf-8", errors="replace"))
    return f": {said}" if said else ""
