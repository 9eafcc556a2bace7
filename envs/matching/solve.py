"""The search, by pip's resolver: parts are its packages, values its candidates, facts its requirements.

Every candidate names all it allows of every other package, so that each fact works in both directions: the resolver
then chooses the parts in their order, never takes a choice back but by backtracking, and what it finds is the best set.
Parts that facts tie together by two and two (torch with its exporter, opset with IR version) are one package; a fact
over more than two packages is a package of its own, one candidate for each way to keep it.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import resolvelib

from envs.matching.facts import Fact
from envs.matching.values import EXPORTER, IR, OPSET, PARTS, allows

TOGETHER = (("torch", EXPORTER), (OPSET, IR))
Order = Mapping[str, Sequence[str]]  # part -> its values, the best first
Case = tuple[tuple[str, str, bool], ...]  # (part, spec, whether it holds), all of them


class _Choice(NamedTuple):
    """A candidate, or a requirement: a package, and which of its candidates may be, as bits."""

    package: int
    bits: int


class Search:
    """One order of values; asked again and again with different facts."""

    def __init__(self, order: Order) -> None:
        tied = {part: group for group in TOGETHER for part in group}
        self.packages = list(dict.fromkeys(tied.get(part, (part,)) for part in PARTS))
        self.candidates = [
            [dict(zip(parts, joint, strict=True)) for joint in itertools.product(*(order[part] for part in parts))]
            for parts in self.packages
        ]
        self._package_of = {part: number for number, parts in enumerate(self.packages) for part in parts}
        self._known: dict[Case, dict[int, int]] = {}

    def best(self, facts: Iterable[Fact]) -> dict[str, str] | None:
        """The best set that keeps all facts, a part's weight as in PARTS; None where there is none."""
        problem = _Problem(self, facts)
        if not problem.narrow():
            return None
        wanted = [_Choice(number, bits) for number, bits in enumerate(problem.open)]
        resolver = resolvelib.Resolver(_Provider(problem), resolvelib.BaseReporter())
        try:
            found = resolver.resolve(wanted, max_rounds=1_000_000).mapping
        except resolvelib.ResolutionImpossible:
            return None
        chosen: dict[str, str] = {}
        for number, candidates in enumerate(self.candidates):
            chosen |= candidates[found[number].bits.bit_length() - 1]
        return {part: chosen[part] for part in PARTS}

    def where(self, case: Case) -> dict[int, int]:
        """Package -> its candidates, as bits, for which its share of the case is so; the case needs all of them."""
        if case not in self._known:
            shares: dict[int, list[tuple[str, str, bool]]] = {}
            for one in case:
                shares.setdefault(self._package_of[one[0]], []).append(one)
            self._known[case] = {
                number: sum(
                    1 << place
                    for place, values in enumerate(self.candidates[number])
                    if all(allows(spec, values[part]) == holds for part, spec, holds in share)
                )
                for number, share in shares.items()
            }
        return self._known[case]


class _Problem:
    """For each candidate of each package the bits that it leaves of every package."""

    def __init__(self, search: Search, facts: Iterable[Fact]) -> None:
        sizes = [len(candidates) for candidates in search.candidates]
        broken = [(search.where(_broken(fact)), fact) for fact in facts]
        wide = [(cases, fact) for cases, fact in broken if len(cases) > 2]
        sizes += [len(cases) + len(fact.lifted) for cases, fact in wide]
        self.open = [(1 << size) - 1 for size in sizes]
        self.left = [[list(self.open) for _ in range(size)] for size in sizes]
        for cases, fact in broken:
            if len(cases) <= 2:
                self._refuse(search, cases, fact)
        for number, (cases, fact) in enumerate(wide, start=len(search.packages)):
            self._tie(search, number, cases, fact)

    def narrow(self) -> bool:
        """Drop every candidate that leaves another package none, until none does; False where a package has none left.

        The resolver would find that out by trying; where nothing fits it would try for very long.
        """
        changed = True
        while changed and all(self.open):
            changed = False
            for number, left in enumerate(self.left):
                for place in _places(self.open[number]):
                    if not all(bits & may for bits, may in zip(left[place], self.open, strict=True)):
                        self.open[number] &= ~(1 << place)
                        changed = True
        return all(self.open)

    def _refuse(self, search: Search, cases: Mapping[int, int], fact: Fact) -> None:
        """No two candidates that break the fact; of one package alone, not those that do."""
        lifted = [search.where(tuple((part, value, True) for part, value in case)) for case in fact.lifted]
        (one, bits), *more = cases.items()
        if not more:
            self.open[one] &= ~bits | _union(case[one] for case in lifted)
            return
        ((other, others),) = more
        for i in _places(bits):
            spared = _union(case[other] for case in lifted if case[one] >> i & 1)
            self.left[one][i][other] &= ~others | spared
        for j in _places(others):
            spared = _union(case[one] for case in lifted if case[other] >> j & 1)
            self.left[other][j][one] &= ~bits | spared

    def _tie(self, search: Search, number: int, cases: Mapping[int, int], fact: Fact) -> None:
        """Ways to keep the fact: a package whose share is not so, or a case for which it is lifted."""
        for way, (package, bits) in enumerate(cases.items()):
            for place in _places(bits):
                self._exclude(package, place, number, way)
        for way, case in enumerate(fact.lifted, start=len(cases)):
            for package, bits in search.where(tuple((part, value, True) for part, value in case)).items():
                for place in _places(self.open[package] & ~bits):
                    self._exclude(package, place, number, way)

    def _exclude(self, one: int, i: int, other: int, j: int) -> None:
        self.left[one][i][other] &= ~(1 << j)
        self.left[other][j][one] &= ~(1 << i)


def _broken(fact: Fact) -> Case:
    """What is so where the fact is broken."""
    return (*((part, spec, True) for part, spec in fact.when), *(((*fact.then, False),) if fact.then else ()))


def _union(sets: Iterable[int]) -> int:
    return functools.reduce(operator.or_, sets, 0)


def _places(bits: int) -> Iterator[int]:
    while bits > 0:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


class _Provider(resolvelib.AbstractProvider[_Choice, _Choice, int]):
    def __init__(self, problem: _Problem) -> None:
        self._problem = problem

    def identify(self, requirement_or_candidate: _Choice) -> int:
        return requirement_or_candidate.package

    def get_preference(self, identifier: int, *args: Any, **kwargs: Any) -> int:
        del args, kwargs
        return identifier

    def find_matches(
        self,
        identifier: int,
        requirements: Mapping[int, Iterator[_Choice]],
        incompatibilities: Mapping[int, Iterator[_Choice]],
    ) -> list[_Choice]:
        bits = self._problem.open[identifier]
        for requirement in requirements[identifier]:
            bits &= requirement.bits
        for refused in incompatibilities[identifier]:
            bits &= ~refused.bits
        return [_Choice(identifier, 1 << place) for place in _places(bits)]

    def is_satisfied_by(self, requirement: _Choice, candidate: _Choice) -> bool:
        return bool(requirement.bits & candidate.bits)

    def get_dependencies(self, candidate: _Choice) -> list[_Choice]:
        left = self._problem.left[candidate.package][candidate.bits.bit_length() - 1]
        return [_Choice(number, bits) for number, bits in enumerate(left) if number != candidate.package]
