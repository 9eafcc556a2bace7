"""Which tests run inside which environment, and that none is lost without a word."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from envs.errors import WrongUse
from envs.paths import ROOT
from envs.spec import load_spec, spec_names
from envs.testing import INSIDE, PIPELINES_ENV, Tail, _ended, default_environments, suites
from envs.toolchain import HEAVY
from envs.verbs import checks

CONVERTERS = [name for name in spec_names() if (it := load_spec(name).toolchain) and it.export]


def test_an_environment_that_exports_runs_the_pipelines_tests() -> None:
    for name in (PIPELINES_ENV, "light"):
        assert suites(load_spec(name)) == ("pipelines", "environment")


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_converter_s_environment_runs_its_adapter_s_tests_and_none_that_want_torch(name: str) -> None:
    spec = load_spec(name)
    assert spec.toolchain is not None
    assert suites(spec) == ("environment", f"vendors/test_{spec.toolchain.vendor.replace('-', '_')}.py")


@pytest.mark.parametrize("name", CONVERTERS)
def test_every_converter_here_has_tests_that_can_run_in_its_environment(name: str) -> None:
    spec = load_spec(name)
    assert (ROOT / "tests" / suites(spec)[-1]).is_file()
    assert {"pytest", "hypothesis"} <= set(spec.test)


def test_every_test_module_runs_somewhere() -> None:
    """In a folder that the host leaves out, only what some environment's suites name."""
    run = {suite for name in spec_names() for suite in suites(load_spec(name))}
    for folder in INSIDE:
        if folder not in run:
            modules = {f"{folder}/{path.name}" for path in (ROOT / "tests" / folder).glob("test_*.py")}
            assert modules == {suite for suite in run if suite.startswith(f"{folder}/")}


def test_ci_looks_into_the_small_environments_and_all_into_every_one() -> None:
    small, every = default_environments(every=False), default_environments(every=True)
    assert set(small) == {PIPELINES_ENV, *CONVERTERS} - set(HEAVY)
    assert set(every) == {PIPELINES_ENV, *CONVERTERS}
    assert set(HEAVY) <= set(every)


def test_ci_converts_in_the_small_environments() -> None:
    (listed,) = re.findall(r"^for env in ([a-z -]+); do$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)
    assert listed.split() == default_environments(every=False)[1:]


def test_all_and_one_exclude_each_other() -> None:
    with pytest.raises(WrongUse, match="--all and --env mnn exclude each other"):
        checks.test("mnn", "local", False, False, True, "")


def test_a_suite_that_could_not_run_is_a_failure_in_the_total() -> None:
    """pytest counts nothing where it finds no such file or is killed."""
    counts: dict[str, int] = {}
    assert _ended(4, Tail(), "", counts) == 4
    assert counts == {"error": 1}


def test_a_keyword_that_names_tests_of_another_suite_is_none() -> None:
    counts: dict[str, int] = {}
    assert _ended(5, Tail(), "word", counts) == 0
    assert counts == {}
    assert _ended(5, Tail(), "", counts) == 5
    assert counts == {"error": 1}


@pytest.mark.parametrize(
    ("line", "counted"),
    [
        (b"= 3 passed, 1 skipped in 0.1s =\n", {"passed": 3, "skipped": 1}),
        (b"2 failed, 3 passed in 2.0s\n", {"failed": 2, "passed": 3}),
        (b"1 error in 0.5s\n", {"error": 1}),
    ],
)
def test_what_pytest_counts_is_counted(line: bytes, counted: dict[str, int], capfd: pytest.CaptureFixture[str]) -> None:
    seen = Tail()
    seen.take(b"....\n" + line)
    counts: dict[str, int] = {}
    _ended(0 if "failed" not in counted and "error" not in counted else 1, seen, "", counts)
    assert counts == counted


def test_modules_about_a_package_name_what_they_need() -> None:
    """tests/environment: a module that imports torch at its head is about torch."""
    text = (ROOT / "tests" / "environment" / "conftest.py").read_text("utf-8")
    about = dict(re.findall(r'"(test_\w+\.py)": (\{[^}]+\})', text))
    for path in Path(ROOT, "tests", "environment").glob("test_*.py"):
        imported = set(
            re.findall(r"^import (torch|torchvision|onnx|onnxruntime)$", path.read_text("utf-8"), re.MULTILINE)
        )
        needed = set(msgspec.json.decode(about.get(path.name, "{}").replace("{", "[").replace("}", "]")))
        assert imported <= needed, path.name
