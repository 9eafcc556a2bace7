"""What the host does between two parts of a run, without containers: the stand-in SDK runs here, by the plan."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from pipelines.contract import (
    OUTSIDE,
    OUTSIDE_FOLDER,
    PREPARED,
    SDK,
    Artifact,
    OutsideReport,
    OutsideStep,
    OutsideStepResult,
    encode,
)
from pipelines.stages.prepare import Prepare
from pipelines.vendors.outside import REPORT, WORK

STAND_IN = Path(__file__).resolve().parents[1] / "stand_in_sdk" / "SGS_IPU_Stand_In_0.1"


def run_plan(run_folder: Path, sdk: Path = STAND_IN) -> OutsideReport:
    """Every step of the plan, each a process; the report lies where the stage convert looks for it."""
    import msgspec

    from pipelines.contract import OutsidePlan

    prepared = run_folder / "artifacts" / Prepare.name
    plan = msgspec.json.decode((prepared / "plan.json").read_bytes(), type=OutsidePlan)
    home = run_folder / OUTSIDE_FOLDER
    results = tuple(_run(step, home, {PREPARED: prepared, OUTSIDE: home / WORK, SDK: sdk}) for step in plan.steps)
    files = tuple(_left(path, home) for path in sorted((home / WORK).rglob("*")) if path.is_file())
    report = OutsideReport(plan=plan, sdk="0" * 64, sdk_name="stand-in", image="sha256:0", steps=results, files=files)
    (home / REPORT).write_bytes(encode(report))
    return report


def _run(step: OutsideStep, home: Path, places: dict[str, Path]) -> OutsideStepResult:
    work = home / WORK
    (work / step.folder).mkdir(parents=True, exist_ok=True)
    found = {word: str(next(work.glob(pattern), "none")) for word, pattern in step.finds.items()}
    words = []
    for option in step.options:
        if option.always:
            words += [option.spellings[0], *([option.value] if option.value else [])]
        elif option.spellings == ("--soc_version",):
            words += [option.spellings[0], option.value]
    command = [sys.executable, f"{SDK}/{step.program}", *step.words, *(found.get(word, word) for word in words)]
    command = [_seen(word, places) for word in command]
    log = home / f"{step.name}.log"
    env = {**os.environ, "SGS_IPU_DIR": str(places[SDK]), "PYTHONPATH": str(places[SDK] / "Scripts" / "calibrator")}
    with log.open("wb") as out:
        done = subprocess.run(command, cwd=work / step.folder, env=env, stdout=out, stderr=out, check=False)
    return OutsideStepResult(
        name=step.name, form=step.form, command=tuple(command), exit_code=done.returncode, elapsed_s=0.1, log=log.name
    )


def _seen(word: str, places: dict[str, Path]) -> str:
    for target, place in places.items():
        if word.startswith(target):
            return str(place) + word[len(target) :]
    return word


def _left(path: Path, home: Path) -> Artifact:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Artifact(path=path.relative_to(home).as_posix(), sha256=digest, bytes=len(content))
