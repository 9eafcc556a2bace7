"""What holds for a command wherever it runs: the same rules for the Docker Engine and for this machine itself."""

from __future__ import annotations

import fcntl
import os
import pty
import secrets
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from driven import ENV, LOCK, drive, environment, forget_image, lives, task, within

from envs.engines.base import Engine, Environment
from envs.engines.choose import choose
from envs.errors import EdgekilnError, WrongUse


@pytest.fixture(scope="module", autouse=True)
def image_goes() -> Iterator[None]:
    yield
    forget_image()


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.engine)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(kind: str, cache: Path) -> Engine:
    return choose(kind).engine


@pytest.fixture
def env(kind: str, tmp_path: Path) -> Environment:
    return environment(kind, tmp_path)


@pytest.fixture
def name(engine: Engine) -> Iterator[str]:
    """A name for kept containers; those that begin with it are gone afterwards."""
    mine = f"enginetest-{secrets.token_hex(4)}"
    yield mine
    for one in engine.containers():
        if one.name.startswith(mine):
            engine.remove(one.name, force=True)


class Seen:
    """Both streams, and when each block came."""

    def __init__(self) -> None:
        self.out, self.err = b"", b""
        self.times: list[float] = []

    def stdout(self, block: bytes) -> None:
        self.out += block
        self.times.append(time.monotonic())

    def stderr(self, block: bytes) -> None:
        self.err += block


def run(engine: Engine, env: Environment, *command: str, **more: object) -> tuple[int, Seen]:
    seen = Seen()
    return engine.run(task(env, *command, **more), stdout=seen.stdout, stderr=seen.stderr), seen


def sh(engine: Engine, env: Environment, script: str, **more: object) -> tuple[int, Seen]:
    return run(engine, env, "sh", "-c", script, **more)


def execute(engine: Engine, name: str, script: str) -> int:
    return engine.exec(name, ["sh", "-c", script], variables={}, workdir=None)


def test_run_gives_both_streams_and_the_exit_code(engine: Engine, env: Environment) -> None:
    code, seen = sh(engine, env, "echo out; echo err >&2; exit 7")
    assert (code, seen.out, seen.err) == (7, b"out\n", b"err\n")


def test_a_command_that_a_signal_ends_gives_128_and_its_number(engine: Engine, env: Environment) -> None:
    assert sh(engine, env, "kill -9 $$")[0] == 128 + 9
    assert sh(engine, env, "kill -15 $$")[0] == 128 + 15


def test_a_command_that_is_not_there_gives_127(engine: Engine, env: Environment) -> None:
    try:
        code = run(engine, env, "no-such-command")[0]
    except EdgekilnError as error:
        code = error.exit_code
    assert code == 127 or engine.describe().startswith("Podman")  # whose init says 1


def test_output_arrives_while_the_command_runs(engine: Engine, env: Environment) -> None:
    _, seen = sh(engine, env, "echo one; sleep 1; echo two")
    assert seen.out == b"one\ntwo\n"
    assert seen.times[-1] - seen.times[0] > 0.8


def test_the_first_words_of_a_short_command_are_never_lost(engine: Engine, env: Environment) -> None:
    assert [run(engine, env, "echo", "x")[1].out for _ in range(5)] == [b"x\n"] * 5


def test_large_streams_arrive_whole(engine: Engine, env: Environment) -> None:
    _, seen = sh(engine, env, "head -c 3000000 /dev/zero >&2 & head -c 3000000 /dev/zero; wait")
    assert (len(seen.out), len(seen.err)) == (3_000_000, 3_000_000)


def test_there_is_no_stdin(engine: Engine, env: Environment) -> None:
    assert run(engine, env, "cat")[0] == 0


def test_a_taker_that_fails_is_not_the_engines_fault(engine: Engine, env: Environment) -> None:
    def full(block: bytes) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        engine.run(task(env, "echo", "x"), stdout=full, stderr=full)


def test_variables_are_the_environments_own(engine: Engine, env: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "MINE"):
        monkeypatch.setenv(name, "/of/the/caller")
    _, seen = sh(engine, env, 'env; pwd; touch "$HOME/x" && echo writable', variables={"THEIRS": "a b"})
    lines = seen.out.decode().splitlines()
    assert not [line for line in lines if "/of/the/caller" in line]
    assert "THEIRS=a b" in lines
    assert lines[-2:] == ["/tmp", "writable"]
    assert f"HOME={Path.home()}" not in lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_and_leaves_nothing(
    kind: str, engine: Engine, env: Environment, number: signal.Signals
) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    script = 'trap "" INT; echo ready; sleep 300 & wait'
    child = drive(kind, env, f'engine.run(task("sh", "-c", {script!r}, {mark!r}), stdout=out, stderr=err)')
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    assert lives(mark)
    child.send_signal(number)
    child.communicate(timeout=20)
    ended = {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 143, signal.SIGHUP: 129}
    assert child.returncode == ended[number]
    assert not lives(mark)
    assert [one for one in engine.containers() if mark in one.command] == []


