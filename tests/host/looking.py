"""An engine whose look at a file answers as a test says, in place of the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine

import envs.one_file as looks
from envs.build import Built
from envs.engines.base import Environment, Sink, Task
from envs.engines.choose import Chosen


def answering(
    monkeypatch: pytest.MonkeyPatch,
    tree: Path,
    code: int,
    out: bytes,
    err: bytes = b"",
    name: Any = "docker",
    does: Callable[[Task], object] = lambda task: None,
) -> FakeEngine:
    """`does` is what the command leaves behind before it answers."""

    def answer(task: Task, stdout: Sink, stderr: Sink) -> int:
        does(task)
        stdout(out)
        stderr(err)
        return code

    fake = FakeEngine(answer, name=name)
    environment = Environment(name="light", lock_digest="sha256:0", tree=tree, image="sha256:1")
    built = Built(environment=environment, lock=None, record=None, image_bytes=1)  # type: ignore[arg-type]
    monkeypatch.setattr(looks, "choose", lambda kind: Chosen(fake, "engine: fake"))  # type: ignore[arg-type]
    monkeypatch.setattr(looks, "build", lambda env, chosen, progress: built)
    return fake
