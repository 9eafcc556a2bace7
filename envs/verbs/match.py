"""`match`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from envs.cli import print_json
from envs.display import Terminal, print_rows, print_title
from envs.errors import WrongUse

if TYPE_CHECKING:
    from envs.matching.answer import Answer, Pin, Reason
    from envs.matching.measured import Result


def match(fixed: Mapping[str, str], measure: bool, cells: str, as_json: bool) -> int:
    """Print the set that fits, or why none does (1); with `measure` build and try cells instead."""
    if measure or cells:
        return measured({part: value for part, value in fixed.items() if value}, cells, as_json)
    from envs.matching.answer import match
    from envs.matching.facts import known_matrix

    answer = match(known_matrix(), fixed)
    if as_json:
        print_json(answer)
    elif answer.chosen is None:
        _print_conflict(answer)
    else:
        _print_answer(answer)
    return 0 if answer.chosen else 1


def measured(fixed: Mapping[str, str], cells: str, as_json: bool) -> int:
    """Measure one cell, or those of `cells`, and print what happened; 1 where something that was claimed failed."""
    from envs.matching.cells import plan
    from envs.matching.facts import known_matrix
    from envs.matching.measure import measure_cells, surprises

    if cells not in ("", "all"):
        raise WrongUse(f"--cells {cells!r} is not known", "write --cells all, or name parts: --measure --torch 2.6")
    terminal = Terminal()
    done = measure_cells(plan(known_matrix(), fixed, everything=cells == "all"), terminal)
    unexpected = [line for cell in done for line in surprises(known_matrix(), cell)]
    if as_json:
        print_json({"cells": done, "unexpected": unexpected})
        return 1 if unexpected else 0
    for cell in done:
        print_title(" ".join(f"{part} {version}" for part, version in cell.versions.items()))
        if cell.error:
            terminal.say(f"can't be installed: {cell.error}")
        print_rows([(_tried(one), _result(one)) for one in cell.result], ("", ""))
    for line in unexpected:
        terminal.say(f"not as the matrix had it: {line}")
    return 1 if unexpected else 0


def _tried(one: Result) -> str:
    if one.what == "import":
        return f"import {one.package}"
    ir = f", IR {one.ir}" if one.ir else ""
    return f"{one.what} opset {one.opset}{ir} ({one.exporter})"


def _result(one: Result) -> str:
    if one.max_difference is None:
        return one.error or "ok"
    return one.error or f"ok, differs from torch by at most {one.max_difference:.1e} of the largest output"


def _print_answer(answer: Answer) -> None:
    rows = [(pin.part, pin.value, _why(pin)) for pin in answer.pins]
    print_rows(rows, ("PART", "PIN", "WHY"))
    measured = answer.measured or "not this very set: `invoke match --measure` with the same words does"
    lines = [("export", answer.export), ("measured", measured)]
    if answer.next_best:
        other = "; ".join(f"{one.part} {one.value} instead of {one.instead_of} ({one.why})" for one in answer.differs)
        lines.append(("next best", other))
    else:
        lines.append(("next best", "none: it is the only one"))
    print_rows([("", ""), *lines], ("", ""))


def _why(pin: Pin) -> str:
    return "; ".join((pin.why, *(_shown(one) for one in pin.facts)))


def _shown(one: Reason) -> str:
    return f"{one.fact} ({one.origin})" if one.origin != "asked" else one.fact


def _print_conflict(answer: Answer) -> None:
    print_title("nothing fits: these exclude each other")
    print_rows([(one.fact, one.origin, one.source) for one in answer.conflict], ("FACT", "ORIGIN", "SOURCE"))
