"""The only door to subprocess: argument lists, never shell strings."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from envs.errors import BuildError, CommandMissing


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    shown: str = "",
) -> bytes:
    """Run to the end and return its standard output.

    Raises BuildError where it can't start or exits non-zero: with the first line of its standard error that holds
    `shown`, else with the last.
    """
    words = [str(word) for word in command]
    name = Path(words[0]).name
    try:
        done = subprocess.run(words, env=env, cwd=cwd, input=stdin, capture_output=True, check=False)
    except OSError as error:
        raise BuildError(f"{name}: can't be started: {error.strerror}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        line = next((line for line in lines if shown and shown in line), lines[-1])
        raise BuildError(f"{name} ended with {done.returncode}: {line.strip()}")
    return done.stdout


def attach(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    no_stdin: bool = False,
    new_group: bool = False,
) -> subprocess.Popen[bytes]:
    """Start with the caller's own streams unless told otherwise; the caller waits for it.

    CommandMissing where there is no such command on the PATH of `env`.
    """
    words = [str(word) for word in command]
    found = shutil.which(words[0], path=env.get("PATH"))
    if found is None:
        raise CommandMissing(f"{words[0]}: no such command in the environment")
    return subprocess.Popen(
        [found, *words[1:]],
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL if no_stdin else None,
        stdout=stdout,
        stderr=stderr,
        start_new_session=new_group,
    )