def test_a_command_that_ignores_the_end_is_killed_after_a_grace(kind: str, engine: Engine, env: Environment) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    script = 'trap "" INT TERM; echo ready; while :; do sleep 0.1; done'
    child = drive(kind, env, f'engine.run(task("sh", "-c", {script!r}, {mark!r}), stdout=out, stderr=err)')
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)  # an impatient second one changes nothing
    child.communicate(timeout=20)
    assert not lives(mark)
    assert [one for one in engine.containers() if mark in one.command] == []


def test_a_kept_container_from_start_to_rm(engine: Engine, env: Environment, name: str) -> None:
    kept = task(env, "sh", "-c", "echo begun; exec sleep 300", name=name)
    made = engine.start(kept)
    assert (made.name, made.env, made.state, made.engine) == (name, ENV, "running", engine.name)
    assert made.lock_digest == LOCK
    assert made.created.endswith("Z")
    assert engine.start(kept) == made
    assert made in engine.containers()
    with pytest.raises(WrongUse, match=r"is running; stop it first .*--force"):
        engine.remove(name)
    engine.stop(name)
    engine.stop(name)  # as docker: no fault
    assert [one.state for one in engine.containers() if one.id == made.id] == ["stopped"]
    with pytest.raises(WrongUse, match="not running; start it"):
        execute(engine, name, "true")
    again = engine.start(kept)
    assert (again.id, again.state) == (made.id, "running")
    engine.restart(name)
    assert [one.state for one in engine.containers() if one.id == made.id] == ["running"]
    blocks: list[bytes] = []
    assert within(5, lambda: engine.logs(name, follow=False, sink=blocks.append) or b"".join(blocks).endswith(b"\n"))
    assert set(b"".join(blocks).split()) == {b"begun"}
    engine.remove(name, force=True)
    assert [one for one in engine.containers() if one.id == made.id] == []


def test_a_stopped_container_can_be_removed(engine: Engine, env: Environment, name: str) -> None:
    engine.start(task(env, "sleep", "300", name=name))
    engine.stop(name, timeout_s=1)
    engine.remove(name)
    assert [one for one in engine.containers() if one.name == name] == []


def test_a_container_of_another_lock_is_not_started(
    engine: Engine, env: Environment, name: str, tmp_path: Path
) -> None:
    engine.start(task(env, "sleep", "300", name=name))
    other = Environment(ENV, "sha256:" + "2" * 64, env.tree, env.image)
    with pytest.raises(WrongUse, match=r"another lock .*invoke rm"):
        engine.start(task(other, "sleep", "300", name=name))


def test_names_and_prefixes(engine: Engine, env: Environment, name: str) -> None:
    for more in ("", "-one", "-two"):
        engine.start(task(env, "sleep", "300", name=name + more))
    one = next(c for c in engine.containers() if c.name == name + "-one")
    for asked in (name, f"{name}-o", f"{name}-two", one.id, one.id[:12]):
        assert execute(engine, asked, "true") == 0, asked
    with pytest.raises(WrongUse, match=f"could be {name}-one, {name}-two"):
        engine.stop(f"{name}-")
    with pytest.raises(WrongUse, match=f"no container is called .*did you mean .*{name}"):
        engine.stop(f"{name}-tow")
    with pytest.raises(WrongUse, match="no container is called ''"):
        engine.stop("")


def test_a_name_that_cant_be_one_is_wrong_use(engine: Engine, env: Environment) -> None:
    for bad in ("../x", ".x", "a b", "-x", "x"):
        with pytest.raises(WrongUse, match="can't be a name"):
            engine.start(task(env, "sleep", "300", name=bad))


def test_logs_follow_until_the_end(engine: Engine, env: Environment, name: str) -> None:
    engine.start(task(env, "sh", "-c", "echo one; sleep 1; echo two >&2", name=name))
    seen = Seen()
    engine.logs(name, follow=True, sink=seen.stdout)
    assert seen.out == b"one\ntwo\n"
    assert seen.times[-1] - seen.times[0] > 0.5


