"""The Engine seam: where commands run. Nothing outside this folder knows which one is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

Sink = Callable[[bytes], None]
State = Literal["created", "running", "stopped"]

PROJECT_LABEL = "io.edgekiln.project"
ENV_LABEL = "io.edgekiln.env"
LOCK_LABEL = "io.edgekiln.lock-digest"
PART_LABEL = "io.edgekiln.part-of"  # on what is in an engine only while an image is loaded
DRIFT_LABEL = "io.edgekiln.drift"  # on an image that is not wholly its lock's, and how
ROOT_UID = 10001  # who a caller that is root becomes inside a container


class Mount(msgspec.Struct, frozen=True):
    """A host folder that commands see at `target` (or in place, where nothing can be mounted)."""

    source: Path
    target: str
    writable: bool = False


class Environment(msgspec.Struct, frozen=True):
    """A built environment: the tree on this host and, where an engine wants one, the image."""

    name: str
    lock_digest: str
    tree: Path  # holds bin/python3, lib/python3.10/site-packages
    image: str | None = None  # image id (sha256:...) in the engine; None under local


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """One container of this project, as `ps` shows it. `--json` prints these fields."""

    id: str
    name: str
    env: str
    state: State
    engine: str
    lock_digest: str
    image: str
    created: str  # RFC 3339, UTC
    command: str


class ImageInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One image (or tree, under local) of this project."""

    id: str
    env: str
    tags: tuple[str, ...]
    lock_digest: str
    size_bytes: int
    engine: str


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One command and what it may see."""

    environment: Environment
    command: Sequence[str]
    mounts: Sequence[Mount]
    workdir: str  # as `Engine.view` gives it
    variables: Mapping[str, str] = {}
    name: str | None = None
    memory_mib: int = 8192
    pids: int = 512


class Engine(Protocol):
    """Container verbs with docker's meaning. Names are full or unique prefixes; errors are EngineError/WrongUse."""

    @property
    def name(self) -> Literal["docker", "local"]: ...

    def describe(self) -> str:
        """One line: which engine and version answers where."""

    def view(self, mount: Mount) -> str:
        """The path at which a command sees the mount."""

    def run(self, task: Task, *, stdout: Sink, stderr: Sink) -> int:
        """Run to the end, streams live, remove it whatever happens (Ctrl-C included); the exit code."""

    def start(self, task: Task) -> Container:
        """Create and start a kept container, or start the existing one of `task.name` if it is stopped."""

    def exec(self, container: str, command: Sequence[str], *, variables: Mapping[str, str], workdir: str | None) -> int:
        """Run in a running container with this process's stdin, stdout, stderr; the exit code.

        A pseudo-terminal is used where stdin and stdout both are terminals.
        """

    def attach(self, task: Task) -> int:
        """The command once, with this process's stdin, stdout, stderr, in a container of its own; the exit code."""

    def shell(self, task: Task) -> int:
        """A one-off interactive bash with a prompt that names the environment, removed at its end."""

    def stop(self, container: str, timeout_s: float = 10) -> None: ...

    def restart(self, container: str, timeout_s: float = 10) -> None: ...

    def remove(self, container: str, force: bool = False) -> None:
        """Refuses a running one unless forced, and says so."""

    def containers(self) -> list[Container]: ...

    def logs(self, container: str, *, follow: bool, sink: Sink) -> None: ...

    def images(self) -> list[ImageInfo]: ...
