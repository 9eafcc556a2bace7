"""A fake of the Engine seam: it runs nothing, remembers what it was asked, and answers as the test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from envs.engines import names
from envs.engines.base import Container, ImageInfo, Mount, Sink, State, Task

Answer = int | BaseException | Callable[[Task, Sink, Sink], int]


class FakeEngine:
    """`answers` gives what each run or exec does, in order: an exit code, an exception, or a function of the task."""

    def __init__(self, *answers: Answer, name: Literal["docker", "local"] = "docker") -> None:
        self._name: Literal["docker", "local"] = name
        self._answers = list(answers)
        self.tasks: list[Task] = []  # of run and shell, in order
        self.commands: list[tuple[str, tuple[str, ...]]] = []  # of exec: container and words
        self.kept: dict[str, Container] = {}
        self.logged: dict[str, bytes] = {}
        self.listed: list[ImageInfo] = []

    @property
    def name(self) -> Literal["docker", "local"]:
        return self._name

    def describe(self) -> str:
        return "a fake engine"

    def view(self, mount: Mount) -> str:
        return mount.target if self._name == "docker" else str(mount.source)

    def run(self, task: Task, *, stdout: Sink, stderr: Sink) -> int:
        self.tasks.append(task)
        return self._answer(task, stdout, stderr)

    def start(self, task: Task) -> Container:
        name = names.of(task)
        if name not in self.kept:
            self.kept[name] = Container(
                id=f"{len(self.kept):064x}",
                name=name,
                env=task.environment.name,
                state="created",
                engine=self._name,
                lock_digest=task.environment.lock_digest,
                image=task.environment.image or "",
                created="2026-01-01T00:00:00Z",
                command=" ".join(task.command),
            )
        elif self.kept[name].lock_digest != task.environment.lock_digest:
            raise names.refuse_other_lock(self.kept[name])
        return self._now(name, "running")

    def exec(self, container: str, command: Sequence[str], *, variables: Mapping[str, str], workdir: str | None) -> int:
        one = self._running(container)
        self.commands.append((one.name, tuple(command)))
        return self._answer(None, lambda _: None, lambda _: None)

    def attach(self, task: Task) -> int:
        self.tasks.append(task)
        return self._answer(task, lambda _: None, lambda _: None)

    def shell(self, task: Task) -> int:
        return self.attach(names.bash(task))

    def stop(self, container: str, timeout_s: float = 10) -> None:
        self._now(self._find(container).name, "stopped")

    def restart(self, container: str, timeout_s: float = 10) -> None:
        self._now(self._find(container).name, "running")

    def remove(self, container: str, force: bool = False) -> None:
        one = self._find(container)
        if one.state == "running" and not force:
            raise names.refuse_running(one)
        del self.kept[one.name]

    def containers(self) -> list[Container]:
        return sorted(self.kept.values(), key=lambda one: one.name)

    def logs(self, container: str, *, follow: bool, sink: Sink) -> None:
        sink(self.logged.get(self._find(container).name, b""))

    def images(self) -> list[ImageInfo]:
        return self.listed

    def _answer(self, task: Task | None, stdout: Sink, stderr: Sink) -> int:
        answer = self._answers.pop(0) if self._answers else 0
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            assert task is not None
            return answer(task, stdout, stderr)
        return answer

    def _find(self, asked: str) -> Container:
        return names.find(asked, self.containers())

    def _running(self, asked: str) -> Container:
        one = self._find(asked)
        if one.state != "running":
            raise names.refuse_stopped(one)
        return one

    def _now(self, name: str, state: State) -> Container:
        self.kept[name] = msgspec.structs.replace(self.kept[name], state=state)
        return self.kept[name]
