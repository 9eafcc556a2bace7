"""The letterbox: what crosses the wall between the wings, as files.

`RunRequest` goes in, `Event` lines come out while the pipeline runs, `RunReport` comes out at the end.
`envs/contract.py` is a link to this file: one definition, and neither wing imports the other.
Paths are POSIX; which folder they are relative to is said at each field.
"""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA = 1
STAGES = ("fetch", "preprocess", "export", "sparsify", "verify", "convert", "collect")

Status = Literal["ok", "failed", "skipped"]
Fact = str | int | float | bool | None


class Letter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything in the letterbox: frozen, named fields, unknown fields refused."""


class Weights(Letter, frozen=True, kw_only=True):
    """Which weights the model gets, and why.

    kind: `published` (a file whose sha256 the lock or the hub's name pins), `random` (seeded), `file` (the user's),
    `module` (whatever a person's module brings).
    """

    kind: Literal["published", "random", "file", "module"]
    file: str | None = None  # relative to the data folder (published) or to the run folder (file)
    sha256: str | None = None
    seed: int | None = None  # kind == "random" only
    note: str = ""  # e.g. "hub unreachable"; shown beside the kind wherever results are shown


class Picture(Letter, frozen=True, kw_only=True):
    """One input picture. `label` is the ImageNet class index, or None where nobody labelled it."""

    path: str  # relative to the data folder
    sha256: str
    collection: str
    label: int | None = None


class ExportOptions(Letter, frozen=True, kw_only=True):
    """What the environment's toolchain accepts."""

    opset: int
    ir_version: int
    simplifier: Literal["onnxsim", "onnxruntime"]


class RunRequest(Letter, frozen=True, kw_only=True):
    """What one run of the pipeline is asked to do."""

    schema: int = SCHEMA
    run_id: str
    model: str  # onnx_tv_NAME, onnx_efficientnet_lite0, or the stem of `module`
    module: str | None = None  # a person's module, relative to the run folder; None for a named model
    env: str
    engine: str
    lock_digest: str
    pipeline_digest: str
    run_folder: str  # relative to the workspace
    weights: Weights
    pictures: tuple[Picture, ...]
    export: ExportOptions
    sparsity: str = "2:4"
    use_cache: bool = True
    drift: tuple[str, ...] = ()  # what of the lock had to be replaced: its bytes were nowhere


class Artifact(Letter, frozen=True, kw_only=True):
    """One file that the run made; `path` is relative to the run folder."""

    path: str
    sha256: str
    bytes: int


class StageResult(Letter, frozen=True, kw_only=True):
    """How one stage ended. A skip and a failure have a reason; `facts` are what it measured."""

    name: str
    status: Status
    reason: str = ""
    elapsed_s: float
    cached: bool
    outputs: tuple[str, ...] = ()  # paths as in Artifact
    facts: dict[str, Fact] = {}


class RunReport(Letter, frozen=True, kw_only=True):
    """What one run did."""

    schema: int = SCHEMA
    run_id: str
    model: str
    env: str
    engine: str
    lock_digest: str
    pipeline_digest: str
    run_folder: str
    weights: Weights
    versions: dict[str, str]
    stages: tuple[StageResult, ...]
    artifacts: tuple[Artifact, ...]
    drift: tuple[str, ...] = ()  # as in the request

    @property
    def ok(self) -> bool:
        """True where every stage is ok, or skipped with its reason."""
        return all(s.status == "ok" or (s.status == "skipped" and s.reason) for s in self.stages)


class Event(Letter, frozen=True, kw_only=True):
    """One line of live progress."""

    kind: Literal["run_started", "stage_started", "progress", "stage_finished", "run_finished"]
    stage: str = ""
    message: str = ""
    done: int = 0  # progress: units done of `total`
    total: int = 0
    status: Status | None = None
    elapsed_s: float = 0.0
    cached: bool = False


def encode(letter: Letter) -> bytes:
    """JSON with a fixed key order, two spaces, a newline at the end: the same letter, the same bytes."""
    return msgspec.json.format(msgspec.json.encode(letter), indent=2) + b"\n"
