"""The matrix: facts about releases and toolchains, read from `envs/matrix/`, and what was measured on top of them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec
from packaging.version import Version

from envs import toml
from envs.errors import SpecError
from envs.matching import values
from envs.matching.measured import MEASURED, Measured, Observation, observations, read_measured
from envs.matching.values import EXPORTER, IR, OPSET, PARTS, PYTHON, TOOLCHAIN, allows, said
from envs.paths import ROOT

MATRIX = ROOT / "envs" / "matrix"
StatedOrigin = Literal["measured", "package metadata", "documentation"]
Origin = Literal[StatedOrigin, "asked"]
Set = Mapping[str, str]  # part -> value


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """Where `when` holds, `then` holds too; without a `then` the combination is refused."""

    when: tuple[tuple[str, str], ...]  # (part, spec)
    then: tuple[str, str] | None
    origin: Origin
    source: str
    lifted: tuple[tuple[tuple[str, str], ...], ...] = ()  # exact values for which a measurement says otherwise

    @property
    def parts(self) -> frozenset[str]:
        """The parts that it speaks of."""
        return frozenset(part for part, _ in (*self.when, *((self.then,) if self.then else ())))

    def broken_by(self, chosen: Set) -> bool:
        """Whether the set breaks it; a set that leaves a part of it open does not."""
        if not all(part in chosen and allows(spec, chosen[part]) for part, spec in self.when):
            return False
        if self.then and (self.then[0] not in chosen or allows(self.then[1], chosen[self.then[0]])):
            return False
        return not any(all(chosen.get(part) == value for part, value in case) for case in self.lifted)

    def __str__(self) -> str:
        subject = " with ".join(value if part == TOOLCHAIN else said(part, value) for part, value in self.when)
        if self.origin == "asked" and self.then:
            return f"asked for {said(*self.then)}"
        if self.then is None:
            return f"{subject}: {self.source}"
        return f"{subject} needs {said(*self.then)}"


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a toolchain accepts (a limit), or which of the fitting versions come first with it (a preference)."""

    needs: dict[str, str]  # part -> spec; of a preference a version
    origin: StatedOrigin
    source: str


class Toolchain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One converter, as `toolchains.toml` has it."""

    name: str
    title: str
    environment: str  # the environment of this checkout that has it; "" where none does
    accepts: tuple[Statement, ...] = ()
    prefers: tuple[Statement, ...] = ()


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    then: dict[str, str]
    when: dict[str, str] = {}


class _Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    origin: StatedOrigin
    source: str
    rows: tuple[_Row, ...]


class _Packages(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    wheels: dict[str, dict[str, str]]
    facts: tuple[_Group, ...]
    default_opset: dict[str, int]


class _Toolchains(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    toolchain: tuple[Toolchain, ...]


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """All of it: the values of each part in no order of merit, the facts, the toolchains, what was measured."""

    values: dict[str, tuple[str, ...]]
    facts: tuple[Fact, ...]
    toolchains: tuple[Toolchain, ...]
    default_opset: dict[str, int]
    measured: Measured


def read_matrix(folder: Path = MATRIX) -> Matrix:
    """The matrix of this checkout. SpecError names file and place where a row can't be read."""
    packages = _read(folder / "packages.toml", _Packages)
    toolchains = _read(folder / "toolchains.toml", _Toolchains).toolchain
    return assemble(packages, toolchains, read_measured(folder / MEASURED))


def assemble(packages: _Packages, toolchains: tuple[Toolchain, ...], measured: Measured) -> Matrix:
    """Facts of releases and toolchains, with what was measured deciding over documentation."""
    domain: dict[str, tuple[str, ...]] = {
        TOOLCHAIN: tuple(one.name for one in toolchains),
        PYTHON: values.PYTHONS,
        EXPORTER: values.EXPORTERS,
        OPSET: values.OPSETS,
        IR: values.IRS,
    }
    for package, wheels in packages.wheels.items():
        domain[package] = (*wheels, *((values.NONE,) if package in values.OPTIONAL else ()))
    stated = [*_wheels(packages), *_rows(packages), *_accepted(toolchains)]
    for fact in stated:
        if strange := fact.parts - set(PARTS):
            raise SpecError(f"envs/matrix: {fact.source}: no part is called {min(strange)!r}")
    seen = observations(measured)
    facts = tuple(_lift(fact, seen) for fact in stated)
    refused = tuple(_refusal(one) for one in seen if not one.ok)
    return Matrix(
        values={part: domain[part] for part in PARTS},
        facts=(*facts, *refused),
        toolchains=toolchains,
        default_opset=packages.default_opset,
        measured=measured,
    )


def _wheels(packages: _Packages) -> Iterable[Fact]:
    for package, wheels in packages.wheels.items():
        for version, pythons in wheels.items():
            yield Fact(
                when=((package, version),),
                then=(PYTHON, pythons),
                origin="package metadata",
                source=f"wheels of {package} {version}",
            )


def _rows(packages: _Packages) -> Iterable[Fact]:
    for group in packages.facts:
        for row in group.rows:
            for then in row.then.items():
                yield Fact(when=tuple(row.when.items()), then=then, origin=group.origin, source=group.source)


def _accepted(toolchains: Iterable[Toolchain]) -> Iterable[Fact]:
    for one in toolchains:
        for accepted in one.accepts:
            for then in accepted.needs.items():
                when = ((TOOLCHAIN, one.name),)
                yield Fact(when=when, then=then, origin=accepted.origin, source=accepted.source)


def _lift(fact: Fact, seen: Iterable[Observation]) -> Fact:
    """The fact without the cases that were measured to work; what an installer enforces stays as it is."""
    if fact.origin != "documentation":
        return fact
    cases = {
        tuple((part, dict(one.values)[part]) for part in sorted(fact.parts))
        for one in seen
        if one.ok and fact.parts <= {part for part, _ in one.values} and fact.broken_by(dict(one.values))
    }
    return msgspec.structs.replace(fact, lifted=tuple(sorted(cases))) if cases else fact


def _refusal(one: Observation) -> Fact:
    return Fact(when=one.values, then=None, origin="measured", source=one.said)


@functools.lru_cache(maxsize=1)
def known_matrix() -> Matrix:
    """The checkout's own matrix, read once."""
    return read_matrix()


def releases(matrix: Matrix, part: str) -> list[str]:
    """Its values, newest first; "none" last."""
    if part in values.NAMES:
        return list(matrix.values[part])
    numbered = [value for value in matrix.values[part] if value != values.NONE]
    rest = [value for value in matrix.values[part] if value == values.NONE]
    return [*sorted(numbered, key=Version, reverse=True), *rest]


def _read(path: Path, kind: type[toml.T]) -> toml.T:
    return toml.convert(toml.parse_toml(path), kind, path)
