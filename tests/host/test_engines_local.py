"""What the local engine alone promises: real processes of this machine, none of which is lost or mistaken."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from driven import drive, environment, lives, task, within

from envs.engines.base import Environment, Mount
from envs.engines.local import LocalEngine
from envs.errors import CommandMissing, EngineError
from envs.files import write_atomic
from envs.lock import LockedInterpreter
from envs.tree import RECORD, TreeRecord


@pytest.fixture
def engine(cache: Path) -> Iterator[LocalEngine]:
    made = LocalEngine()
    yield made
    for one in made.containers():
        made.remove(one.name, force=True)


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    return environment("local", tmp_path)


def output(engine: LocalEngine, env: Environment, script: str, **more: object) -> list[str]:
    seen: list[bytes] = []
    engine.run(task(env, "sh", "-c", script, **more), stdout=seen.append, stderr=seen.append)  # type: ignore[arg-type]
    return b"".join(seen).decode().splitlines()


def test_programs_of_the_tree_come_first(engine: LocalEngine, env: Environment) -> None:
    assert output(engine, env, "of-the-tree; echo $PATH") == ["found", f"{env.tree}/bin:/usr/local/bin:/usr/bin:/bin"]


def test_variables_of_a_clean_environment(
    engine: LocalEngine, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "vt52")
    names = {line.partition("=")[0] for line in output(engine, env, "env -u TERM -u PWD")}
    own = {"PATH", "HOME", "LANG", "PYTHONNOUSERSITE", "PYTHONDONTWRITEBYTECODE"}
    assert own <= names <= own | {"TZ", "COLORTERM", "_", "SHLVL", "OLDPWD"}
    assert output(engine, env, "echo $TERM") == ["vt52"]


def test_home_is_its_own_and_goes_with_the_run(engine: LocalEngine, env: Environment) -> None:
    (home,) = output(engine, env, 'echo hi >"$HOME/file"; echo "$HOME"')
    assert home != str(Path.home())
    assert not Path(home).exists()


def test_a_mount_is_seen_in_place(engine: LocalEngine) -> None:
    assert engine.view(Mount(Path("/some/where"), "/workspace")) == "/some/where"


def test_it_promises_no_network(engine: LocalEngine) -> None:
    assert "no isolation of network" in engine.describe()


def test_what_a_command_leaves_behind_ends_with_it(engine: LocalEngine, env: Environment) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    began = time.monotonic()
    assert output(engine, env, f"sh -c 'sleep 300; true' {mark} & echo done") == ["done"]
    assert time.monotonic() - began < 4
    assert not lives(mark)


def test_a_command_that_is_not_there_is_named(engine: LocalEngine, env: Environment, cache: Path) -> None:
    for use in (
        lambda: engine.run(task(env, "no-such"), stdout=print, stderr=print),
        lambda: engine.start(task(env, "no-such", name="enginetest")),
    ):
        with pytest.raises(CommandMissing, match="no-such: no such command"):
            use()
    assert engine.containers() == []
    assert not list((cache / "local").glob("*"))


def test_exec_and_shell_are_in_the_callers_folder(
    engine: LocalEngine,
    env: Environment,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.start(task(env, "sleep", "300", name="enginetest"))
    monkeypatch.chdir(tmp_path)
    assert engine.exec("enginetest", ["pwd"], variables={}, workdir=None) == 0
    assert capfd.readouterr().out == f"{tmp_path}\n"
    child = drive("local", env, 'engine.shell(task("bash"))', cwd=tmp_path)
    assert child.communicate(b"pwd\n", timeout=20)[0] == f"{tmp_path}\n".encode()


def test_exec_shares_the_containers_home(
    engine: LocalEngine, env: Environment, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    engine.start(task(env, "sleep", "300", name="enginetest"))
    engine.exec("enginetest", ["sh", "-c", 'echo kept >"$HOME/x"'], variables={}, workdir=None)
    engine.exec("enginetest", ["sh", "-c", 'cat "$HOME/x"'], variables={}, workdir=None)
    assert capfd.readouterr().out == "kept\n"
    engine.remove("enginetest", force=True)
    assert not list((cache / "local").glob("*"))


def test_a_kept_process_outlives_the_one_that_started_it(engine: LocalEngine, env: Environment) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    body = f'engine.start(task("sh", "-c", "sleep 300; true", {mark!r}, name="enginetest"))'
    assert drive("local", env, body, start_new_session=True).wait(timeout=20) == 0
    (one,) = engine.containers()
    assert (one.state, lives(mark)) == ("running", True)
    engine.stop("enginetest")
    assert engine.containers()[0].state == "stopped"
    assert not lives(mark)


def test_a_main_process_that_ends_is_seen_as_stopped(engine: LocalEngine, env: Environment) -> None:
    engine.start(task(env, "sh", "-c", "exit 3", name="enginetest"))
    assert within(5, lambda: engine.containers()[0].state == "stopped")


def test_a_stubborn_main_process_is_killed_after_the_timeout(engine: LocalEngine, env: Environment) -> None:
    engine.start(task(env, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done", name="enginetest"))
    seen: list[bytes] = []
    assert within(5, lambda: engine.logs("enginetest", follow=False, sink=seen.append) or bool(seen))
    began = time.monotonic()
    engine.stop("enginetest", timeout_s=0.5)
    assert 0.4 < time.monotonic() - began < 4
    assert engine.containers()[0].state == "stopped"


def test_a_reused_process_id_is_not_taken_for_the_container(engine: LocalEngine, env: Environment, cache: Path) -> None:
    engine.start(task(env, "sleep", "300", name="enginetest"))
    engine.stop("enginetest")
    state = cache / "local" / "enginetest" / "state.json"
    kept = msgspec.json.decode(state.read_bytes())
    write_atomic(state, msgspec.json.encode({**kept, "pid": os.getpid()}))  # ours, and started at another time
    assert engine.containers()[0].state == "stopped"
    engine.stop("enginetest")  # does not end this very process
    engine.remove("enginetest")


def test_a_broken_state_is_named(engine: LocalEngine, cache: Path) -> None:
    broken = cache / "local" / "x" / "state.json"
    write_atomic(broken, b"{")
    with pytest.raises(EngineError, match=f"{broken}: .*remove that folder"):
        engine.containers()
    broken.unlink()


def test_two_starts_at_once_make_one_process(engine: LocalEngine, env: Environment) -> None:
    body = 'print(engine.start(task("sleep", "300", name="enginetest")).id)'
    children = [drive("local", env, body) for _ in range(3)]
    ids = {child.communicate(timeout=20)[0] for child in children}
    assert len(ids) == 1
    assert ids != {b""}


def test_trees_are_the_images(engine: LocalEngine, cache: Path) -> None:
    record = TreeRecord(
        env="small",
        lock_digest="sha256:1",
        interpreter=LockedInterpreter(source="installed", version="3.10.0", sha256="0" * 64),
        tried=(),
        size_bytes=7,
        elapsed_s=1.0,
    )
    write_atomic(cache / "trees" / "abc" / RECORD, msgspec.json.encode(record))
    (cache / "trees" / ".unfinished").mkdir()
    (one,) = engine.images()
    assert (one.id, one.env, one.lock_digest, one.size_bytes, one.engine) == ("abc", "small", "sha256:1", 7, "local")


def test_a_signal_during_start_leaves_no_unknown_process(env: Environment, engine: LocalEngine) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    for pause_s in (0.05, 0.15, 0.2, 0.25, 0.3):
        child = drive("local", env, f'engine.start(task("sh", "-c", "sleep 300; true", {mark!r}, name="enginetest"))')
        time.sleep(pause_s)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=20)
        assert not lives(mark) or engine.containers()[0].state == "running"
        for one in engine.containers():
            engine.remove(one.name, force=True)
        assert not lives(mark)
