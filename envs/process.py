"""The only door to subprocess: argument lists, never shell strings."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from envs.errors import BuildError


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
) -> bytes:
    """Run to the end and return its standard output.

    Raises BuildError with the last line of its standard error where it can't start or exits non-zero.
    """
    words = [str(word) for word in command]
    name = Path(words[0]).name
    try:
        done = subprocess.run(words, env=env, cwd=cwd, input=stdin, capture_output=True, check=False)
    except OSError as error:
        raise BuildError(f"{name}: can't be started: {error.strerror}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise BuildError(f"{name} ended with {done.returncode}: {lines[-1].strip()}")
    return done.stdout


def attach(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    new_group: bool = False,
) -> subprocess.Popen[bytes]:
    """Start with the caller's own streams unless told otherwise; the caller waits for it."""
    return subprocess.Popen(
        [str(word) for word in command],
        env=dict(env),
        cwd=cwd,
        stdout=stdout,
        stderr=stderr,
        start_new_session=new_group,
    )


def replace(command: Sequence[str | Path], *, env: Mapping[str, str]) -> None:
    """Become that command; does not return."""
    words = [str(word) for word in command]
    os.execvpe(words[0], words, dict(env))  # noqa: S606 - no shell is involved
