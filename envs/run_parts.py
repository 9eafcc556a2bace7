"""A run's parts, one container after another over the same run folder, and the report that they leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from envs.build import Built
from envs.contract import AFTER_VERIFY, PREPARE, Event, Part, RunReport, RunRequest, parts_of, stages_of
from envs.engines.base import Engine, Task
from envs.errors import EngineError
from envs.mounts import standard_mounts
from envs.paths import runs_root
from envs.workspace import point_latest


@dataclass(frozen=True)
class Surroundings:
    """What every part's container sees beside its environment."""

    data: Path
    variables: Mapping[str, str]


def planned_parts(request: RunRequest, digests: Mapping[str, str], exporter: str) -> tuple[Part, ...]:
    """Which environment runs which stages; `digests` are of the environments' locks.

    A toolchain's own environment takes over after verify. A converter in its vendor's container runs between two
    parts of one environment: after prepare, before convert. () where one part holds all.
    """
    stages = stages_of(request)
    if exporter != request.env:
        head = tuple(stage for stage in stages if stage not in AFTER_VERIFY)
        split = [(exporter, head), (request.env, tuple(stage for stage in stages if stage in AFTER_VERIFY))]
    elif PREPARE in stages:
        cut = stages.index(PREPARE) + 1
        split = [(exporter, stages[:cut]), (exporter, stages[cut:])]
    else:
        return ()
    return tuple(Part(env=env, lock_digest=digests[env], stages=names) for env, names in split)


def run_parts(
    request: RunRequest,
    folder: Path,
    engine: Engine,
    environments: Mapping[str, Built],
    around: Surroundings,
    on_event: Callable[[Event], None],
    between: Callable[[Path], None] | None = None,
) -> None:
    """Run every part to its end. `between` gets the run folder after the stage prepare: the converter runs outside."""
    for place, part in enumerate(parts_of(request)):
        _run_part(place, folder, engine, environments[part.env], around, on_event)
        if between is not None and part.stages[-1] == PREPARE:
            between(folder)


def _run_part(
    place: int,
    folder: Path,
    engine: Engine,
    built: Built,
    around: Surroundings,
    on_event: Callable[[Event], None],
) -> None:
    mounts = standard_mounts(around.data)
    workspace, data_view = engine.view(mounts[0]), engine.view(mounts[1])
    request = folder.relative_to(runs_root()) / "request.json"
    command = ["python3", "-m", "pipelines", str(request), "--workspace", workspace, "--data", data_view]
    task = Task(
        environment=built.environment,
        command=[*command, "--part", str(place)],
        mounts=mounts,
        workdir=workspace,
        variables=around.variables,
    )
    lines = Lines(on_event)
    left = (folder / "report.json", folder / f"part-{place}.json")
    with (folder / "log.txt").open("ab") as log:

        def to_log(block: bytes) -> None:
            log.write(block)
            log.flush()

        code = engine.run(task, stdout=lines.take, stderr=to_log)
    if not any(path.exists() for path in left):
        tail = (folder / "log.txt").read_text("utf-8", errors="replace").strip().splitlines()
        why = tail[-1] if tail else "it said nothing"
        raise EngineError(f"the pipeline ended with {code} and left no report: {why}", f"see {folder / 'log.txt'}")


class Lines:
    """Event lines out of a stream of blocks; a line that is no event is passed over (the run folder has the log)."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self._rest = b""

    def take(self, block: bytes) -> None:
        """The next bytes of the stream."""
        *whole, self._rest = (self._rest + block).split(b"\n")
        for line in whole:
            try:
                event = msgspec.json.decode(line, type=Event)
            except msgspec.DecodeError:
                continue
            self._on_event(event)


def read_report(folder: Path, request: RunRequest) -> RunReport:
    """The report of that request. EngineError where it is of another one, or not whole."""
    path = folder / "report.json"
    try:
        report = msgspec.json.decode(path.read_bytes(), type=RunReport)
    except msgspec.DecodeError as error:
        raise EngineError(f"{path}: not a report: {error}", "keep it and report this as a fault of the tool") from error
    if (report.run_id, report.lock_digest, report.pipeline_digest, report.drift) != (
        request.run_id,
        request.lock_digest,
        request.pipeline_digest,
        request.drift,
    ):
        raise EngineError(f"{path}: it belongs to another request", "run again")
    if [stage.name for stage in report.stages] != list(stages_of(request)):
        raise EngineError(f"{path}: not every stage is in it", "run again")
    point_latest(folder)
    return report
