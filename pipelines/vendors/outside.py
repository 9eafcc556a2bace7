"""Reading what a vendor's own container left in `RUN/vendor/`: the host ran it, and wrote its report beside."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from pipelines.contract import OutsideReport, OutsideStepResult
from pipelines.errors import PipelineError
from pipelines.stage import InputFile
from pipelines.vendors.base import last_error_line

REPORT, WORK = "outside.json", "work"  # of the folder: the report, and what the container wrote


def read_report(folder: Path) -> OutsideReport:
    """What the host wrote. PipelineError where it is not there, or not whole."""
    try:
        return msgspec.json.decode((folder / REPORT).read_bytes(), type=OutsideReport)
    except (OSError, msgspec.DecodeError) as error:
        raise PipelineError(f"the vendor's container left no report: {error}", "run again") from error


def left_files(folder: Path) -> list[InputFile]:
    """Every file that the container left, with the sha256 that it had then; none where it did not run."""
    if not (folder / REPORT).exists():
        return []
    return [InputFile(file.path, folder / file.path, file.sha256) for file in read_report(folder).files]


def sdk_versions(folder: Path) -> dict[str, str]:
    """The SDK that ran in the container, and the image; {} where none did."""
    if not (folder / REPORT).exists():
        return {}
    report = read_report(folder)
    return {"SDK": report.sdk_name, "image": report.image.removeprefix("sha256:")[:12]}


def ended(report: OutsideReport, name: str, folder: Path, out: Path) -> OutsideStepResult:
    """The step of that name, which ended well; its log is kept in `out`. PipelineError says why it did not."""
    step = next((one for one in report.steps if one.name == name), None)
    if step is None:
        raise PipelineError(f"the vendor's container was not asked for {name}", "run again")
    said = ""
    if step.log and (log := folder / step.log).is_file():
        shutil.copyfile(log, out / f"{name}.log")
        said = last_error_line(log.read_text("utf-8", errors="replace"))
    if step.reason:
        raise PipelineError(f"{name}: {step.reason}")
    if step.exit_code:
        raise PipelineError(f"{name} ended with {step.exit_code}" + (f": {said}" if said else ""), f"see {name}.log")
    return step


def take(folder: Path, pattern: str, out: Path) -> str:
    """Copy the only file of that pattern into `out`; its name. PipelineError where there is none, or several."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise PipelineError(f"the converter left {len(found)} files {pattern}, one is wanted", "see its log")
    shutil.copyfile(found[0], out / found[0].name)
    return found[0].name
