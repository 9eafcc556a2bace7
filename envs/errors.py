"""One family of errors: each says what is wrong, what to do next, and with which code the tool ends."""

from __future__ import annotations

from typing import ClassVar


class EdgekilnError(Exception):
    """A fault the reader can act on.

    `message` names what and where in one line; `remedy` is the next step, or "" where there is none.
    """

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "failed"

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class CheckFailed(EdgekilnError):
    """A stage or a check ran and its answer is no."""

    exit_code = 1
    code = "check-failed"


class WrongUse(EdgekilnError):
    """The caller named something that does not exist or gave a value that can't be used."""

    exit_code = 2
    code = "wrong-use"


class CommandMissing(WrongUse):
    """A command that is not in the environment; the code is a shell's."""

    exit_code = 127
    code = "no-such-command"


class SpecError(WrongUse):
    """A spec or lock file that can't be read as it stands."""

    code = "bad-spec"


class LockError(EdgekilnError):
    """A lock that is missing, older than its spec, or not what its digest says."""

    exit_code = 3
    code = "bad-lock"


class FetchError(EdgekilnError):
    """Bytes that could not be had, or that are not the locked ones."""

    exit_code = 3
    code = "fetch-failed"


class RegistryError(FetchError):
    """A container registry that can't be reached, refuses, or serves other bytes than were asked for."""

    code = "registry-failed"


class BuildError(EdgekilnError):
    """An environment or image that could not be made here."""

    exit_code = 3
    code = "build-failed"


class EngineError(EdgekilnError):
    """An engine that does not answer, refuses, or died."""

    exit_code = 3
    code = "engine-failed"


class WorkspaceError(EdgekilnError):
    """A folder that can't be written, or no space left in it."""

    exit_code = 3
    code = "workspace-failed"
