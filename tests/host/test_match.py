"""`invoke match`: what fits comes out, what doesn't is refused by the facts that stand against it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from envs.errors import WrongUse
from envs.matching.answer import Answer, match, shown
from envs.matching.conflict import smallest_conflict
from envs.matching.facts import Fact, known_matrix
from envs.matching.question import asked, order_of
from envs.matching.solve import Search
from envs.matching.values import PARTS, PYTHONS
from envs.toml import parse_toml

ROOT = Path(__file__).resolve().parents[2]
MATRIX = ROOT / "envs" / "matrix"

# torch, torchvision, default opset, highest by TorchScript, onnx and onnxruntime at least, numpy 2
TORCHES = [
    ("1.11.0", "0.12.0", 9, 15, "1.12", "1.12", False),
    ("1.12.1", "0.13.1", 13, 16, "1.12", "1.12", False),
    ("1.13.1", "0.14.1", 14, 17, "1.12", "1.12", False),
    ("2.0.1", "0.15.2", 14, 18, "1.13", "1.14", False),
    ("2.1.2", "0.16.2", 17, 17, "1.12", "1.12", False),
    ("2.2.2", "0.17.2", 17, 17, "1.12", "1.12", False),
    ("2.3.1", "0.18.1", 17, 17, "1.12", "1.12", True),
    ("2.4.1", "0.19.1", 17, 20, "1.15", "1.17", True),
    ("2.5.1", "0.20.1", 17, 20, "1.15", "1.17", True),
    ("2.6.0", "0.21.0", 17, 20, "1.15", "1.17", True),
    ("2.7.1", "0.22.1", 17, 20, "1.15", "1.17", True),
    ("2.8.0", "0.23.0", 18, 20, "1.15", "1.17", True),
    ("2.9.1", "0.24.1", 20, 20, "1.15", "1.17", True),
    ("2.10.0", "0.25.0", 20, 20, "1.15", "1.17", True),
]
DYNAMO = ("2.8.0", "2.9.1", "2.10.0")

# onnx line, its IR version, its opset, protobuf that it takes, protobuf that it refuses
ONNXES = [
    ("1.12", 8, 17, "3.20.1", "3.20.3"),
    ("1.13", 8, 18, "3.20.3", "4.21.12"),
    ("1.14", 9, 19, "4.25.4", "3.20.1"),
    ("1.15", 9, 20, "3.20.3", "3.20.1"),
    ("1.16", 10, 21, "3.20.3", "3.20.1"),
    ("1.17", 10, 22, "3.20.3", "3.20.1"),
    ("1.18", 11, 23, "4.25.4", "4.24.4"),
    ("1.19", 12, 24, "4.25.4", "4.24.4"),
    ("1.20", 13, 25, "4.25.4", "4.24.4"),
    ("1.21", 13, 26, "4.25.4", "4.24.4"),
    ("1.22", 13, 27, "4.25.4", "4.24.4"),
    ("1.23", 13, 28, "6.31.1", "6.30.2"),
]

# onnxruntime line, highest IR version and opset
RUNTIMES = [
    *[("1.12", 8, 17), ("1.13", 8, 17), ("1.14", 8, 18), ("1.16", 9, 19), ("1.17", 9, 20), ("1.18", 10, 21)],
    *[("1.19", 10, 21), ("1.20", 10, 21), ("1.21", 10, 22), ("1.22", 10, 22), ("1.23.2", 11, 23)],
]

SETS = {
    "sigmastar": {
        "torch": "2.3.1",
        "torchvision": "0.18.1",
        "onnx": "1.15.0",
        "onnxruntime": "1.17.3",
        "numpy": "1.26.4",
        "protobuf": "3.20.3",
        "onnxsim": "0.4.36",
        "opset": "13",
        "ir": "7",
    },
    "rknn": {
        "torch": "2.3.1",
        "onnx": "1.16.1",
        "onnxruntime": "1.18.1",
        "numpy": "1.26.4",
        "protobuf": "4.25.4",
    },
    "acuity": {"onnx": "1.16.2", "numpy": "1.26.4", "protobuf": "3.20.3"},
    "tpu-mlir": {
        "torch": "2.1.2",
        "onnx": "1.14.1",
        "onnxruntime": "1.16.3",
        "numpy": "1.24.3",
        "protobuf": "3.20.3",
    },
    "d-robotics": {"torch": "1.13.0", "opset": "11"},
    "ti": {"onnx": "1.14.0"},
    "tensorrt-10": {"opset": "20"},
    "tensorrt-8": {"opset": "17"},
}


def ask(**fixed: str) -> Answer:
    return match(known_matrix(), {"toolchain": "onnxruntime", "python": "3.10", **fixed})


def fits(**fixed: str) -> bool:
    """Whether any set does: the search alone, without reasons."""
    wanted = {"toolchain": "onnxruntime", "python": "3.10", **fixed}
    return SEARCH.best([*asked(known_matrix(), wanted), *known_matrix().facts]) is not None


SEARCH = Search(order_of(known_matrix(), "onnxruntime"))


@pytest.mark.parametrize("row", TORCHES, ids=lambda row: row[0])
def test_a_torch_of_the_table_fits_as_it_says(row: tuple[Any, ...]) -> None:
    torch, torchvision, default, highest, onnx, runtime, numpy2 = row
    chosen = ask(torch=torch, exporter="torchscript").chosen
    assert chosen is not None
    assert chosen["torchvision"] == torchvision
    assert chosen["opset"] == str(highest)
    assert Version(chosen["onnx"]) >= Version(onnx)
    assert Version(chosen["onnxruntime"]) >= Version(runtime)
    assert known_matrix().default_opset[torch] == default
    assert fits(torch=torch, numpy=">=2") == numpy2
    assert fits(torch=torch, exporter="dynamo") == (torch in DYNAMO)


@pytest.mark.parametrize("row", TORCHES, ids=lambda row: row[0])
def test_a_torch_of_the_table_refuses_what_lies_outside_its_row(row: tuple[Any, ...]) -> None:
    torch, torchvision, _, highest, onnx, runtime, _ = row
    others = [one[1] for one in TORCHES if one[1] != torchvision]
    assert not any(fits(torch=torch, torchvision=other) for other in others)
    assert not fits(torch=torch, exporter="torchscript", opset=str(highest + 1))
    assert not fits(torch=torch, onnx=f"<{onnx}")
    assert not fits(torch=torch, onnxruntime=f"<{runtime}")
    assert not fits(torch=torch, exporter="dynamo", opset="24")
    assert not fits(torch=torch, exporter="dynamo", opset="17")


@pytest.mark.parametrize("row", ONNXES, ids=lambda row: row[0])
def test_an_onnx_of_the_table_has_its_ir_opset_and_protobuf(row: tuple[Any, ...]) -> None:
    line, ir, opset, takes, refuses = row
    onnx = {"onnx": f"=={line}.*"}
    facts = known_matrix().facts
    for version in (value for value in known_matrix().values["onnx"] if value.startswith(f"{line}.")):
        own = {"onnx": version}
        assert not any(fact.broken_by({**own, "ir": str(ir)}) for fact in facts)
        assert not any(fact.broken_by({**own, "opset": str(opset)}) for fact in facts)
        assert ir == 13 or any(fact.broken_by({**own, "ir": str(ir + 1)}) for fact in facts)
        assert opset == 28 or any(fact.broken_by({**own, "opset": str(opset + 1)}) for fact in facts)
    assert fits(**onnx, protobuf=takes)
    assert not fits(**onnx, protobuf=refuses)
    assert fits(**onnx, numpy=">=2") == (Version(line) >= Version("1.17"))
    assert fits(**onnx, **{"ml-dtypes": "none"}) == (Version(line) < Version("1.19"))


@pytest.mark.parametrize(("line", "ir", "opset"), RUNTIMES)
def test_an_onnxruntime_of_the_table_reads_up_to_its_ir_and_opset(line: str, ir: int, opset: int) -> None:
    runtime = {"onnxruntime": f"=={line}.*"}
    own = [one for one in known_matrix().values["onnxruntime"] if SpecifierSet(f"=={line}.*").contains(one)]
    for version in own:
        file = {"onnxruntime": version, "ir": str(ir), "opset": str(opset)}
        assert not any(fact.broken_by(file) for fact in known_matrix().facts)
        assert any(fact.broken_by({**file, "opset": str(opset + 1)}) for fact in known_matrix().facts)
    assert not fits(**runtime, ir=str(ir + 1))
    assert fits(**runtime, numpy=">=2") == (Version(line) >= Version("1.19"))


def test_onnxruntime_1_15_reads_ir_9_since_it_was_measured() -> None:
    assert fits(onnxruntime="==1.15.*", ir="9", opset="17")
    assert not fits(onnxruntime="==1.15.*", ir="10")


@pytest.mark.parametrize("toolchain", SETS)
def test_the_set_of_a_toolchain_comes_out(toolchain: str) -> None:
    chosen = ask(toolchain=toolchain).chosen
    assert chosen is not None
    assert {part: chosen[part] for part in SETS[toolchain]} == SETS[toolchain]


def test_a_preference_is_no_limit() -> None:
    chosen = ask(toolchain="sigmastar", torch="2.6").chosen
    assert chosen is not None
    assert (chosen["torch"], chosen["torchvision"], chosen["opset"]) == ("2.6.0", "0.21.0", "13")


@pytest.mark.parametrize("python", PYTHONS)
def test_each_python_has_a_set_of_wheels_for_it(python: str) -> None:
    chosen = ask(python=python).chosen
    assert chosen is not None
    wheels = parse_toml(MATRIX / "packages.toml")["wheels"]
    for package, versions in wheels.items():
        if chosen[package] != "none":
            assert SpecifierSet(versions[chosen[package]]).contains(python)


CONFLICTS: list[tuple[dict[str, str], set[str]]] = [
    (
        {"toolchain": "sigmastar", "opset": "17"},
        {"asked for opset 17", "asked for toolchain sigmastar", "sigmastar needs opset <=13"},
    ),
    (
        {"toolchain": "rknn", "python": "3.13"},
        {"asked for Python 3.13", "asked for toolchain rknn", "rknn needs Python >=3.6, <3.13"},
    ),
    (
        {"numpy": "2.2.6", "onnx": "1.16.1"},
        {"asked for numpy 2.2.6", "asked for onnx 1.16.1", "onnx <1.17 needs numpy <2"},
    ),
    (
        {"opset": "24"},
        {
            "asked for opset 24",
            "exporter torchscript needs opset >=7, <=20",
            "exporter dynamo needs opset >=18, <=23",
        },
    ),
    (
        {"onnxruntime": "1.22.1", "opset": "23"},
        {
            "asked for onnxruntime 1.22.1",
            "asked for opset 23",
            "onnxruntime >=1.21, <1.23 needs opset <=22",
        },
    ),
]


@pytest.mark.parametrize(
    ("fixed", "expected"), CONFLICTS, ids=lambda one: " ".join(one) if isinstance(one, dict) else ""
)
def test_where_nothing_fits_a_minimal_set_of_facts_is_named_with_their_origin(
    fixed: dict[str, str], expected: set[str]
) -> None:
    answer = ask(**fixed)
    assert answer.chosen is None
    assert {one.fact for one in answer.conflict} == expected
    assert all(one.origin and one.source for one in answer.conflict)
    wishes = asked(known_matrix(), {"toolchain": "onnxruntime", "python": "3.10", **fixed})
    conflict = [fact for fact in (*wishes, *known_matrix().facts) if shown(fact) in answer.conflict]
    assert SEARCH.best(conflict) is None
    for left_out in conflict:
        assert SEARCH.best([fact for fact in conflict if fact != left_out]) is not None


def test_facts_that_hold_together_have_no_conflict() -> None:
    with pytest.raises(ValueError, match="facts"):
        smallest_conflict(SEARCH, (), known_matrix().facts)


@st.composite
def questions(draw: st.DrawFn) -> dict[str, str]:
    matrix = known_matrix()
    fixed = {
        "toolchain": draw(st.sampled_from(matrix.values["toolchain"])),
        "python": draw(st.sampled_from(PYTHONS)),
    }
    for part in draw(st.lists(st.sampled_from(("torch", "onnx", "onnxruntime", "numpy", "opset")), max_size=2)):
        fixed[part] = draw(st.sampled_from(matrix.values[part]))
    return fixed


def rows_in_the_files() -> Iterator[tuple[Mapping[str, str], str, str]]:
    """(when, part, spec) of every row, read without any code of the matrix."""
    packages = parse_toml(MATRIX / "packages.toml")
    for package, versions in packages["wheels"].items():
        for version, pythons in versions.items():
            yield {package: version}, "python", pythons
    for group in packages["facts"]:
        for row in group["rows"]:
            yield from ((row.get("when", {}), part, spec) for part, spec in row["then"].items())
    for toolchain in parse_toml(MATRIX / "toolchains.toml")["toolchain"]:
        for accepted in toolchain.get("accepts", ()):
            yield from (({"toolchain": toolchain["name"]}, part, spec) for part, spec in accepted["needs"].items())


ROWS = list(rows_in_the_files())


def plainly(spec: str, value: str) -> bool:
    if spec == "present":
        return value != "none"
    if spec[0] in "<>=!~":
        return value != "none" and Version(value) in SpecifierSet(spec, prereleases=True)
    return value == spec


@settings(max_examples=25, deadline=None)
@given(questions())
def test_what_is_returned_keeps_every_row_of_the_files(fixed: dict[str, str]) -> None:
    matrix = known_matrix()
    search = Search(order_of(matrix, fixed["toolchain"]))
    chosen = search.best([*asked(matrix, fixed), *matrix.facts])
    if chosen is None:
        return
    assert set(chosen) == set(PARTS)
    assert {part: chosen[part] for part in fixed} == fixed
    lifted = {fact.then for fact in matrix.facts if fact.lifted}
    for when, part, spec in ROWS:
        if all(plainly(limit, chosen[one]) for one, limit in when.items()) and (part, spec) not in lifted:
            assert plainly(spec, chosen[part]), (when, part, spec)
    assert not any(fact.broken_by(chosen) for fact in matrix.facts)


@settings(max_examples=15, deadline=None)
@given(questions(), st.data())
def test_holding_any_part_of_a_set_gives_that_set_again(fixed: dict[str, str], data: st.DataObject) -> None:
    matrix = known_matrix()
    search = Search(order_of(matrix, fixed["toolchain"]))
    chosen = search.best([*asked(matrix, fixed), *matrix.facts])
    if chosen is None:
        return
    held = data.draw(st.lists(st.sampled_from(PARTS), unique=True))
    more = [Fact(when=(), then=(part, chosen[part]), origin="asked", source="again") for part in held]
    assert search.best([*asked(matrix, fixed), *matrix.facts, *more]) == chosen


def test_each_pin_has_its_reason_and_each_fact_behind_it_an_origin() -> None:
    answer = ask(toolchain="sigmastar")
    assert [pin.part for pin in answer.pins] == list(PARTS)
    assert all(pin.why for pin in answer.pins)
    by_part = {pin.part: pin for pin in answer.pins}
    assert "measured" in by_part["torch"].why
    assert ("sigmastar needs opset <=13", "documentation") in {(one.fact, one.origin) for one in by_part["opset"].facts}
    assert "torchvision 0.19.1 needs torch 2.4.1" in {one.fact for one in by_part["torchvision"].facts}


def test_a_reason_names_what_refuses_the_next_better_version() -> None:
    answer = ask(torch="2.2.2", onnx="1.16.2")
    by_part = {pin.part: pin for pin in answer.pins}
    assert by_part["numpy"].value == "1.26.4"
    assert "onnx <1.17 needs numpy <2" in {one.fact for one in by_part["numpy"].facts}


def test_the_next_best_set_fits_too_and_says_where_it_differs() -> None:
    answer = ask(toolchain="rknn")
    assert answer.chosen
    assert answer.next_best
    assert not any(fact.broken_by(answer.next_best) for fact in known_matrix().facts)
    differs = {one.part: (one.instead_of, one.value) for one in answer.differs}
    assert differs == {
        part: (answer.chosen[part], answer.next_best[part])
        for part in PARTS
        if answer.chosen[part] != answer.next_best[part]
    }
    assert set(differs) & {"torch", "opset", "onnx", "onnxruntime"}
    assert all(one.why for one in answer.differs)


def test_no_better_set_than_the_one_returned_by_trying_all_of_a_small_question() -> None:
    matrix = known_matrix()
    fixed = {"toolchain": "sigmastar", "python": "3.10", "torch": "2.3.1", "opset": "13", "ir": "7"}
    fixed |= {"torchvision": "0.18.1", "exporter": "torchscript", "onnxscript": "none"}
    order = order_of(matrix, "sigmastar")
    free = ("onnx", "onnxruntime", "numpy", "protobuf")
    best = next(
        {**fixed, "onnx": onnx, "onnxruntime": runtime, "numpy": numpy, "protobuf": protobuf}
        for onnx in order["onnx"]
        for runtime in order["onnxruntime"]
        for numpy in order["numpy"]
        for protobuf in order["protobuf"]
        if not any(
            fact.broken_by({**fixed, "onnx": onnx, "onnxruntime": runtime, "numpy": numpy, "protobuf": protobuf})
            for fact in matrix.facts
        )
    )
    chosen = Search(order).best([*asked(matrix, fixed), *matrix.facts])
    assert chosen is not None
    assert {part: chosen[part] for part in free} == {part: best[part] for part in free}


def test_a_line_of_a_toolchain_is_asked_for_by_its_name() -> None:
    assert ask(toolchain="tensorrt").toolchain == "tensorrt-11"
    assert ask(toolchain="tensorrt", opset="<=17", torch="2.14", exporter="torchscript").chosen


@pytest.mark.parametrize(
    ("fixed", "near"),
    [({"toolchain": "sigmstar"}, "sigmastar"), ({"torch": "2.3.9"}, "2.3.1"), ({"python": "2.7"}, "3.8")],
)
def test_what_the_matrix_does_not_know_is_wrong_use_with_the_nearest(fixed: dict[str, str], near: str) -> None:
    with pytest.raises(WrongUse) as raised:
        ask(**fixed)
    assert near in str(raised.value)


def invoke(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "invoke", "match", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_verb_prints_the_set_its_reasons_and_the_next_best() -> None:
    done = invoke("--toolchain", "sigmastar", "--python", "3.10")
    assert done.returncode == 0
    for expected in ("2.3.1", "0.18.1", "1.15.0", "1.17.3", "1.26.4", "3.20.3", "opset_version=13", "next best"):
        assert expected in done.stdout


def test_the_verb_ends_with_1_where_nothing_fits_and_with_2_for_an_unknown_name() -> None:
    refused = invoke("--toolchain", "sigmastar", "--opset", "17", "--json")
    assert refused.returncode == 1
    document = json.loads(refused.stdout)
    assert document["chosen"] is None
    assert {one["origin"] for one in document["conflict"]} == {"asked", "documentation"}
    unknown = invoke("--toolchain", "nosuch", "--json")
    assert unknown.returncode == 2
    assert json.loads(unknown.stdout)["error"]["code"] == "wrong-use"
