"""The letterbox: what crosses the wall between the wings, as files.

`RunRequest` goes in, `Event` lines come out while the pipeline runs, `RunReport` comes out at the end.
`envs/contract.py` is a link to this file: one definition, and neither wing imports the other.
Paths are POSIX; which folder they are relative to is said at each field.
"""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA = 1
STAGES = ("fetch", "preprocess", "export", "sparsify", "verify", "check", "convert", "collect")

PATTERNS = "patterns"  # a stage that runs only where it is asked for
PREPARE = "prepare"  # a stage that runs only where the converter runs in a container of its vendor's
PREPARED, OUTSIDE, SDK = "/prepared", "/outside", "/sdk"  # where a vendor's container sees what it gets
OUTSIDE_FOLDER = "vendor"  # of a run: what OUTSIDE is on the host
AFTER_VERIFY = ("check", PREPARE, "convert", "collect")  # what a toolchain's own environment runs
Status = Literal["ok", "failed", "skipped"]
Correction = Literal["none", "norms", "match", "obs"]
CORRECTIONS: tuple[Correction, ...] = ("none", "norms", "match", "obs")
PICTURED: tuple[Correction, ...] = ("match", "obs")  # those that look at calibration pictures
Fact = str | int | float | bool | None
Form = Literal["dense", "sparse", "unstructured"]


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

    path: str  # relative to the folder that `place` names: the data folder, or the run folder for the user's own
    sha256: str
    collection: str
    place: Literal["data", "run"] = "data"
    label: int | None = None


class ExportOptions(Letter, frozen=True, kw_only=True):
    """What the environment's toolchain accepts."""

    opset: int
    ir_version: int
    simplifier: Literal["onnxsim", "onnxruntime"]


class Part(Letter, frozen=True, kw_only=True):
    """Stages that run one after another in one environment; the parts of a run follow each other."""

    env: str
    lock_digest: str
    stages: tuple[str, ...]


class VendorOptions(Letter, frozen=True, kw_only=True):
    """The toolchain that converts, and how."""

    vendor: str  # as in pipelines.vendors
    target: str = ""  # the chip; "" is the toolchain's default
    variants: tuple[str, ...] = ()  # number formats; none means all that the toolchain has
    fix: bool = False  # apply what the gate can mend, and prove the outputs equal
    unstructured: float | None = None  # also convert the network at this share of zeros, by magnitude
    sdk: str = ""  # sha256 of the vendor's SDK where it is brought by the user and is here


class VendorOffer(Letter, frozen=True, kw_only=True):
    """What a toolchain converts to: target -> number formats, the default target first.

    One that knows no targets has the single target "".
    """

    vendor: str
    targets: dict[str, tuple[str, ...]]


class Artifact(Letter, frozen=True, kw_only=True):
    """One file that the run made; `path` is relative to the run folder, where nothing else is said."""

    path: str
    sha256: str
    bytes: int


class OutsideOption(Letter, frozen=True, kw_only=True):
    """An option of a vendor's command. Versions spell it differently: that which the tool's help names is used."""

    spellings: tuple[str, ...]
    value: str = ""  # "" for an option that takes none
    always: bool = True  # False: left out where the help names no spelling


class OutsideStep(Letter, frozen=True, kw_only=True):
    """One command of a vendor's tool, run by the host in the vendor's container; paths are as that container sees them.

    A word of `finds` stands for the only file that matches its pattern, relative to the container's writable folder.
    """

    name: str  # also its log's
    form: Form  # after a failed step, the form's later ones are not run
    program: str  # relative to the SDK
    words: tuple[str, ...] = ()  # before the options: a subcommand
    options: tuple[OutsideOption, ...]
    finds: dict[str, str] = {}
    folder: str  # where it runs, relative to the writable folder
    timeout_s: float


class OutsidePlan(Letter, frozen=True, kw_only=True):
    """`prepare/plan.json`: what the vendor's container is to do."""

    vendor: str
    target: str
    model: str  # what files are named after
    forms: tuple[Form, ...]
    judged: tuple[str, ...]  # file names, in the order of the request's pictures
    steps: tuple[OutsideStep, ...]


class OutsideStepResult(Letter, frozen=True, kw_only=True):
    """How a step ended. `reason` says why it was not run, or what went wrong before its tool began."""

    name: str
    form: Form
    command: tuple[str, ...] = ()
    exit_code: int | None = None  # None: not run
    reason: str = ""
    elapsed_s: float = 0.0
    log: str = ""  # relative to the folder of this report


