"""The answer to a question: the best set with each pin's reason, the next best, or what stands against any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from packaging.version import Version

from envs.matching.conflict import smallest_conflict
from envs.matching.facts import Fact, Matrix, Statement
from envs.matching.measured import Cell
from envs.matching.question import RULES, asked, order_of, preferences
from envs.matching.solve import Order, Search
from envs.matching.values import EXPORTER, IR, NAMES, OPSET, PARTS, PYTHON, TOOLCHAIN

MATTER = ("torch", OPSET, "onnx", "onnxruntime")  # the next best set differs in one of these


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """A fact as it is shown."""

    fact: str
    origin: str
    source: str


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the set: why this value, what the toolchain says of it, what stood against the next better one."""

    part: str
    value: str
    why: str
    facts: tuple[Reason, ...] = ()


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Where the next best set differs."""

    part: str
    value: str
    instead_of: str
    why: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """`match --json` prints this. Without a set, `conflict` holds the facts that exclude each other."""

    toolchain: str
    python: str
    chosen: dict[str, str] | None
    pins: tuple[Pin, ...] = ()
    export: str = ""  # how to export so
    measured: str = ""  # whether this very set was tried, and with which result
    next_best: dict[str, str] | None = None
    differs: tuple[Difference, ...] = ()
    conflict: tuple[Reason, ...] = ()


def match(matrix: Matrix, fixed: Mapping[str, str]) -> Answer:
    """The best set for `fixed` (part -> version, specifier or name). WrongUse for what the matrix does not know."""
    wishes = asked(matrix, fixed)
    toolchain = fixed.get(TOOLCHAIN, "")
    order = order_of(matrix, toolchain)
    search = Search(order)
    chosen = search.best([*wishes, *matrix.facts])
    if chosen is None:
        against = smallest_conflict(search, wishes, matrix.facts)
        return Answer(
            toolchain=toolchain,
            python=fixed.get(PYTHON, ""),
            chosen=None,
            conflict=tuple(shown(fact) for fact in against),
        )
    facts = [*wishes, *matrix.facts]
    other = next_best(search, facts, order, chosen)
    stated = preferences(matrix, toolchain)
    return Answer(
        toolchain=chosen[TOOLCHAIN],
        python=chosen[PYTHON],
        chosen=chosen,
        pins=tuple(_pin(search, facts, order, stated, chosen, part) for part in PARTS),
        export=how_to_export(chosen),
        measured=what_was_measured(matrix.measured.cell, chosen),
        next_best=other,
        differs=_differences(stated, chosen, other) if other else (),
    )


def shown(fact: Fact) -> Reason:
    """The fact as text, with where it comes from."""
    return Reason(fact=str(fact), origin=fact.origin, source=fact.source)


def next_best(search: Search, facts: Sequence[Fact], order: Order, chosen: Mapping[str, str]) -> dict[str, str] | None:
    """The best of the sets that differ from `chosen` in one of MATTER; None where it is the only one."""
    others = []
    for part in MATTER:
        another = Fact(when=((part, chosen[part]),), then=None, origin="asked", source="another set")
        if found := search.best([*facts, another]):
            others.append(found)
    return min(others, key=lambda one: [order[part].index(one[part]) for part in PARTS], default=None)


def _pin(
    search: Search,
    facts: Sequence[Fact],
    order: Order,
    stated: Sequence[Statement],
    chosen: Mapping[str, str],
    part: str,
) -> Pin:
    value = chosen[part]
    place = order[part].index(value)
    own = tuple(fact for fact in facts if fact.then and fact.then[0] == part and _is_of(fact, chosen[TOOLCHAIN]))
    if any(fact.then == (part, value) and fact.origin == "asked" for fact in facts):
        return Pin(part=part, value=value, why="asked for", facts=tuple(shown(fact) for fact in own))
    against = _against(search, facts, chosen, part, order[part][place - 1]) if place else ()
    reasons = tuple(shown(fact) for fact in dict.fromkeys((*own, *against)))
    return Pin(part=part, value=value, why=_liking(stated, part, value), facts=reasons)


def _is_of(fact: Fact, toolchain: str) -> bool:
    return fact.when == ((TOOLCHAIN, toolchain),)


def _liking(stated: Sequence[Statement], part: str, value: str) -> str:
    for one in stated:
        if one.needs.get(part) == value:
            return f"preferred ({one.origin}: {one.source})"
    return RULES[part]


def _against(
    search: Search, facts: Sequence[Fact], chosen: Mapping[str, str], part: str, better: str
) -> tuple[Fact, ...]:
    """The facts that refuse `better` beside the parts of more weight; seldom they do so only through lesser parts."""
    weightier = {one: chosen[one] for one in PARTS[: PARTS.index(part)]}
    if broken := [fact for fact in facts if fact.broken_by({**weightier, part: better})]:
        return tuple(broken)
    held = [Fact(when=(), then=pin, origin="asked", source="chosen") for pin in {**weightier, part: better}.items()]
    conflict = smallest_conflict(search, held, facts)
    return tuple(fact for fact in conflict if fact not in held)


def _differences(
    stated: Sequence[Statement], chosen: Mapping[str, str], other: Mapping[str, str]
) -> tuple[Difference, ...]:
    return tuple(
        Difference(
            part=part,
            value=other[part],
            instead_of=chosen[part],
            why=f"{chosen[part]} comes first: {_liking(stated, part, chosen[part])}",
        )
        for part in PARTS
        if other[part] != chosen[part]
    )


def how_to_export(chosen: Mapping[str, str]) -> str:
    """The call that writes such a file."""
    dynamo = chosen[EXPORTER] == "dynamo"
    says = f", dynamo={dynamo}" if dynamo or Version(chosen["torch"]) >= Version("2.9") else ""
    return f"torch.onnx.export(..., opset_version={chosen[OPSET]}{says}); model.ir_version = {chosen[IR]}"


def what_was_measured(cells: Sequence[Cell], chosen: Mapping[str, str]) -> str:
    """What a recorded cell of these very versions says about this opset and exporter; "" where there is none."""
    packages = {part for part in PARTS if part not in (*NAMES, PYTHON, OPSET, IR)}
    for cell in cells:
        named = packages & set(cell.versions)
        if cell.python != chosen[PYTHON] or any(cell.versions[part] != chosen[part] for part in named):
            continue
        runs = [
            one
            for one in cell.result
            if one.what == "run" and (one.exporter, str(one.opset)) == (chosen[EXPORTER], chosen[OPSET])
        ]
        if best := next((one for one in runs if not one.error), None):
            written = f"IR version {best.ir}, largest difference to torch {best.max_difference:.1e}"
            return f"exported and run together on {cell.day}: opset {best.opset}, {written}"
        if runs:
            return f"tried on {cell.day} and refused: {runs[0].error}"
    return ""
