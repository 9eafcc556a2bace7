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

PATTERNS = "patterns"  # a stage that runs only where it is asked for
Status = Literal["ok", "failed", "skipped"]
Correction = Literal["none", "norms", "match", "obs"]
CORRECTIONS: tuple[Correction, ...] = ("none", "norms", "match", "obs")
PICTURED: tuple[Correction, ...] = ("match", "obs")  # those that look at calibration pictures
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
    permute: bool = True  # reorder channels first, so that the pattern keeps more magnitude
    gather: bool = False  # also write the network that reorders while it runs, and time it
    keep: tuple[str, ...] = ()  # layers left dense, by node name; `*` and `?` as in a shell
    budget: float | None = None  # leave the most sensitive layers dense; this share of weights has the pattern
    correct: Correction = "none"  # what adjusts the weights that are kept
    calibration: tuple[Picture, ...] = ()  # fit, and never judge; `pictures` judge, and never fit
    patterns: bool = False  # also compare other patterns on this network
    use_cache: bool = True
    drift: tuple[str, ...] = ()  # what of the lock had to be replaced: its bytes were nowhere

    @property
    def calibrates(self) -> bool:
        """Whether it needs calibration pictures."""
        return self.budget is not None or self.correct in PICTURED


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


def stages_of(request: RunRequest) -> tuple[str, ...]:
    """The stages that a request runs, in their order."""
    return (*STAGES[:-1], PATTERNS, STAGES[-1]) if request.patterns else STAGES


class LayerPattern(Letter, frozen=True, kw_only=True):
    """How one layer's weight stands to a pattern. `detail`: the first group that breaks it, or why it has none."""

    node: str
    op: str
    weight: str
    shape: tuple[int, ...]
    axis: int  # of the input channels
    status: Literal["holds", "broken", "not applicable"]
    detail: str = ""
    groups: int = 0
    broken: int = 0  # groups with too many nonzeros
    density: float | None = None  # share of nonzeros; None where nothing was read


class PatternReport(Letter, frozen=True, kw_only=True):
    """Whether an ONNX file follows a pattern, layer by layer."""

    file: str
    pattern: str
    index_bits: int  # a group, as stored
    entropy_bits: int  # a group, the least that any code needs
    warning: str = ""
    layers: tuple[LayerPattern, ...] = ()

    @property
    def ok(self) -> bool:
        """True where the pattern applies to a layer, and holds wherever it applies."""
        states = {layer.status for layer in self.layers}
        return "holds" in states and "broken" not in states


class PatternRow(Letter, frozen=True, kw_only=True):
    """What one pattern makes of a network. Shares are of the magnitude of the layers that take the pattern."""

    pattern: str
    reordered: bool
    made_by: str  # magnitude, or the run's correction
    layers: int
    weights_share: float  # of all layers' weights
    retained_share: float
    efficacy: float  # share of what the exported order loses beyond each row's bound that reordering wins back
    index_bits: int  # a group, as stored
    entropy_bits: int  # a group, the least that any code needs
    metadata_bytes: int  # all positions as stored
    entropy_bytes: int  # all positions by the least bits
    compressed_bytes: int  # values, positions, and all that stays dense
    agreement_top1: float | None  # with the dense network, over the validation pictures
    cosine_centred: float | None
    top1: int | None  # of the labelled pictures
    warning: str = ""


class Refusal(Letter, frozen=True, kw_only=True):
    """Why a file can't be checked, and the next step."""

    message: str
    remedy: str = ""


def encode(letter: Letter) -> bytes:
    """JSON with a fixed key order, two spaces, a newline at the end: the same letter, the same bytes."""
    return msgspec.json.format(msgspec.json.encode(letter), indent=2) + b"\n"
