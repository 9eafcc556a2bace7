"""python -m pipelines REQUEST --workspace DIR --data DIR: reads the request, runs the plan, writes the report."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import msgspec

from pipelines.contract import SCHEMA, Event, RunRequest
from pipelines.runner import run
from pipelines.stages import PLAN


def main() -> int:
    """Exit code: 0 every stage ok or skipped with its reason, 1 a stage failed, 2 a request that can't be read."""
    words = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    words.add_argument("request", help="request.json, relative to the workspace")
    words.add_argument("--workspace", type=Path, required=True, help="folder of runs and cache, writable")
    words.add_argument("--data", type=Path, required=True, help="folder of pictures and weights")
    given = words.parse_args()
    try:
        request = msgspec.json.decode((given.workspace / given.request).read_bytes(), type=RunRequest)
    except (OSError, msgspec.DecodeError) as error:
        print(f"{given.request}: not a request: {error}", file=sys.stderr)
        return 2
    if request.schema != SCHEMA:
        print(f"{given.request}: schema {request.schema}, this pipeline reads {SCHEMA}", file=sys.stderr)
        return 2
    ended: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        ended.append(128 + number)
        raise SystemExit(ended[0])

    signal.signal(signal.SIGTERM, stop)
    # events have the real stdout for themselves: what libraries print goes to stderr
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with (given.workspace / request.run_folder / "events.jsonl").open("ab") as record:

        def emit(event: Event) -> None:
            line = msgspec.json.encode(event) + b"\n"
            for stream in (record, events):
                stream.write(line)
                stream.flush()
            if ended:  # some library's import swallowed the exception
                raise SystemExit(ended[0])

        try:
            report = run(request, PLAN, given.workspace, given.data, emit)
        except KeyboardInterrupt:
            return 130
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
