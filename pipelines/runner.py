"""Runs the plan: order, cache, time and record. Every stage of the contract is in the report, whatever happened."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pipelines import native
from pipelines.cache import Cache, Entry, key_of, sha256_file, write_atomic
from pipelines.contract import Artifact, Event, Fact, Part, RunReport, RunRequest, StageResult, encode, parts_of
from pipelines.errors import DISK_FULL, UNPACK_AGAIN, PipelineError, first_line
from pipelines.installed import installed
from pipelines.scratch import is_full, scratch
from pipelines.stage import Context, InputFile, Outcome, Stage

_ENDED = {"failed": "failed", "skipped": "was skipped"}
RECORDED_VERSIONS = ("torch", "torchvision", "onnx", "onnxruntime", "onnxsim", "numpy", "protobuf", "pillow")


@dataclass
class _Run:
    """What the run knows so far."""

    request: RunRequest
    part: Part
    workspace: Path
    data: Path
    cache: Cache
    emit: Callable[[Event], None]
    results: list[StageResult] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    files: dict[str, dict[str, Path]] = field(default_factory=dict)  # stage -> output -> path in the run folder
    facts: dict[str, Mapping[str, Fact]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.workspace / self.request.run_folder


def run(
    request: RunRequest,
    stages: Sequence[Stage],
    workspace: Path,
    data: Path,
    emit: Callable[[Event], None],
    place: int = 0,
) -> RunReport:
    """Run the stages of one part of the request, in order.

    The last part writes `report.json` into the run folder, the others `part-PLACE.json`, from which the next goes on.
    PipelineError where the part before has left none.
    """
    parts = parts_of(request)
    state = _Run(request, parts[place], workspace, data, Cache(workspace / ".cache"), emit)
    # what an earlier, killed run of this same request left must not be taken for this one's
    (state.folder / "report.json").unlink(missing_ok=True)
    found = versions()
    if place == 0:
        shutil.rmtree(state.folder / "artifacts", ignore_errors=True)
        emit(Event(kind="run_started", message=request.run_id))
    else:
        before = _go_on(state, place - 1)
        found = _merged(before.versions, found, state.part.env)
    for stage in stages:
        if stage.name in state.part.stages:
            _one(stage, state)
    report = RunReport(
        run_id=request.run_id,
        model=request.model,
        env=request.env,
        engine=request.engine,
        lock_digest=request.lock_digest,
        pipeline_digest=request.pipeline_digest,
        run_folder=request.run_folder,
        weights=request.weights,
        versions=found,
        stages=tuple(state.results),
        artifacts=tuple(state.artifacts),
        drift=request.drift,
    )
    is_last = place == len(parts) - 1
    write_atomic(state.folder / ("report.json" if is_last else part_file(place)), encode(report))
    if is_last:
        emit(Event(kind="run_finished", status="ok" if report.ok else "failed"))
    return report


def part_file(place: int) -> str:
    """Name of what a part that is not the last leaves in the run folder."""
    return f"part-{place}.json"


def _go_on(state: _Run, place: int) -> RunReport:
    """Take over what the parts up to `place` did."""
    path = state.folder / part_file(place)
    try:
        before = msgspec.json.decode(path.read_bytes(), type=RunReport)
    except (OSError, msgspec.DecodeError) as error:
        raise PipelineError(f"{path.name}: the part before left no report: {first_line(error)}", "run again") from error
    state.results += before.stages
    state.artifacts += before.artifacts
    for one in before.stages:
        root = Path("artifacts", one.name)
        state.files[one.name] = {Path(out).relative_to(root).as_posix(): state.folder / out for out in one.outputs}
        state.facts[one.name] = one.facts
    return before


def _merged(before: Mapping[str, str], here: Mapping[str, str], env: str) -> dict[str, str]:
    """All versions; where two environments differ, the later one's are named after it."""
    merged = dict(before)
    for name, version in here.items():
        if merged.setdefault(name, version) != version:
            merged[f"{name} ({env})"] = version
    return merged


def versions() -> dict[str, str]:
    """Versions of what decides results."""
    return {"kernels": native.describe(), **installed(RECORDED_VERSIONS)}