def test_exec_gives_streams_variables_and_the_exit_code(
    engine: Engine, env: Environment, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    engine.start(task(env, "sleep", "300", name=name, variables={"KEPT": "kept"}))
    code = engine.exec(
        name, ["sh", "-c", 'echo "$KEPT $MORE"; pwd >&2; exit 7'], variables={"MORE": "more"}, workdir="/usr"
    )
    assert (code, *capfd.readouterr()) == (7, "kept more\n", "/usr\n")
    assert execute(engine, name, "kill -9 $$") == 137


def test_exec_of_a_command_that_is_not_there_gives_127_or_126(engine: Engine, env: Environment, name: str) -> None:
    engine.start(task(env, "sleep", "300", name=name))
    try:
        code = engine.exec(name, ["no-such-command"], variables={}, workdir=None)
    except EdgekilnError as error:
        code = error.exit_code
    assert code in (126, 127)


def test_megabytes_through_exec_come_back_whole(kind: str, engine: Engine, env: Environment, name: str) -> None:
    engine.start(task(env, "sleep", "300", name=name))
    child = drive(kind, env, f'sys.exit(engine.exec({name!r}, ["cat"], variables=dict(), workdir=None))')
    blob = secrets.token_bytes(5_000_000)
    out, err = child.communicate(blob, timeout=60)
    assert (child.returncode, out == blob, err) == (0, True, b"")


def test_exec_does_not_wait_for_stdin_that_nobody_reads(kind: str, engine: Engine, env: Environment, name: str) -> None:
    engine.start(task(env, "sleep", "300", name=name))
    body = f'code = engine.exec({name!r}, ["sh", "-c", "exit 3"], variables=dict(), workdir=None)\n'
    child = drive(kind, env, body + "print(code, os.read(0, 4), flush=True)")
    assert child.stdin is not None and child.stdout is not None
    time.sleep(1.5)  # the command ends while stdin is open and silent
    child.stdin.write(b"mine")  # and does not take what comes afterwards
    child.stdin.flush()
    assert child.stdout.readline() == b"3 b'mine'\n"
    child.communicate(timeout=10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_command_of_exec(
    kind: str, engine: Engine, env: Environment, name: str, number: signal.Signals
) -> None:
    engine.start(task(env, "sleep", "300", name=name))
    script = "trap 'echo got; exit 9' INT TERM; echo ready; while :; do sleep 0.1; done"
    body = f'sys.exit(engine.exec({name!r}, ["sh", "-c", {script!r}], variables=dict(), workdir=None))'
    child = drive(kind, env, body)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out) == (9, b"got\n")
    assert b"Traceback" not in err


def test_exec_ends_when_nobody_reads_its_output(kind: str, engine: Engine, env: Environment, name: str) -> None:
    engine.start(task(env, "sleep", "300", name=name))
    mark = f"mark-{secrets.token_hex(8)}"
    child = drive(kind, env, f'sys.exit(engine.exec({name!r}, ["yes", {mark!r}], variables=dict(), workdir=None))')
    assert child.stdout is not None and child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    assert child.wait(timeout=20) == 128 + signal.SIGPIPE
    assert b"Traceback" not in child.stderr.read()
    assert within(5, lambda: not lives(mark))


def test_shell_off_a_terminal_reads_commands_from_stdin(kind: str, env: Environment, engine: Engine) -> None:
    child = drive(kind, env, 'sys.exit(engine.shell(task("bash")))')
    out, err = child.communicate(b"echo hello\nexit 4\n", timeout=30)
    assert (child.returncode, out, err) == (4, b"hello\n", b"")
    assert [one for one in engine.containers() if one.env == ENV] == []


class Terminal:
    """A pseudo-terminal with something at its other end."""

    def __init__(self, kind: str, env: Environment, body: str) -> None:
        self.ours, theirs = pty.openpty()
        self.resize(40, 100)

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self.child = drive(kind, env, body, preexec_fn=take_terminal, **streams)
        os.close(theirs)
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def wait_for(self, text: str) -> None:
        """Until it is shown; what came before is passed over."""

        def shown() -> bool:
            if select.select([self.ours], [], [], 0.1)[0]:
                self.seen += os.read(self.ours, 4096)
            return text.encode() in self.seen

        assert within(15, shown), self.seen.decode(errors="replace")
        self.seen = self.seen.partition(text.encode())[2]


def test_shell_at_a_terminal(kind: str, env: Environment, engine: Engine) -> None:
    terminal = Terminal(kind, env, 'code = engine.shell(task("bash")); print("ended", code)')
    terminal.wait_for(f"({ENV}) ")
    time.sleep(0.5)  # the engine can set a size only after the start: docker's own exec is no quicker
    terminal.type("stty size; echo a''b\n")
    terminal.wait_for("40 100")
    terminal.wait_for("ab")
    terminal.type("sleep 300\n")
    time.sleep(0.5)
    terminal.type("\x03")  # Ctrl-C ends the command, not the shell
    terminal.wait_for(f"({ENV}) ")
    terminal.resize(30, 90)
    time.sleep(0.5)
    terminal.type("stty size\n")
    terminal.wait_for("30 90")
    terminal.type("exit 5\n")
    terminal.wait_for("ended 5")
    assert terminal.child.wait(timeout=20) == 0
    assert [one for one in engine.containers() if one.env == ENV] == []


def test_a_terminal_that_goes_away_ends_the_shell(kind: str, env: Environment, engine: Engine) -> None:
    terminal = Terminal(kind, env, 'engine.shell(task("bash"))')
    terminal.wait_for(f"({ENV}) ")
    os.close(terminal.ours)
    terminal.child.wait(timeout=20)
    assert [one for one in engine.containers() if one.env == ENV] == []
