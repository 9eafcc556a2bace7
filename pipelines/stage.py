"""The Stage seam: one file a stage, the runner orders, caches, times and records them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipelines.contract import Fact, RunRequest, Status


@dataclass(frozen=True)
class InputFile:
    """A file a stage reads that no stage made: what the request calls it, where it is, the sha256 it must have."""

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class Context:
    """What a stage may see: the request, the data, outputs of the stages it needs, and a folder for its own."""

    request: RunRequest
    data: Path
    run_folder: Path
    out: Path  # empty; what is in it when the stage ends are its outputs
    inputs: Mapping[str, Path]  # "export/model.onnx" -> its path
    results: Mapping[str, Mapping[str, Fact]]  # stage -> its facts, of the stages that ran before
    progress: Callable[[str, int, int], None]  # what is done, done, total


@dataclass(frozen=True)
class Outcome:
    """How a stage ended. `summary` is for the line that a person sees; `reason` belongs to a skip or failure."""

    status: Status = "ok"
    reason: str = ""
    summary: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)


class Stage(Protocol):
    """One step of the pipeline. Heavy imports belong inside `run`: a stage answered from the cache needs none."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Earlier stages whose outputs and facts it reads."""

    @property
    def uses(self) -> tuple[str, ...]:
        """Earlier stages whose outputs and facts it reads where they are there, however they ended."""

    def parameters(self, request: RunRequest) -> Mapping[str, Any]:
        """What of the request its result depends on, beside its inputs."""

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """Files it reads that no stage made."""

    def run(self, context: Context) -> Outcome: ...
