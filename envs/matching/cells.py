"""Which cells are measured: `cells.toml`, or the one that a person asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from envs import toml
from envs.errors import CheckFailed, WrongUse
from envs.matching.answer import match
from envs.matching.facts import MATRIX, Matrix
from envs.matching.values import EXPORTER, EXPORTERS, IR, NAMES, NONE, OPSET, PARTS, PYTHON, TOOLCHAIN

FILE = "cells.toml"
MEASURED_ON = "3.10"  # the Python whose interpreter is locked here
COMMON_OPSET = 13  # the opset that every toolchain here was measured with


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cell as a person writes it: parts held fixed, the solver chooses the rest.

    `forced` versions are put in afterwards, whatever the facts say; `beyond` opsets are tried although nobody claims
    them (TorchScript).
    """

    fixed: dict[str, str]
    forced: dict[str, str] = {}
    beyond: tuple[int, ...] = ()
    why: str = ""


class _Wishes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    cell: tuple[Wish, ...]


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One export: by whom, at which opset, and the IR versions that its file is given besides the one it has."""

    exporter: str
    opset: int
    irs: tuple[int, ...]  # the lowest that the opset may have, the highest that this onnx knows


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A cell before it is measured."""

    python: str
    versions: dict[str, str]  # part -> version
    tries: tuple[Try, ...]


def plan(matrix: Matrix, fixed: Mapping[str, str], *, everything: bool) -> list[Planned]:
    """The cells to measure: all of the checkout's file, or the best set for `fixed`. CheckFailed where nothing fits."""
    wishes = read_wishes(MATRIX / FILE) if everything else (Wish(fixed=dict(fixed)),)
    return [_planned(matrix, one) for one in wishes]


def read_wishes(path: Path) -> tuple[Wish, ...]:
    """The cells that the file asks for."""
    return toml.convert(toml.parse_toml(path), _Wishes, path).cell


def _planned(matrix: Matrix, wish: Wish) -> Planned:
    fixed = {TOOLCHAIN: "onnxruntime", PYTHON: MEASURED_ON, **wish.fixed}
    answer = match(matrix, fixed)
    if answer.chosen is None:
        raise CheckFailed(
            f"no set to measure fits {', '.join(f'{part} {value}' for part, value in fixed.items())}",
            "`invoke match` with the same words says why",
        )
    if answer.python != MEASURED_ON:
        raise WrongUse(f"cells are measured on Python {MEASURED_ON} alone", "leave out --python")
    packages = [part for part in PARTS if part not in (*NAMES, PYTHON, OPSET, IR)]
    versions = {part: answer.chosen[part] for part in packages if answer.chosen[part] != NONE} | wish.forced
    chosen = (answer.chosen[EXPORTER], int(answer.chosen[OPSET]))
    beyond = [(EXPORTERS[0], opset) for opset in wish.beyond]
    tries = [
        Try(exporter=exporter, opset=opset, irs=_ir_versions(matrix, versions["onnx"], opset))
        for exporter, opset in dict.fromkeys((chosen, *_claimed(matrix, versions), *beyond))
    ]
    return Planned(python=answer.python, versions=versions, tries=tuple(tries))


def _claimed(matrix: Matrix, versions: Mapping[str, str]) -> Iterable[tuple[str, int]]:
    """Per exporter the highest opset that this torch's own exporter claims, and the common one."""
    for exporter in EXPORTERS:
        if exporter == "dynamo" and "onnxscript" not in versions:
            continue
        its = {"torch": versions["torch"], EXPORTER: exporter}
        own = [fact for fact in matrix.facts if fact.origin != "measured" and fact.parts <= {*its, OPSET}]
        claimed = [
            int(opset)
            for opset in matrix.values[OPSET]
            if not any(fact.broken_by({**its, OPSET: opset}) for fact in own)
        ]
        for opset in dict.fromkeys((max(claimed), COMMON_OPSET)) if claimed else ():
            if opset in claimed:
                yield exporter, opset


def _ir_versions(matrix: Matrix, onnx: str, opset: int) -> tuple[int, ...]:
    """The lowest IR version that the opset may have, and the highest that this onnx knows."""

    def fitting(chosen: dict[str, str]) -> list[int]:
        facts = [fact for fact in matrix.facts if fact.origin != "measured" and fact.parts == {*chosen, IR}]
        known = [ir for ir in matrix.values[IR] if not any(fact.broken_by({**chosen, IR: ir}) for fact in facts)]
        return [int(ir) for ir in known]

    return tuple(dict.fromkeys((min(fitting({OPSET: str(opset)})), max(fitting({"onnx": onnx})))))
