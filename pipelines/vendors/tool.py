"""The only door to processes inside the environment: a converter's command, its output into a log."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.errors import PipelineError


def run_tool(
    command: Sequence[str | Path],
    log: Path,
    *,
    timeout_s: float,
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> int:
    """Run it to its end, its output added to `log`; the exit code, negative for a signal.

    PipelineError where it does not start or takes longer than `timeout_s`; it and its children are killed then, and
    whenever this process is stopped meanwhile.
    """
    with log.open("ab") as out:
        try:
            started = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, **(variables or {})},
                start_new_session=True,  # so that its children end with it
            )
        except OSError as error:
            raise PipelineError(f"{Path(str(command[0])).name} can't be started: {error.strerror}") from error
        try:
            return started.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise PipelineError(
                f"{Path(str(command[0])).name} did not end within {timeout_s:g} s", "see its log"
            ) from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()