def _one(stage: Stage, state: _Run) -> None:
    state.emit(Event(kind="stage_started", stage=stage.name))
    began = time.monotonic()
    missing = [f"{r.name} {_ENDED[r.status]}" for r in state.results if r.name in stage.needs and r.status != "ok"]
    if missing:
        entry, cached = _ended("skipped", missing[0]), False
    else:
        entry, cached = _answer(stage, state)
    laid = state.cache.lay_out(entry.outputs, state.folder / "artifacts" / stage.name)
    paths = {name: path.relative_to(state.folder).as_posix() for name, path in laid.items()}
    state.files[stage.name] = dict(laid)
    state.facts[stage.name] = entry.facts
    state.artifacts += [Artifact(path=paths[a.path], sha256=a.sha256, bytes=a.bytes) for a in entry.outputs]
    elapsed_s = round(time.monotonic() - began, 3)
    state.results.append(
        StageResult(
            name=stage.name,
            status=entry.status,
            reason=entry.reason,
            elapsed_s=elapsed_s,
            cached=cached,
            env=state.part.env,
            outputs=tuple(paths.values()),
            facts=dict(entry.facts),
        )
    )
    state.emit(
        Event(
            kind="stage_finished",
            stage=stage.name,
            status=entry.status,
            message=entry.reason or entry.summary,
            elapsed_s=elapsed_s,
            cached=cached,
        )
    )


def _answer(stage: Stage, state: _Run) -> tuple[Entry, bool]:
    """From the cache where its key is known, else by running it; only what did not fail is remembered."""
    request = state.request
    try:
        files = stage.input_files(request, state.data, state.folder)
        _check(files, state.folder)
    except PipelineError as error:
        return _ended("failed", str(error)), False
    read = (*stage.needs, *stage.uses)
    inputs = {f"{name}/{out}": path for name in read for out, path in state.files.get(name, {}).items()}
    made = {a.path: a.sha256 for a in state.artifacts}
    key = key_of(
        stage.name,
        stage.parameters(request),
        [(file.name, file.sha256) for file in files],
        {name: made[path.relative_to(state.folder).as_posix()] for name, path in inputs.items()},
        {name: dict(state.facts.get(name, {})) for name in read},
        state.part.lock_digest,
        request.pipeline_digest,
        native.form(),
    )
    if request.use_cache and (entry := state.cache.find(key)):
        return entry, True
    entry = _run_stage(stage, state, inputs)
    if entry.status != "failed":
        state.cache.put(key, entry)
    return entry, False


def _check(files: Sequence[InputFile], run_folder: Path) -> None:
    for file in files:
        is_copy = file.path.is_relative_to(run_folder)  # of what the user gave, made for this run
        remedy = "something changed the run folder: run again" if is_copy else UNPACK_AGAIN
        if not file.path.is_file():
            raise PipelineError(f"{file.path.name} is missing", remedy)
        if sha256_file(file.path) != file.sha256:
            asked = "the request's" if is_copy else "the locked one"
            raise PipelineError(f"{file.path.name} is corrupt: its sha256 is not {asked}", remedy)


def _run_stage(stage: Stage, state: _Run, inputs: Mapping[str, Path]) -> Entry:
    with scratch(state.workspace / ".cache" / "scratch", stage.name) as out:

        def progress(what: str, done: int, total: int) -> None:
            state.emit(Event(kind="progress", stage=stage.name, message=what, done=done, total=total))

        context = Context(
            request=state.request,
            data=state.data,
            run_folder=state.folder,
            out=out,
            inputs=inputs,
            results=dict(state.facts),
            progress=progress,
        )
        try:
            outcome = stage.run(context)
        except PipelineError as error:
            return _failed(out, state, str(error), "")
        except (Exception, SystemExit) as error:  # a stage's fault must not take the report with it
            if is_full(out):
                return _failed(out, state, str(DISK_FULL), "")
            reason = (
                f"{type(error).__name__}: {first_line(error)} (the traceback is in artifacts/{stage.name}/error.txt)"
            )
            return _failed(out, state, reason, traceback.format_exc())
        return _entry(outcome, out, state)


def _entry(outcome: Outcome, out: Path, state: _Run) -> Entry:
    return Entry(
        status=outcome.status,
        reason=outcome.reason,
        summary=outcome.summary,
        facts=dict(outcome.facts),
        outputs=state.cache.take(out),
    )


def _failed(out: Path, state: _Run, reason: str, trace: str) -> Entry:
    """Half-made outputs are not handed on; the traceback is."""
    shutil.rmtree(out)
    out.mkdir()
    if trace:
        (out / "error.txt").write_text(trace, "utf-8")
    return _entry(Outcome(status="failed", reason=reason), out, state)


def _ended(status: str, reason: str) -> Entry:
    return Entry(status="skipped" if status == "skipped" else "failed", reason=reason, summary="", facts={}, outputs=())
