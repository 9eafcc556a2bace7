"""What CI runs: linted, pinned, thin, and the same steps here as there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from invoke.collection import Collection

import tasks
from envs import ci
from envs.ci import Step, environments, run_steps, steps
from envs.display import Terminal
from envs.errors import WrongUse
from envs.lock import lock_path, read_lock
from envs.progress import Silent
from envs.spec import spec_names
from envs.testing import lint_commands
from envs.toolchain import HEAVY
from envs.verbs import ci as verb

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SCRIPTS = [ROOT / "inv", *(ROOT / ".ci" / name for name in ("run", "engine", "programs"))]
BROKEN = """
on: push
permissions: {}
jobs:
  one:
    runs-on: ubuntu-24.04
    steps:
      - uses: actions/checkout@v4
      - run: echo ${{ matrix.nothing }} ${{ github.event.issue.title }}
"""


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return loaded


def jobs() -> list[dict[str, Any]]:
    return [job for path in WORKFLOWS for job in load(path)["jobs"].values()]


def linter(name: str) -> list[str]:
    """Its command line, as `invoke lint` runs it."""
    found = [command for command in lint_commands(Terminal()) if Path(command[0]).name == name]
    if not found and os.environ.get("CI") != "true":
        pytest.skip(f"{name} is not installed here")
    return [str(word) for word in found[0]]


@pytest.mark.parametrize("name", ["actionlint", "zizmor", "hadolint", "shellcheck"])
def test_what_ci_runs_is_clean(name: str) -> None:
    done = subprocess.run(linter(name), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["actionlint", "zizmor"])
def test_a_linter_of_workflows_sees_a_fault(name: str, tmp_path: Path) -> None:
    words = linter(name)
    broken = tmp_path / ".github/workflows/broken.yml"
    broken.parent.mkdir(parents=True)
    broken.write_text(BROKEN)
    options = [word for word in words[1:] if word.startswith("-")]
    assert subprocess.run([words[0], *options, broken], cwd=tmp_path, capture_output=True).returncode != 0


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_one_that_its_shell_can_read(path: Path) -> None:
    shell = path.read_text("utf-8").splitlines()[0].removeprefix("#!")
    assert subprocess.run([shell, "-n", path], capture_output=True).returncode == 0
    assert path.stat().st_mode & 0o111


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_commit_and_says_its_version(path: Path) -> None:
    used = re.findall(r"uses:.*", path.read_text("utf-8"))
    assert used
    for line in used:
        assert re.fullmatch(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_one_action_has_one_commit_in_a_workflow() -> None:
    for path in WORKFLOWS:
        pins = set(re.findall(r"uses: ([\w/-]+)@(\w+)", path.read_text("utf-8")))
        assert len({name for name, _ in pins}) == len(pins)


def test_workflows_only_call_this_tool() -> None:
    gitlab = load(ROOT / ".gitlab-ci.yml")
    lines = [step["run"] for job in jobs() for step in job["steps"] if "run" in step]
    for job in (one for one in gitlab.values() if isinstance(one, dict)):
        lines += [line for part in ("before_script", "script", "after_script") for line in job.get(part, [])]
    assert lines
    ours = r"(sudo \S+ )?(\./inv|\.ci/\w+)( [^;&|]*)?"
    matrix = r'echo "matrix=\$\(\./inv ci --matrix\)" >>"\$GITHUB_OUTPUT"'
    login = r'echo "\$\w+" \| docker login "[^"]+" --username "\$\w+" --password-stdin'
    assert [line for line in lines if not re.fullmatch(f"{ours}|{matrix}|{login}", line)] == []


def test_pushing_is_for_the_main_branch_alone() -> None:
    for job in jobs():
        pushes = any("--push" in step.get("run", "") for step in job["steps"])
        assert pushes == ("packages" in job["permissions"])
        if pushes:
            assert job["if"] == "github.event_name == 'push' && github.ref == 'refs/heads/main'"
    gitlab = load(ROOT / ".gitlab-ci.yml")
    assert gitlab["publish"]["rules"] == [{"if": "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"}]
    assert "--push" not in str(gitlab["check"])


def test_every_locked_environment_but_the_heavy_ones_is_in_the_matrix_of_both() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "ci", "--matrix"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "\n" not in done.stdout.rstrip("\n")  # a step's output of one line
    listed = json.loads(done.stdout)["include"]
    locked = [name for name in spec_names() if lock_path(name).exists() and name not in HEAVY]
    assert [one["env"] for one in listed] == locked
    assert [f"sha256:{one['lock']}" for one in listed] == [read_lock(name).digest for name in locked]
    gitlab = load(ROOT / ".gitlab-ci.yml")[".image"]
    assert gitlab["parallel"]["matrix"] == [{"NAME": locked}]
    assert gitlab["cache"]["key"] == "edgekiln-$NAME"


def test_a_heavy_environment_is_built_where_it_is_named() -> None:
    for name in (one for one in spec_names() if one in HEAVY and lock_path(one).exists()):
        assert [one.env for one in environments([name], Silent())] == [name]


# --- the steps


def test_every_step_is_a_command_that_the_tool_has() -> None:
    verbs = {context.name: context for context in Collection.from_module(tasks).to_contexts()}
    for step in steps("light", "docker", Path("/out"), "127.0.0.1:5000/edgekiln"):
        for word in (word for word in step.words[1:] if word.startswith("--")):
            assert word in verbs[step.words[0]].flags, step


def test_nothing_is_pushed_before_all_else_is_done() -> None:
    names = [step.name for step in steps("light", "auto", Path("/out"), "127.0.0.1:5000/edgekiln")]
    assert names == ["lock", "build", "verify", "test inside", "layout", "documents", "push"]
    assert [step.name for step in steps("light", "auto", Path("/out"), "")] == names[:-1]


def test_each_environment_is_pushed_below_the_named_place() -> None:
    last = steps("light", "auto", Path("/out"), "127.0.0.1:5000/edgekiln/")[-1]
    assert last.words == ("push", "--env", "light", "--to", "127.0.0.1:5000/edgekiln/light")


@pytest.mark.parametrize("push", ["host", "/x", "host:5000/x:tag", "host/x@sha256:1", "host/"])
def test_what_is_no_place_to_push_to_is_refused_before_a_build(push: str) -> None:
    with pytest.raises(WrongUse, match="HOST:PORT/REPOSITORY"):
        ci.check_push(push)


def test_an_environment_that_is_not_there_is_refused_with_its_neighbour() -> None:
    with pytest.raises(WrongUse, match="did you mean light"):
        environments(["lihgt"], Silent())


TODO = (
    Step("fine", ("models", "--env", "light", "--json")),
    Step("fails", ("lock", "--check", "--env", "nope")),
    Step("push", ("push", "--env", "light", "--to", "127.0.0.1:9/never")),
)


def test_steps_end_at_the_first_that_fails() -> None:
    done = run_steps("light", TODO, Silent(), quiet_stdout=True)
    assert [one.exit_code for one in done] == [0, 2, None]
    assert done[0].elapsed_s > 0


def test_json_is_one_document_and_the_code_is_the_first_failure_s(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ci, "steps", lambda *_: TODO)
    assert verb.ci(["light"], "auto", "", "", True) == 2
    told = json.loads(capfd.readouterr().out)
    assert not told["ok"]
    assert [one["step"] for one in told["steps"]] == ["fine", "fails", "push"]


def test_the_closing_table_names_what_failed_and_how_to_try_it_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ci, "steps", lambda *_: TODO)
    assert verb.ci(["light"], "auto", "", "", False) == 2
    table = capfd.readouterr().out
    assert re.search(r"light +fails +failed \(2\)", table)
    assert re.search(r"light +push +not reached", table)
    assert "again by hand: invoke lock --check --env nope" in table


def test_the_programs_that_tests_call_are_installed_for_ci() -> None:
    named = set(re.findall(r"(\S+):\S+", (ROOT / ".ci/programs").read_text("utf-8")))
    called = {"skopeo", "docker-registry", "minisign", "htpasswd", "diffoscope", "disorderfs", "faketime", "unshare"}
    assert called <= named
    assert ".ci/programs" in (ROOT / ".ci/run").read_text("utf-8")
