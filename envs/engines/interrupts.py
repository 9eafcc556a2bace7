"""Ctrl-C and its kin while something of ours runs elsewhere: held back, let through, or passed on to it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Held:
    """Signals that arrived and wait for their moment."""

    def __init__(self, before: dict[int, Any]) -> None:
        self.before = before  # the handlers of the caller
        self.arrived: list[int] = []

    def hold(self) -> None:
        """From now on only note them."""
        self._install(dict.fromkeys(self.before, self._note))

    @contextlib.contextmanager
    def let_through(self) -> Iterator[None]:
        """They end the block by an exception, those that wait at once; what they would end without a trace too."""
        try:
            self._install({n: _unwind if old == signal.SIG_DFL else old for n, old in self.before.items()})
            self._deliver(signal.raise_signal)
            yield
        finally:
            self.hold()

    @contextlib.contextmanager
    def passed_to(self, send: Callable[[int], object]) -> Iterator[None]:
        """They go to `send` and the block goes on."""

        def handler(number: int, frame: FrameType | None) -> None:
            del frame
            send(number)

        try:
            self._install(dict.fromkeys(self.before, handler))
            self._deliver(send)
            yield
        finally:
            self.hold()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.arrived.append(number)

    def _deliver(self, send: Callable[[int], object]) -> None:
        while self.arrived:
            send(self.arrived.pop(0))

    def _install(self, handlers: dict[int, Any]) -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held() -> Iterator[Held]:
    """No signal comes between making a thing and being ready to remove it.

    Ignored ones stay ignored, and outside the main thread nothing is done: signals don't arrive there.
    """
    here = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in NUMBERS} if here else {}
    waiting = Held({n: old for n, old in before.items() if old not in (None, signal.SIG_IGN)})
    waiting.hold()
    unwinds = True
    try:
        yield waiting
        unwinds = False
    finally:
        for number, old in waiting.before.items():
            signal.signal(number, old)
        if waiting.arrived and not unwinds:
            signal.raise_signal(waiting.arrived[0])


def _unwind(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)
