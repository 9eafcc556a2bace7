"""Between two parts of a run: a vendor's tools in the vendor's own container, by the plan that the stage prepare wrote.

The container has no network, no privileges, the caller's uid and a read-only root. It sees the plan's files and the
SDK read-only, and writes to one folder of the run. (The vendor's own script starts it with --privileged --net=host.)
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from envs.contract import (
    OUTSIDE,
    OUTSIDE_FOLDER,
    PREPARE,
    PREPARED,
    SDK,
    Artifact,
    OutsideOption,
    OutsidePlan,
    OutsideReport,
    OutsideStep,
    OutsideStepResult,
    encode,
)
from envs.engines.base import Environment, Mount, Sink, Task
from envs.errors import EngineError
from envs.files import sha256_file, write_atomic
from envs.progress import Progress
from envs.sdk.results import REPORT, key_of, recall, remember

WORK, LOGS, TEMPORARY = "work", "logs", "tmp"
TIMED_OUT, NOT_SET_UP = 124, 125
SETTING_UP = """
load() { source ./cfg_env.sh; }
sdk=$1 folder=$2 seconds=$3
shift 3
cd "$sdk" || exit 125
load
cd "$folder" || exit 125
exec timeout --kill-after=10 "$seconds" "$@"
"""


class Runs(Protocol):
    """What of an engine is needed here."""

    def run(self, task: Task, *, stdout: Sink, stderr: Sink) -> int: ...


class Vendors(msgspec.Struct, frozen=True):
    """The vendor's image in the engine, its SDK on this host, and what to call them."""

    identity: str  # hex sha256 over both, as in the request
    name: str
    image: str
    folder: Path


def run_outside(
    engine: Runs, vendors: Vendors, run_folder: Path, progress: Progress, cache: Path | None = None
) -> OutsideReport | None:
    """Run every step of the plan and write `vendor/outside.json`; None where the stage prepare left no plan.

    A step that fails is in the report, and the later ones of its form are not run. EngineError where the engine fails.
    `cache`: a folder that keeps what ended well; the same SDK over the same files is answered from it.
    """
    prepared = run_folder / "artifacts" / PREPARE
    if not (prepared / "plan.json").exists():
        return None
    plan = msgspec.json.decode((prepared / "plan.json").read_bytes(), type=OutsidePlan)
    home = run_folder / OUTSIDE_FOLDER
    kept = cache / key_of(vendors.identity, vendors.image, prepared) if cache else None
    if kept and (known := recall(kept, home)):
        progress.say(f"{vendors.name}: {len(known.steps)} steps, from the cache")
        return known
    shutil.rmtree(home, ignore_errors=True)
    for step in plan.steps:
        (home / WORK / step.folder).mkdir(parents=True, exist_ok=True)
    (home / WORK / TEMPORARY).mkdir(parents=True)
    (home / LOGS).mkdir()
    container = _Container(engine, vendors, plan.vendor, home, prepared)
    results: list[OutsideStepResult] = []
    for place, step in enumerate(plan.steps, 1):
        progress.say(f"{vendors.name}: {step.name} ({place} of {len(plan.steps)})")
        before = next((one for one in results if one.form == step.form and (one.exit_code or one.reason)), None)
        if before is not None:
            results.append(OutsideStepResult(name=step.name, form=step.form, reason=f"not run: {before.name} failed"))
        else:
            results.append(container.run(step))
    shutil.rmtree(home / WORK / TEMPORARY, ignore_errors=True)
    report = OutsideReport(
        plan=plan,
        sdk=vendors.identity,
        sdk_name=vendors.name,
        image=vendors.image,
        steps=tuple(results),
        files=_left(home),
    )
    write_atomic(home / REPORT, encode(report))
    if kept and all(step.exit_code == 0 for step in results):
        remember(home, kept)
    return report


