"""What a stage says when a person can mend it: one line, and the next step."""

from __future__ import annotations

UNPACK_AGAIN = "remove data/ in edgekiln's cache (~/.cache/edgekiln, or EDGEKILN_CACHE) and run again"


class PipelineError(Exception):
    """A fault in what the pipeline was given. `message` names what and where; `remedy` is the next step."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class Stopped(BaseException):
    """A signal ended the run. No `except Exception` on the way holds it up, and no model's own exit looks like it."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line: its first, or its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


DISK_FULL = PipelineError("the workspace's disk is full", "free some space and run again")
