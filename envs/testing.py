"""`invoke test`: the host's tests here; inside an environment its own, the pipelines' and its toolchain's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from envs import process, sources
from envs.build import Built, build
from envs.bundle.wheels import offline_options
from envs.data import ensure_data
from envs.display import Terminal
from envs.engines.base import Engine, Mount, Task
from envs.engines.choose import choose
from envs.files import write_atomic
from envs.mounts import import_path, standard_mounts
from envs.paths import LOCKS, ROOT, cache_root, runs_root
from envs.spec import EnvSpec, load_spec, spec_names
from envs.toolchain import HEAVY
from envs.tree import ensure_test_tree

TOOLS = "/tools"
LOCK_VIEW = "/lock"
INSIDE = ("pipelines", "environment", "vendors")  # folders of tests/ that run inside an environment
NOTHING_COLLECTED = 5  # pytest's exit code
PIPELINES_ENV = "sigmastar"  # runs the pipelines' own tests


def ensure_dev_tools(terminal: Terminal) -> None:
    """pytest, ruff and mypy in the tool's own environment, from hashed requirements, once."""
    wanted = LOCKS / "dev.txt"
    stamp = Path(sys.prefix) / "dev-made-from.txt"
    if stamp.exists() and stamp.read_bytes() == wanted.read_bytes():
        return
    terminal.say("installing the test tools into .venv (once)")
    process.run(
        [
            sources.uv(),
            "pip",
            "install",
            "--quiet",
            "--python",
            sys.executable,
            "--require-hashes",
            *offline_options(),
            "-r",
            wanted,
        ]
    )
    write_atomic(stamp, wanted.read_bytes())


def run_suites(envs: Sequence[str], engine: str, keyword: str, terminal: Terminal, *, host: bool) -> int:
    """Run the host's suite if asked, and those inside each environment, to their end; 0 where all are green.

    The last line counts them all.
    """
    inside = [load_spec(name) for name in envs]  # says so now if one can't be read
    ensure_dev_tools(terminal)
    counts: dict[str, int] = {}
    codes = [_host_suite(keyword, counts, terminal)] if host else []
    if inside:
        chosen = choose(engine)
        terminal.say(chosen.why)
        for spec in inside:
            built = build(spec.name, chosen, terminal)
            codes += [_inside(suite, chosen.engine, built, keyword, counts, terminal) for suite in suites(spec)]
    failed = counts.get("failed", 0) + counts.get("error", 0)
    skipped = counts.get("skipped", 0)
    print(f"total: {counts.get('passed', 0)} passed, {failed} failed, {skipped} skipped", flush=True)  # noqa: T201
    return 0 if not any(codes) else 1


def default_environments(*, every: bool) -> list[str]:
    """Those that `invoke test` looks into where none is named: the pipelines' own, then every converter's.

    The heavy ones only where `every` is set.
    """
    converters = [name for name in spec_names() if _converts(load_spec(name))]
    return [PIPELINES_ENV, *(name for name in converters if every or name not in HEAVY)]


def suites(spec: EnvSpec) -> tuple[str, ...]:
    """What runs inside that environment, as paths below tests/. One that only converts has no torch for the rest."""
    if spec.toolchain is not None and _converts(spec):
        return ("environment", f"vendors/test_{spec.toolchain.vendor.replace('-', '_')}.py")
    return ("pipelines", "environment")


def _converts(spec: EnvSpec) -> bool:
    return spec.toolchain is not None and bool(spec.toolchain.export)


def _host_suite(keyword: str, counts: dict[str, int], terminal: Terminal) -> int:
    terminal.say("host tests")
    command = [sys.executable, "-m", "pytest", "tests", *(f"--ignore=tests/{one}" for one in INSIDE)]
    command += ["-q", "--cov=envs", "--cov-report=term:skip-covered", *_only(keyword)]
    started = process.attach(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=ROOT, stdout=subprocess.PIPE)
    seen = Tail()
    assert started.stdout is not None
    for line in started.stdout:
        seen.take(line)
    return _ended(started.wait(), seen, keyword, counts)


