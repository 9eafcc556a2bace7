"""Between invoke and the rest: errors become one line and an exit code, `--json` one document on stdout."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, ParamSpec

import invoke.parser.parser
import msgspec
from invoke.exceptions import Exit, ParseError

from envs.errors import EdgekilnError

P = ParamSpec("P")


class WrongWords(ParseError, Exit):
    """invoke's own complaint about the command line, with this tool's exit code for wrong use."""

    def __init__(self, text: str, context: Any = None) -> None:
        Exception.__init__(self, f"error: {text} `invoke --list` shows the verbs, `invoke --help VERB` its options")
        self.context = context
        self.message = None  # invoke prints a ParseError itself, and would print this again

    @property
    def code(self) -> int:
        """Wrong use."""
        return 2


# invoke ends with 1 otherwise, whatever went wrong
setattr(invoke.parser.parser, "ParseError", WrongWords)  # noqa: B010 - a plain assignment is no valid type


_complete_context = invoke.parser.parser.ParseMachine.complete_context


def _complete(machine: invoke.parser.parser.ParseMachine) -> None:
    """Words of a task that are both `positional` and `optional` may be left out, which invoke has no way to say: ""."""
    for word in machine.context.missing_positional_args if machine.context else ():
        if word.optional:
            word.value = ""
    _complete_context(machine)


setattr(invoke.parser.parser.ParseMachine, "complete_context", _complete)  # noqa: B010


def verb(body: Callable[P, int | None]) -> Callable[P, None]:
    """A task whose body gives the exit code, and whose errors are for people."""

    @functools.wraps(body)
    def task(*args: P.args, **kwargs: P.kwargs) -> None:
        signal.signal(signal.SIGTERM, _ended)
        try:
            code = body(*args, **kwargs) or 0
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)  # noqa: T201
            code = 130
        except EdgekilnError as error:
            code = report_error(error, bool(kwargs.get("json")))
        except OSError as error:
            from envs.files import explain_os_error

            explained = explain_os_error(error)
            if explained is None:
                raise
            code = report_error(explained, bool(kwargs.get("json")))
        if code:
            raise Exit(code=code)

    return task


def _ended(number: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds like Ctrl-C, so that containers are removed, and ends with 143."""
    del frame
    raise SystemExit(128 + number)


def report_error(error: EdgekilnError, as_json: bool) -> int:
    """Say it once, where the caller looks; its exit code."""
    if as_json:
        body = {"error": {"code": error.code, "message": error.message, "remedy": error.remedy}}
        sys.stdout.write(msgspec.json.encode(body).decode() + "\n")
    else:
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        console.print("[bold red]error:[/] ", end="")
        console.print(str(error), markup=False, soft_wrap=True)
    return error.exit_code


def print_json(document: Any) -> None:
    """One document on stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def after_dashes(argv: Sequence[str] | None = None) -> list[str]:
    """The words after `--`, each as it was typed: invoke's own remainder joins them and loses the quoting."""
    words = list(sys.argv if argv is None else argv)
    return words[words.index("--") + 1 :] if "--" in words else []
