"""The steps of an image build, the same here and in every CI: each is a command of this tool that anyone can type."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from envs import process
from envs.errors import LockError, WrongUse
from envs.lock import lock_path, read_lock
from envs.paths import ROOT
from envs.progress import Progress
from envs.spec import spec_names, spec_path
from envs.toolchain import HEAVY


class Step(msgspec.Struct, frozen=True):
    """One command: its short name, and the words after `invoke`."""

    name: str
    words: tuple[str, ...]


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """How a step of an environment ended; `exit_code` is None where it was not reached."""

    env: str
    step: str
    command: str
    exit_code: int | None = None
    elapsed_s: float = 0.0


class Listed(msgspec.Struct, frozen=True):
    """One line of a CI's matrix: an environment that can be built, and the key of its cache."""

    env: str
    lock: str  # hex digest


def steps(env: str, engine: str, output: Path, push: str) -> tuple[Step, ...]:
    """What is done for one environment, in order. `push` is HOST/REPOSITORY, below which each has its own; "" for none.

    It is pushed last: only what was rebuilt, compared and tested gets out.
    """
    of, where = ("--env", env), ("--engine", engine)
    return (
        Step("lock", ("lock", "--check", *of)),
        Step("build", ("build", *of, *where)),
        Step("verify", ("verify", *of, *where)),
        Step("test inside", ("test", "--inside", *of, *where)),
        Step("layout", ("build", *of, "--output", f"oci:{output / env / 'image'}")),
        Step("documents", ("sbom", *of, "--output", str(output / env / "documents"))),
        *((Step("push", ("push", *of, "--to", f"{push.rstrip('/')}/{env}")),) if push else ()),
    )


def environments(named: Sequence[str], progress: Progress) -> list[Listed]:
    """The named environments, else all that have a lock and are not heavy. LockError where a named one has none."""
    for name in named:
        spec_path(name)
    found = []
    for name in named or spec_names():
        if not named and not lock_path(name).exists():
            progress.say(f"{name} has no lock: left out")
            continue
        if not named and name in HEAVY:
            progress.say(f"{name} is several GiB: left out, --env {name} builds it")
            continue
        found.append(Listed(name, read_lock(name).digest.removeprefix("sha256:")))
    if not found:
        raise LockError("no environment has a lock", "make one with `invoke lock --env NAME`")
    return found


def run_steps(env: str, todo: Sequence[Step], progress: Progress, *, quiet_stdout: bool) -> list[Done]:
    """Run them in order until one fails; those after it are listed as not reached."""
    done: list[Done] = []
    for step in todo:
        command = " ".join(("invoke", *step.words))
        if done and done[-1].exit_code != 0:
            done.append(Done(env=env, step=step.name, command=command))
            continue
        progress.say(f"\n== {env}: {command}")
        began = time.monotonic()
        code = _invoke(step.words, quiet_stdout)
        elapsed = round(time.monotonic() - began, 1)
        done.append(Done(env=env, step=step.name, command=command, exit_code=code, elapsed_s=elapsed))
    return done


def _invoke(words: Sequence[str], quiet_stdout: bool) -> int:
    """This tool once more, as a process of its own; it does not outlive us."""
    command = [sys.executable, "-m", "invoke", "--search-root", str(ROOT), *words]
    child = process.attach(command, env=os.environ, stdout=2 if quiet_stdout else None, no_stdin=True)
    try:
        return child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()


def check_push(push: str) -> None:
    """WrongUse for what is no place to push to, before anything is built."""
    host, _, repository = push.partition("/")
    if (push and not (host and repository)) or "@" in push or ":" in repository:
        raise WrongUse(f"--push {push!r}", "write HOST:PORT/REPOSITORY; each environment gets its own below that")
