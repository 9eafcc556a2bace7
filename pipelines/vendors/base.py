"""The Vendor seam: one file a toolchain. An adapter says what the tool accepts, converts, and runs what came out.

Every conversion runs in a process of its own (`python -m pipelines.vendors JOB`): tools crash, hang, print and
leave threads behind. Heavy imports belong inside `convert`; the module itself must import anywhere, for its limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from pipelines.contract import Form
from pipelines.models.base import Preprocessing
from pipelines.vendors.limits import Limits


@dataclass(frozen=True)
class Variant:
    """A number format that a toolchain converts to.

    `floor` is the least cosine (after the mean output is taken off) to onnxruntime's float32 outputs that passes.
    """

    name: str  # fp32, fp16, int8, ...
    floor: float
    calibrates: bool = False  # needs calibration pictures
    by_default: bool = True  # False: only where it is asked for by name
    timeout_s: float = 1200


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One conversion. Paths are absolute; arrays are `.npz` of pipelines.arrays."""

    vendor: str
    target: str
    variant: str
    form: Form
    pattern: str  # N:M as in the request; what `sparse` networks follow
    model: str  # an ONNX file with one static input [1, C, H, W]
    calibration: str  # npz with `images` float32 [N, C, H, W], preprocessed; "" where there is none
    judged: str  # npz with `images` float32 [N, C, H, W], preprocessed: what the converted file is run on
    preprocessing: Preprocessing | None  # how a picture became such a tensor, where it is declared
    out: str  # empty folder: what is left in it is kept in the run
    work: str  # empty folder for everything else, removed afterwards
    result: str  # where the worker writes Converted as JSON
    outside: str = ""  # folder of what its vendor's container left; "" for a tool that runs here
    threads: int = 1


class Converted(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool made. `outputs`: npz of output_0, ... each [N, ...] for the judged pictures, in their order."""

    file: str  # the file for the chip, relative to `out`
    beside: tuple[str, ...] = ()  # the others that go with it, where a network is more than one file
    outputs: str = ""  # absolute path; "" where nothing here can run the file
    ran_by: str = ""  # what computed them
    not_run: str = ""  # why there are none
    weight_bytes: int | None = None
    cycles: int | None = None
    sparsity: str = ""  # what the tool made of the zeros: one line, from the tool's own output where it says
    elapsed_s: float = 0.0  # conversion alone; the worker measures it where an adapter leaves 0
    error: str = ""  # one line: why it failed; the rest is then empty


class Vendor(Protocol):
    """A toolchain."""

    @property
    def name(self) -> str: ...

    @property
    def targets(self) -> tuple[str, ...]:
        """Chips that it converts for here, the default first; () where it knows no chips."""

    @property
    def limits(self) -> Limits:
        """What it accepts, for the gate."""

    @property
    def distributions(self) -> tuple[str, ...]:
        """Installed packages whose versions belong into the report."""

    def variants(self, target: str) -> Sequence[Variant]:
        """The number formats it converts to for that target, in the order they are tried."""

    def convert(self, job: Job) -> Converted:
        """Convert and run. PipelineError where the tool's answer is no; anything else is a crash with its log."""

    def cause(self, log: str) -> str:
        """The line of a failed conversion's log that says why."""


def last_error_line(log: str, words: Sequence[str] = ("error", "exception", "fatal", "failed")) -> str:
    """The last line that has one of the words in it, else the last line; "" for an empty log."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    hits = [line for line in lines if any(word in line.lower() for word in words)]
    return next(reversed(hits or lines), "")[:300]