def _inside(suite: str, engine: Engine, built: Built, keyword: str, counts: dict[str, int], terminal: Terminal) -> int:
    terminal.say(f"tests/{suite} inside {built.environment.name} ({engine.name})")
    tools = Mount(ensure_test_tree(built.lock, built.environment.tree, terminal), TOOLS)
    tests = Mount(ROOT / "tests", "/tests/tests")
    lock = Mount(_lock_folder(built), LOCK_VIEW)
    mounts = [*standard_mounts(ensure_data(built.lock, terminal)), tools, tests, lock]
    folder = engine.view(tests)
    scratch = f".tests-{built.environment.name}-{os.getpid()}"
    command = ["python3", "-m", "pytest", f"{folder}/{suite}", "-q", "-p", "no:cacheprovider", "--rootdir", folder]
    if suite == "environment":
        command += [f"--lock={engine.view(lock)}/lock.json", f"--engine={engine.name}"]
    if suite.startswith("vendors/"):  # on the workspace, as in a run: /tmp has little room and runs no programs
        command += [f"--basetemp={engine.view(mounts[0])}/{scratch}", "-o", "tmp_path_retention_policy=none"]
    command += _only(keyword)
    task = Task(
        environment=built.environment,
        command=command,
        mounts=mounts,
        workdir=engine.view(mounts[0]),
        variables={
            **import_path(engine, terminal, engine.view(tools), str(Path(folder).parent)),
            "OMP_NUM_THREADS": "1",
            "EDGEKILN_TEST_DATA": engine.view(mounts[1]),
            "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",  # noqa: S108 - the container's own tmpfs
        },
    )
    seen = Tail()
    try:
        return _ended(engine.run(task, stdout=seen.take, stderr=seen.take), seen, keyword, counts)
    finally:
        shutil.rmtree(runs_root() / scratch, ignore_errors=True)


def _lock_folder(built: Built) -> Path:
    """The lock as JSON, for the inside that has no TOML reader."""
    folder = cache_root() / "locks-json" / built.lock.digest.removeprefix("sha256:")
    write_atomic(folder / "lock.json", msgspec.json.encode(built.lock))
    return folder


class Tail:
    """Passes pytest's output on and remembers its closing line."""

    def __init__(self) -> None:
        self.text = b""

    def take(self, block: bytes) -> None:
        """The next bytes."""
        sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
        self.text = (self.text + block)[-4000:]

    def counts(self) -> dict[str, int]:
        """What pytest's summary counts: passed, failed, skipped, errors."""
        lines = self.text.decode(errors="replace").splitlines()
        summary = next((line for line in reversed(lines) if re.search(r"\d+ (passed|failed|skipped|error)", line)), "")
        return {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|error)", summary)}


def _only(keyword: str) -> list[str]:
    return ["-k", keyword] if keyword else []


def _ended(code: int, seen: Tail, keyword: str, counts: dict[str, int]) -> int:
    if code == NOTHING_COLLECTED and keyword:  # the keyword names tests of another suite
        return 0
    found = seen.counts()
    if code and not found.get("failed") and not found.get("error"):
        found["error"] = 1  # it could not run them: no such file, killed, a fault in a conftest
    for what, number in found.items():
        counts[what] = counts.get(what, 0) + number
    return code


def run_linters(terminal: Terminal) -> int:
    """Every linter over what it is for; 0 where all are clean."""
    ensure_dev_tools(terminal)
    codes = [process.attach(command, env=os.environ, cwd=ROOT).wait() for command in lint_commands(terminal)]
    return 0 if not any(codes) else 1


def lint_commands(terminal: Terminal) -> list[list[str | Path]]:
    """The linters' command lines, to be run in the checkout."""
    tool = Path(sys.executable).parent
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    commands: list[list[str | Path]] = [
        [tool / "ruff", "check", "."],
        [tool / "ruff", "format", "--check", "."],
        [tool / "mypy", "tasks.py", "envs"],
        [tool / "mypy", "pipelines"],
        [tool / "actionlint", *workflows],
        [tool / "zizmor", "--offline", "--quiet", *workflows],
        [tool / "hadolint", ROOT / "docker" / "Dockerfile"],
    ]
    if shellcheck := shutil.which("shellcheck"):
        commands.append([shellcheck, ROOT / "inv", *sorted((ROOT / ".ci").iterdir())])
    else:
        terminal.say("no shellcheck here: the shell scripts are not checked")
    return commands
