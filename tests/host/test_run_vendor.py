"""What the host does between two parts of a run: steps of a plan in a vendor's container, whatever that does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_engine import FakeEngine

from envs.contract import OutsideOption, OutsidePlan, OutsideReport, OutsideStep, encode
from envs.engines.base import Sink, Task
from envs.errors import EngineError
from envs.progress import Silent
from envs.run_vendor import TIMED_OUT, Vendors, run_outside

HELP = b"usage: tool [-h] -i IMAGE --input_shapes SHAPES [--soc_version SOC]\n"
Does = Callable[[list[str], Path], int]


def step(name: str, form: Any = "dense", **changes: Any) -> OutsideStep:
    fields = {
        "name": name,
        "form": form,
        "program": "tool.py",
        "options": (OutsideOption(spellings=("-i",), value="/prepared/x"),),
        "folder": f"{form}/{name}",
        "timeout_s": 60.0,
    }
    return OutsideStep(**{**fields, **changes})


def option(*spellings: str, value: str = "v", always: bool = True) -> OutsideOption:
    return OutsideOption(spellings=spellings, value=value, always=always)


class Given:
    """A run folder with a plan, and a fake engine whose commands the test plays."""

    def __init__(self, folder: Path, *steps: OutsideStep) -> None:
        self.folder = folder
        prepared = folder / "artifacts/prepare"
        prepared.mkdir(parents=True)
        plan = OutsidePlan(
            vendor="sigmastar", target="pcupid", model="m", forms=("dense",), judged=("p.png",), steps=steps
        )
        (prepared / "plan.json").write_bytes(encode(plan))
        self.sdk = folder / "sdk"
        self.sdk.mkdir()
        self.commands: list[list[str]] = []
        self.engine = FakeEngine()

    @property
    def work(self) -> Path:
        return self.folder / "vendor/work"

    def run(self, does: Does = lambda words, work: 0, said: bytes = HELP, cache: Path | None = None) -> OutsideReport:
        def answer(task: Task, out: Sink, err: Sink) -> int:
            words = list(task.command)[7:]  # bash -c SCRIPT vendor SDK FOLDER SECONDS
            if words[-1] == "--help":
                out(said)
                return 0
            self.commands.append(words)
            err(b"it works\n")
            return does(words, self.work)

        self.engine = FakeEngine(*[answer] * 20)
        vendors = Vendors("0" * 64, "SGS_IPU_Stand_In_0.1", "sha256:1", self.sdk)
        report = run_outside(self.engine, vendors, self.folder, Silent(), cache)
        assert report is not None
        read = msgspec.json.decode((self.folder / "vendor/outside.json").read_bytes(), type=OutsideReport)
        assert read == report
        return report


def test_a_step_runs_with_what_it_needs_and_nothing_else(tmp_path: Path) -> None:
    given = Given(tmp_path, step("convert"))
    report = given.run()
    (task,) = given.engine.tasks
    assert task.environment.image == "sha256:1"
    assert [(mount.source, mount.target, mount.writable) for mount in task.mounts] == [
        (given.work, "/outside", True),
        (tmp_path / "artifacts/prepare", "/prepared", False),
        (given.sdk, "/sdk", False),
    ]
    assert list(task.command)[4:] == [
        *("/sdk", "/outside/dense/convert", "60", "python3", "/sdk/tool.py", "-i", "/prepared/x")
    ]
    (result,) = report.steps
    assert (result.exit_code, result.reason) == (0, "")
    assert (tmp_path / "vendor" / result.log).read_text() == "it works\n"


def test_an_option_is_spelled_as_the_tool_s_help_does(tmp_path: Path) -> None:
    options = (
        option("--input_shape", "--input_shapes"),
        option("-t", always=False),
        option("--soc_version", always=False),
        option("--export_models", value=""),
    )
    given = Given(tmp_path, step("convert", options=options), step("again", options=options))
    given.run()
    wanted = ["--input_shapes", "v", "--soc_version", "v", "--export_models"]
    assert [words[2:] for words in given.commands] == [wanted, wanted]
    assert len(given.engine.tasks) == 3  # its help is asked for once


def test_a_help_that_names_no_spelling_is_said_and_the_step_not_run(tmp_path: Path) -> None:
    given = Given(tmp_path, step("convert", options=(option("--shape", "--shapes"),)))
    (result,) = given.run().steps
    assert (result.exit_code, given.commands) == (None, [])
    assert result.reason == "the help of the tool names none of --shape, --shapes"


def test_after_a_failure_the_form_s_later_steps_are_not_run_and_other_forms_are(tmp_path: Path) -> None:
    given = Given(tmp_path, step("one"), step("two"), step("three", "sparse"))
    report = given.run(lambda words, work: 3 if len(given.commands) == 1 else 0)
    assert [(one.name, one.exit_code, one.reason) for one in report.steps] == [
        ("one", 3, ""),
        ("two", None, "not run: one failed"),
        ("three", 0, ""),
    ]


def test_a_step_that_does_not_end_says_so(tmp_path: Path) -> None:
    (result,) = Given(tmp_path, step("convert")).run(lambda words, work: TIMED_OUT).steps
    assert result.reason == "it did not end within 60 s"


@pytest.mark.parametrize(("left", "count"), [((), 0), (("a_float.sim", "b_float.sim"), 2)])
def test_a_file_that_an_earlier_step_should_have_left_is_the_only_one(
    tmp_path: Path, left: tuple[str, ...], count: int
) -> None:
    def leave(words: list[str], work: Path) -> int:
        for name in left:
            (work / "dense/convert" / name).write_text("x")
        return 0

    find = {"@float@": "dense/convert/*_float.sim"}
    given = Given(tmp_path, step("convert"), step("float", options=(option("-m", value="@float@"),), finds=find))
    result = given.run(leave).steps[1]
    assert result.reason == f"the steps before left {count} files dense/convert/*_float.sim, one is wanted"


def test_the_found_file_is_named_as_the_container_sees_it(tmp_path: Path) -> None:
    def leave(words: list[str], work: Path) -> int:
        (work / "dense/convert/a_float.sim").write_text("x")
        return 0

    find = {"@float@": "dense/convert/*_float.sim"}
    given = Given(tmp_path, step("convert"), step("float", options=(option("-m", value="@float@"),), finds=find))
    given.run(leave)
    assert given.commands[1][2:] == ["-m", "/outside/dense/convert/a_float.sim"]


def test_what_it_left_is_listed_with_its_hash_and_links_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")

    def leave(words: list[str], work: Path) -> int:
        (work / "dense/convert/x.img").write_bytes(b"abc")
        (work / "dense/convert/y.img").symlink_to(secret)
        (work / "dense/folder").symlink_to(tmp_path)
        (work / "tmp/scrap").write_bytes(b"")
        return 0

    (file,) = Given(tmp_path, step("convert")).run(leave).files
    assert (file.path, file.bytes) == ("work/dense/convert/x.img", 3)
    assert file.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_container_can_reach_neither_its_log_nor_its_report(tmp_path: Path) -> None:
    given = Given(tmp_path, step("convert"))
    report = given.run()
    writable = [mount.source for task in given.engine.tasks for mount in task.mounts if mount.writable]
    for name in (report.steps[0].log, "outside.json"):
        assert not any((tmp_path / "vendor" / name).is_relative_to(place) for place in writable)


def test_what_an_earlier_run_left_is_gone(tmp_path: Path) -> None:
    given = Given(tmp_path, step("convert"))
    (given.work / "dense").mkdir(parents=True)
    (given.work / "dense/old.img").write_text("old")
    assert given.run().files == ()


def test_without_a_plan_nothing_runs(tmp_path: Path) -> None:
    vendors = Vendors("0" * 64, "sdk", "sha256:1", tmp_path)
    engine = FakeEngine()
    assert run_outside(engine, vendors, tmp_path, Silent()) is None
    assert engine.tasks == []


def test_a_container_that_can_t_enter_the_sdk_is_the_engine_s_fault(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="can't enter the SDK"):
        Given(tmp_path, step("convert")).run(lambda words, work: 125)


def leaves(words: list[str], work: Path) -> int:
    (work / "dense/convert/x.img").write_bytes(b"abc")
    return 0


def test_the_same_files_are_answered_from_the_cache(tmp_path: Path) -> None:
    first, second = (Given(tmp_path / name, step("convert")) for name in ("one", "two"))
    report = first.run(leaves, cache=tmp_path / "cache")
    assert second.run(leaves, cache=tmp_path / "cache") == report
    assert (len(first.commands), len(second.commands)) == (1, 0)
    assert (second.work / "dense/convert/x.img").read_bytes() == b"abc"
    assert (second.folder / "vendor" / report.steps[0].log).read_text() == "it works\n"
    assert [path.name[0] for path in (tmp_path / "cache").iterdir()] != ["."]


@pytest.mark.parametrize("what", ["prepared", "damaged", "failed", "off"])
def test_what_is_not_the_same_runs_again(tmp_path: Path, what: str) -> None:
    cache = tmp_path / "cache"
    first, second = (Given(tmp_path / name, step("convert")) for name in ("one", "two"))
    first.run(lambda words, work: leaves(words, work) or (1 if what == "failed" else 0), cache=cache)
    if what == "prepared":
        (second.folder / "artifacts/prepare/picture.png").write_bytes(b"another")
    elif what == "damaged":
        next(cache.glob("*/work/dense/convert/x.img")).write_bytes(b"abd")
    assert second.run(leaves, cache=None if what == "off" else cache).files[0].bytes == 3
    assert len(second.commands) == 1
