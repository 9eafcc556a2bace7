"""Where nothing fits: a smallest set of facts that can't hold together."""

from __future__ import annotations

from collections.abc import Sequence

from envs.matching.facts import Fact
from envs.matching.solve import Search

DOUBT = ("asked", "documentation", "measured", "package metadata")  # the most doubtful origin first


def smallest_conflict(search: Search, asked: Sequence[Fact], facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """The smallest found of the conflicts that are minimal: without any one of their facts a set would fit.

    Junker's QuickXplain, over several orders of the facts; what was asked comes first, then what is easiest to doubt.
    ValueError where the facts hold together.
    """
    doubted = sorted(facts, key=lambda fact: DOUBT.index(fact.origin))
    orders = ([*asked, *facts], [*asked, *reversed(facts)], [*reversed(doubted), *asked], [*asked, *doubted])
    if search.best(orders[0]) is not None:
        raise ValueError("facts: they hold together")
    found = [_minimal(search, order) for order in orders]
    best = min(found, key=len)
    return tuple(sorted(best, key=lambda fact: (fact.origin != "asked", str(fact))))


def _minimal(search: Search, facts: Sequence[Fact]) -> list[Fact]:
    return [] if search.best(()) is None else _explain(search, [], [], list(facts))


def _explain(search: Search, held: list[Fact], new: list[Fact], facts: list[Fact]) -> list[Fact]:
    if new and search.best(held) is None:
        return []
    if len(facts) == 1:
        return facts
    middle = len(facts) // 2
    first, second = facts[:middle], facts[middle:]
    of_second = _explain(search, [*held, *first], first, second)
    of_first = _explain(search, [*held, *of_second], of_second, first)
    return [*of_first, *of_second]
