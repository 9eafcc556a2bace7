"""python -m pipelines REQUEST --workspace DIR --data DIR [--part N] [--threads N]: request in, plan run, report out."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import msgspec

from pipelines.contract import SCHEMA, Event, RunRequest, parts_of
from pipelines.errors import PipelineError, Stopped
from pipelines.runner import run
from pipelines.stages import plan


def main() -> int:
    """Exit code: 0 all stages ok or skipped with reason, 1 one failed or nothing can be written, 2 no request."""
    words = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    words.add_argument("request", help="request.json, relative to the workspace")
    words.add_argument("--workspace", type=Path, required=True, help="folder of runs and cache, writable")
    words.add_argument("--data", type=Path, required=True, help="folder of pictures and weights")
    words.add_argument("--part", type=int, default=0, help="which part of the request, from 0")
    words.add_argument("--threads", type=int, help="threads of torch and onnxruntime; without it, all cores")
    given = words.parse_args()
    if given.threads is not None:
        if given.threads < 1:
            words.error(f"--threads: {given.threads} is less than 1")
        os.environ["OMP_NUM_THREADS"] = str(given.threads)  # read when a stage first imports either
    try:
        request = _read(given.workspace, given.request)
    except PipelineError as error:
        print(f"{given.request}: {error}", file=sys.stderr)
        return 2
    if not 0 <= given.part < len(parts_of(request)):
        words.error(f"--part: {given.part} is none of the request's {len(parts_of(request))} parts")
    try:
        return _run(request, given.workspace, given.data, given.part)
    except Stopped as stopped:
        return stopped.code
    except PipelineError as error:
        print(f"{given.request}: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a stage's own errors are in the report; these kept it from being written
        print(f"the workspace can't be written: {error}", file=sys.stderr)
        return 1


def _read(workspace: Path, name: str) -> RunRequest:
    """The request. PipelineError where the file is none, or names what is not the workspace's."""
    try:
        request = msgspec.json.decode((workspace / name).read_bytes(), type=RunRequest)
    except (OSError, msgspec.DecodeError) as error:
        raise PipelineError(f"not a request: {error}") from error
    if request.schema != SCHEMA:
        raise PipelineError(f"schema {request.schema}, this pipeline reads {SCHEMA}")
    folder = workspace / request.run_folder
    if not folder.is_dir() or not folder.resolve().is_relative_to(workspace.resolve()):
        raise PipelineError(f"its run folder {request.run_folder} is not in the workspace")
    if request.model != Path(request.model).name:
        raise PipelineError(f"{request.model!r} is no plain name, and files are named after it")
    return request


def _run(request: RunRequest, workspace: Path, data: Path, part: int) -> int:
    """Events to the run folder and to stdout; 0 where the report is ok, else 1. Stopped on SIGTERM and SIGINT."""
    ended: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        ended.append(128 + number)
        raise Stopped(ended[0])

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    # events have the real stdout for themselves: what libraries print goes to stderr
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with (workspace / request.run_folder / "events.jsonl").open("ab" if part else "wb") as record:

        def emit(event: Event) -> None:
            line = msgspec.json.encode(event) + b"\n"
            for stream in (record, events):
                stream.write(line)
                stream.flush()
            if ended:  # some library's import swallowed the exception
                raise Stopped(ended[0])

        report = run(request, plan(request), workspace, data, emit, part)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
