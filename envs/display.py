"""What a person at a terminal sees: bars, stage lines, the closing table. All of it on stderr but the results."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from envs.contract import Event

if TYPE_CHECKING:  # rich takes 0.1 s to import: only what draws pays for it
    from rich.console import Console
    from rich.progress import Progress, TaskID

MARKS = {"ok": "[green]✓[/]", "failed": "[red]✗[/]", "skipped": "[yellow]-[/]"}

SILENT_S, SILENT_ON_TERMINAL_S = 15.0, 0.1  # how long a stage works before its progress is said


class Terminal:
    """Progress on stderr: bars where it is a terminal, one line a step where it is not."""

    def __init__(self) -> None:
        self._live: Progress | None = None
        self._open = 0

    @functools.cached_property
    def console(self) -> Console:
        """The console on stderr."""
        from rich.console import Console

        return Console(stderr=True, highlight=False)

    def say(self, line: str) -> None:
        """One line for the reader."""
        self.console.print(line, markup=False, soft_wrap=True)

    def bar(self, label: str, total_bytes: int) -> TerminalBar:
        """A bar in bytes; off a terminal only the line that names it."""
        if not self.console.is_terminal:
            size = f", {total_bytes / 2**20:,.1f} MiB" if total_bytes else ""
            self.say(f"{label}{size}")
            return TerminalBar(self, None)
        if self._live is None:
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
            self._live = Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=self.console)
            self._live.start()
        self._open += 1
        return TerminalBar(self, self._live.add_task(label, total=total_bytes or None))

    def advance(self, task: TaskID, count_bytes: int) -> None:
        """Move a bar on."""
        if self._live is not None:
            self._live.advance(task, count_bytes)

    def close(self) -> None:
        """One bar is done; the display ends with the last."""
        self._open -= 1
        if self._live is not None and self._open == 0:
            self._live.stop()
            self._live = None


class TerminalBar:
    """One bar of the terminal's display."""

    def __init__(self, terminal: Terminal, task: TaskID | None) -> None:
        self._terminal = terminal
        self._task = task

    def advance(self, count_bytes: int) -> None:
        """Move it on by so many bytes."""
        if self._task is not None:
            self._terminal.advance(self._task, count_bytes)

    def close(self) -> None:
        """Finish it."""
        if self._task is not None:
            self._terminal.close()


class EventLines:
    """One line a finished stage. What goes on inside one: on a terminal a line that is written over, else a line
    whenever a stage has been silent for a while.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said_s = time.monotonic()
        self._open = False  # a line that is written over stands there

    def show(self, event: Event) -> None:
        """The next event."""
        if event.kind == "progress":
            self._progress(event)
        elif event.kind == "stage_started":
            self._said_s = time.monotonic()
        elif event.kind == "stage_finished" and event.status:
            self._wipe()
            when = "from cache" if event.cached else f"{event.elapsed_s:.1f} s"
            self._console.print(f"  {MARKS[event.status]} {event.stage:<11} {when:>10}", end="  ")
            self._console.print(event.message, markup=False, soft_wrap=True)

    def _progress(self, event: Event) -> None:
        now = time.monotonic()
        if now - self._said_s < (SILENT_ON_TERMINAL_S if self._console.is_terminal else SILENT_S):
            return
        self._said_s = now
        self._wipe()
        line = f"    {event.stage:<11} {f'{event.done}/{event.total}':>10}  {event.message}"
        self._open = bool(self._console.is_terminal)
        cut = line[: self._console.width - 1] if self._open else line
        self._console.print(cut, markup=False, soft_wrap=True, end="" if self._open else "\n")

    def _wipe(self) -> None:
        if self._open:
            from rich.control import Control
            from rich.segment import ControlType

            self._console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
            self._open = False


def mib(count_bytes: object) -> str:
    """Bytes as MiB with two places."""
    return f"{count_bytes / 2**20:.2f} MiB" if isinstance(count_bytes, int) else "-"


def number(value: object, digits: str = ".4g") -> str:
    """A measured number, or why there is none."""
    if isinstance(value, bool) or value is None:
        return "-"
    return format(value, digits) if isinstance(value, (int, float)) else str(value)


def print_rows(rows: Iterable[Sequence[str]], headings: Sequence[str]) -> None:
    """A plain table on stdout; a row of empty headings is none."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(headings))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # a pipe has no width to wrap at
    console.print(table)


def print_title(text: str) -> None:
    """A line above a table, on stdout."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print()
    console.print(text, style="bold", markup=False, soft_wrap=True)