class OutsideReport(Letter, frozen=True, kw_only=True):
    """`RUN/vendor/outside.json`: what the vendor's container did; `files` are what it left, relative to that folder."""

    plan: OutsidePlan
    sdk: str  # as in VendorOptions
    sdk_name: str  # with its version
    image: str  # its id
    steps: tuple[OutsideStepResult, ...]
    files: tuple[Artifact, ...]


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
    parts: tuple[Part, ...] = ()  # none: all stages in `env`
    vendor: VendorOptions | None = None

    @property
    def calibrates(self) -> bool:
        """Whether it needs calibration pictures."""
        return self.budget is not None or self.correct in PICTURED


class StageResult(Letter, frozen=True, kw_only=True):
    """How one stage ended. A skip and a failure have a reason; `facts` are what it measured."""

    name: str
    status: Status
    reason: str = ""
    elapsed_s: float
    cached: bool
    env: str = ""  # the environment it ran in
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
    asked = (PATTERNS,) if request.patterns else ()
    prepared = (PREPARE,) if request.vendor and request.vendor.sdk else ()
    split = STAGES.index("check")
    return (*STAGES[:split], *asked, "check", *prepared, *STAGES[split + 1 :])


def parts_of(request: RunRequest) -> tuple[Part, ...]:
    """The parts of a run, in their order: together they hold every stage once."""
    return request.parts or (Part(env=request.env, lock_digest=request.lock_digest, stages=stages_of(request)),)


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


class GateFinding(Letter, frozen=True, kw_only=True):
    """What the gate found in one network before the converter sees it.

    `error`: the converter would fail or compute something else; `warning`: it is known to be slow, or runs off the NPU.
    """

    form: Form
    severity: Literal["error", "warning"]
    node: str  # its name, or "" where it is about the whole file
    op: str
    limit: str  # what is allowed, and what stands there
    remedy: str
    fix: str = ""  # the graph pass that mends it; "" where a person must
    fixed: bool = False
    origin: Literal["measured", "package metadata", "documentation"]


class GateReport(Letter, frozen=True, kw_only=True):
    """What a toolchain's gate says of one ONNX file; versions and nodes are of the mended one where it was mended."""

    file: str
    toolchain: str
    checked_by: str  # the onnx that read and checked it
    opset: int
    ir_version: int
    nodes: int
    findings: tuple[GateFinding, ...] = ()
    changes: tuple[str, ...] = ()  # what passes changed
    proofs: int = 0  # inputs over which the mended network was proved equal; 0 where nothing was to be mended

    @property
    def ok(self) -> bool:
        """True where no error is left."""
        return not any(one.severity == "error" and not one.fixed for one in self.findings)


class Conversion(Letter, frozen=True, kw_only=True):
    """One network through one tool in one number format. Undefined values are None.

    Parity is between the converted file's own outputs and onnxruntime's for the same ONNX file, over the validation
    pictures; `against_dense` values compare with the dense float32 network.
    """

    form: Form
    variant: str  # e.g. fp16, int8
    status: Status
    reason: str = ""
    file: str = ""  # relative to the stage's folder
    file_bytes: int | None = None  # with those that go with it
    weight_bytes: int | None = None  # what the tool says the weights take in memory
    cycles: int | None = None  # of one inference, the tool's own estimate
    elapsed_s: float = 0.0  # of the conversion, the comparison apart
    ran_by: str = ""  # what computed the outputs: "simulator of rknn-toolkit2 2.5.0"
    pictures: int = 0
    floor: float | None = None  # the least centred cosine that passes
    cosine_centred: float | None = None
    cosine: float | None = None
    max_abs_diff: float | None = None
    agreement_top1: float | None = None
    against_dense_cosine_centred: float | None = None
    against_dense_top1: float | None = None
    top1: int | None = None  # labelled pictures right
    sparsity: str = ""  # what the tool made of the zeros
    log: str = ""  # relative to the stage's folder


class ConversionReport(Letter, frozen=True, kw_only=True):
    """`convert.json`: what a toolchain made of a model."""

    vendor: str
    target: str
    versions: dict[str, str]
    pattern: str
    unstructured: float | None = None
    calibration_pictures: int
    labelled: int
    rows: tuple[Conversion, ...]


class Refusal(Letter, frozen=True, kw_only=True):
    """Why a file can't be checked, and the next step."""

    message: str
    remedy: str = ""


def encode(letter: Letter) -> bytes:
    """JSON with a fixed key order, two spaces, a newline at the end: the same letter, the same bytes."""
    return msgspec.json.format(msgspec.json.encode(letter), indent=2) + b"\n"
