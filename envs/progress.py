"""What long work says while it goes on: the caller decides how it is shown."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A reporter of long work. `start` opens a bar (bytes where `total` is known) and returns its advance function."""

    def say(self, line: str) -> None:
        """One line for the reader."""

    def bar(self, label: str, total_bytes: int) -> Bar: ...


class Bar(Protocol):
    """One bar of a progress display."""

    def advance(self, count_bytes: int) -> None: ...

    def close(self) -> None: ...


class Silent:
    """Says nothing: for tests and for callers that print their own."""

    def say(self, line: str) -> None:
        del line

    def bar(self, label: str, total_bytes: int) -> Bar:
        del label, total_bytes
        return SilentBar()


class SilentBar:
    """A bar nobody sees."""

    def advance(self, count_bytes: int) -> None:
        del count_bytes

    def close(self) -> None:
        return None
