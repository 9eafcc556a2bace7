"""`ci`."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from envs.cli import print_json
from envs.display import Terminal, print_rows, print_title

if TYPE_CHECKING:
    from envs.ci import Done


def matrix(env: Sequence[str]) -> int:
    """What can be built, as one line of JSON for a CI's matrix."""
    from envs.ci import environments

    sys.stdout.write(msgspec.json.encode({"include": environments(env, Terminal())}).decode() + "\n")
    return 0


def ci(env: Sequence[str], engine: str, push: str, output: str, as_json: bool) -> int:
    """All steps for each environment; 0 where all of them ended with 0, else the first failure's code."""
    from envs.ci import check_push, environments, run_steps, steps

    check_push(push)
    terminal = Terminal()
    done: list[Done] = []
    with contextlib.ExitStack() as stack:
        folder = output or stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekiln-ci-"))
        for one in environments(env, terminal):
            todo = steps(one.env, engine, Path(folder).absolute(), push)
            done += run_steps(one.env, todo, terminal, quiet_stdout=as_json)
    code = next((one.exit_code for one in done if one.exit_code), 0)
    if as_json:
        print_json({"ok": code == 0, "output": output, "steps": done})
    else:
        _print(done)
    return code


def _print(done: Sequence[Done]) -> None:
    words = {0: "ok", None: "not reached"}
    print_title("image builds")
    rows = [
        (one.env, one.step, words.get(one.exit_code, f"failed ({one.exit_code})"), f"{one.elapsed_s:.1f} s")
        for one in done
    ]
    print_rows(rows, ("ENV", "STEP", "RESULT", "TOOK"))
    failed = [one for one in done if one.exit_code]
    print_title(f"again by hand: {failed[0].command}" if failed else "all steps ok")
