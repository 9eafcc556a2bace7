"""The search against trying everything, on small made-up matrices: it finds the best set, or there is none."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from envs.matching.conflict import smallest_conflict
from envs.matching.facts import Fact
from envs.matching.solve import Search
from envs.matching.values import PARTS

FREE = ("torch", "exporter", "opset", "onnx", "numpy")  # the others have one value
VALUES = ("1", "2", "3")


def order_of(values: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    return {part: values.get(part, ("1",)) for part in PARTS}


@st.composite
def facts(draw: st.DrawFn) -> Fact:
    parts = draw(st.lists(st.sampled_from(FREE), min_size=1, max_size=4, unique=True))
    specs = st.sampled_from(("1", "2", ">=2", "<=2", "present"))
    *when, last = [(part, draw(specs)) for part in parts]
    case = tuple((part, draw(st.sampled_from(VALUES))) for part in sorted(parts))
    lifted = (case,) if draw(st.booleans()) else ()
    if draw(st.booleans()):
        return Fact(when=tuple(when), then=last, origin="documentation", source="made up", lifted=lifted)
    return Fact(when=(*when, last), then=None, origin="measured", source="made up", lifted=lifted)


orders = st.fixed_dictionaries({part: st.permutations(VALUES) for part in FREE})


def by_trying_all(stated: Sequence[Fact], order: Mapping[str, Sequence[str]]) -> dict[str, str] | None:
    sets = (dict(zip(PARTS, values, strict=True)) for values in itertools.product(*(order[part] for part in PARTS)))
    return next((one for one in sets if not any(fact.broken_by(one) for fact in stated)), None)


@settings(max_examples=150, deadline=None)
@given(st.lists(facts(), max_size=10), orders)
def test_the_search_finds_the_first_set_in_order_of_weight(stated: list[Fact], values: dict[str, list[str]]) -> None:
    order = order_of(values)
    assert Search(order).best(stated) == by_trying_all(stated, order)


@settings(max_examples=60, deadline=None)
@given(st.lists(facts(), min_size=4, max_size=12), orders)
def test_a_conflict_holds_no_fact_too_many(stated: list[Fact], values: dict[str, list[str]]) -> None:
    order = order_of(values)
    search = Search(order)
    if search.best(stated) is not None:
        return
    conflict = smallest_conflict(search, (), stated)
    assert set(conflict) <= set(stated)
    assert by_trying_all(conflict, order) is None
    for place in range(len(conflict)):
        assert by_trying_all([*conflict[:place], *conflict[place + 1 :]], order) is not None
