"""Mending what the gate found: one pass at a time, each proved to leave the network the same, then another look."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import msgspec
import onnx

from pipelines.contract import Form, GateFinding
from pipelines.errors import PipelineError
from pipelines.gate.examine import examine
from pipelines.gate.prove import Evidence, difference
from pipelines.graph.fix import PASSES, Goal, Pass
from pipelines.vendors.limits import Limits

RUNS = 2  # of one pass: another may bring back what it mended, or make it possible


@dataclass(frozen=True)
class Mended:
    """The network, the findings (those that are mended marked), and what each pass changed."""

    model: onnx.ModelProto
    findings: list[GateFinding]
    changes: list[str]


def mend(
    model: onnx.ModelProto,
    limits: Limits,
    form: Form,
    before: Evidence,
    *,
    passes: Mapping[str, Pass] = PASSES,
    tell: Callable[[str], None] | None = None,
) -> Mended:
    """Apply the passes that findings name. One that fails or changes the network is refused, as findings say."""
    goal = Goal(limits.opset, limits.ir_version, (1, *before.images.shape[1:]), limits.name_length)
    found = examine(model, limits, form, model.ByteSize())
    runs: dict[str, int] = dict.fromkeys(passes, 0)
    waiting: set[str] = set()  # refused, until another pass has changed the network
    reasons: dict[str, str] = {}
    mended: list[GateFinding] = []
    changes: list[str] = []
    while (name := _next(found, passes, runs, waiting)) is not None:
        if tell is not None:
            tell(name)
        runs[name] += 1
        made, told, why = _tried(passes[name], model, goal, before)
        if why:
            waiting.add(name)
            reasons[name] = why
            continue
        waiting.clear()
        after = examine(made, limits, form, made.ByteSize())
        mended += _gone(found, after, name)
        changes += [f"{name}: {one}" for one in told]
        model, found = made, after
    still = {_key(one) for one in found}
    stay = [_with_reason(one, reasons) for one in found]
    return Mended(model, [*(one for one in mended if _key(one) not in still), *stay], changes)


def _next(
    found: list[GateFinding], passes: Mapping[str, Pass], runs: Mapping[str, int], waiting: Collection[str]
) -> str | None:
    """The first pass, in their order, that a finding names and that may still run."""
    wanted = {one.fix for one in found}
    return next((name for name in passes if name in wanted and runs[name] < RUNS and name not in waiting), None)


def _tried(step: Pass, model: onnx.ModelProto, goal: Goal, before: Evidence) -> tuple[onnx.ModelProto, list[str], str]:
    try:
        made, told = step(model, goal)
    except PipelineError as error:
        return model, [], error.message
    return made, told, difference(made, before) if told else "it finds nothing to change"


def _gone(found: list[GateFinding], after: list[GateFinding], name: str) -> list[GateFinding]:
    """Findings that the pass mended: its own that are no more, and others that went with them."""
    still = {_key(one) for one in after}
    gone = [one for one in found if _key(one) not in still]
    return [msgspec.structs.replace(one, fix=one.fix or name, fixed=True) for one in gone]


def _with_reason(finding: GateFinding, reasons: Mapping[str, str]) -> GateFinding:
    why = reasons.get(finding.fix)
    if why is None:
        return finding
    return msgspec.structs.replace(finding, remedy=f"{finding.remedy} ({finding.fix} can't: {why})")


def _key(finding: GateFinding) -> tuple[str, str, str]:
    return finding.node, finding.op, finding.limit