class _Container:
    """Runs steps, each in a container of its own."""

    def __init__(self, engine: Runs, vendors: Vendors, vendor: str, home: Path, prepared: Path) -> None:
        self._engine = engine
        self._home = home
        self._environment = Environment(f"{vendor}-sdk", f"sha256:{vendors.identity}", vendors.folder, vendors.image)
        self._mounts = (
            Mount(home / WORK, OUTSIDE, writable=True),
            Mount(prepared, PREPARED),
            Mount(vendors.folder, SDK),
        )
        self._help: dict[tuple[str, ...], str] = {}

    def run(self, step: OutsideStep) -> OutsideStepResult:
        """The step to its end, its output in a log that the container can't reach."""
        result = OutsideStepResult(name=step.name, form=step.form)
        try:
            command = self._command(step)
        except _Unclear as error:
            return msgspec.structs.replace(result, reason=str(error))
        log = self._home / LOGS / f"{step.name}.log"
        began = time.monotonic()
        with log.open("wb") as file:
            code = self._enter(command, step.folder, step.timeout_s, file.write)
        return msgspec.structs.replace(
            result,
            command=tuple(command),
            exit_code=code,
            reason=f"it did not end within {step.timeout_s:g} s" if code == TIMED_OUT else "",
            elapsed_s=round(time.monotonic() - began, 3),
            log=f"{LOGS}/{log.name}",
        )

    def _command(self, step: OutsideStep) -> list[str]:
        program = ["python3", f"{SDK}/{step.program}", *step.words]
        found = {word: self._only(pattern) for word, pattern in step.finds.items()}
        options = [word for option in step.options for word in _spelled(option, lambda: self._help_of(program))]
        return [*program, *(found.get(word, word) for word in options)]

    def _only(self, pattern: str) -> str:
        """The file that an earlier step left, as the container sees it."""
        there = sorted((self._home / WORK).glob(pattern))
        if len(there) != 1:
            raise _Unclear(f"the steps before left {len(there)} files {pattern}, one is wanted")
        return f"{OUTSIDE}/{there[0].relative_to(self._home / WORK).as_posix()}"

    def _help_of(self, program: list[str]) -> str:
        key = tuple(program)
        if key not in self._help:
            said = bytearray()
            self._enter([*program, "--help"], ".", 300, said.extend)
            self._help[key] = said.decode("utf-8", errors="replace")
        return self._help[key]

    def _enter(self, command: list[str], folder: str, seconds: float, sink: Callable[[bytes], object]) -> int:
        def take(block: bytes) -> None:
            sink(block)

        words = [SDK, f"{OUTSIDE}/{folder}", f"{seconds:g}", *command]
        task = Task(
            environment=self._environment,
            command=["bash", "-c", SETTING_UP, "vendor", *words],
            mounts=self._mounts,
            workdir=OUTSIDE,
            variables=_variables(),
        )
        code = self._engine.run(task, stdout=take, stderr=take)
        if code == NOT_SET_UP:
            raise EngineError(f"{self._environment.name}: its container can't enter the SDK or {folder}")
        return code


class _Unclear(Exception):
    """Why a step's command can't be told."""


def _variables() -> Mapping[str, str]:
    """The container's own folder for temporary files is small, and nothing runs from it; the SDK is read-only."""
    return {"TMPDIR": f"{OUTSIDE}/{TEMPORARY}", "PYTHONDONTWRITEBYTECODE": "1"}


def _spelled(option: OutsideOption, help_text: Callable[[], str]) -> list[str]:
    """The words of an option, in the spelling that the tool's help names."""
    value = [option.value] if option.value else []
    if option.always and len(option.spellings) == 1:
        return [option.spellings[0], *value]
    said = help_text()
    named = [one for one in option.spellings if re.search(rf"(?<![\w-]){re.escape(one)}(?![\w-])", said)]
    if named:
        return [named[0], *value]
    if option.always:
        raise _Unclear(f"the help of the tool names none of {', '.join(option.spellings)}")
    return []


def _left(home: Path) -> tuple[Artifact, ...]:
    """Regular files that the container left; a link there may point anywhere on this host."""
    there = [Path(place, name) for place, _, names in os.walk(home / WORK) for name in names]
    return tuple(
        Artifact(path=path.relative_to(home).as_posix(), sha256=sha256_file(path), bytes=path.stat().st_size)
        for path in sorted(there)
        if stat.S_ISREG(path.lstat().st_mode)
    )
