"""What the Docker engine alone promises: walls around the command, and one line when the engine misbehaves."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from driven import ENV, drive, environment, forget_image, task, within

from envs.engines.base import ROOT_UID, Environment, Mount
from envs.engines.choose import choose
from envs.engines.docker import DockerEngine
from envs.engines.docker_connect import Endpoint, find
from envs.errors import EngineError, WrongUse

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module", autouse=True)
def image_goes() -> Iterator[None]:
    yield
    forget_image()


@pytest.fixture
def engine() -> DockerEngine:
    chosen = choose("docker").docker
    assert chosen is not None
    return chosen


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    return environment("docker", tmp_path)


@pytest.fixture
def name(engine: DockerEngine) -> Iterator[str]:
    mine = f"enginetest-{secrets.token_hex(4)}"
    yield mine
    for one in engine.client.containers.list(all=True, filters={"name": mine}):
        one.remove(force=True)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that any user can reach; pytest's own are closed to others."""
    folder = Path("/tmp") / f"enginetest-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o755)
    yield folder
    for place, folders, files in os.walk(folder, topdown=False):
        for one in files:
            Path(place, one).unlink()
        for one in folders:
            Path(place, one).rmdir()
    folder.rmdir()


def sh(engine: DockerEngine, env: Environment, script: str, **more: object) -> tuple[int, str]:
    seen: list[bytes] = []
    code = engine.run(task(env, "sh", "-c", script, **more), stdout=seen.append, stderr=seen.append)  # type: ignore[arg-type]
    return code, b"".join(seen).decode()


def leftovers(engine: DockerEngine) -> list[str]:
    return [one.name for one in engine.containers() if one.env == ENV]


def unless_podman(engine: DockerEngine, why: str) -> None:
    if engine.describe().startswith("Podman"):
        pytest.skip(f"Podman {why}")


def user() -> int:
    return os.getuid() or ROOT_UID


def test_the_command_is_the_caller_or_a_fixed_nobody(engine: DockerEngine, env: Environment) -> None:
    assert sh(engine, env, "id -u; id -g")[1].split() == [str(user()), str(os.getgid() or ROOT_UID)]


@pytest.mark.parametrize("facts", [{"SecurityOptions": ["name=rootless"]}, {"Rootless": True}])
def test_in_a_rootless_engine_the_caller_is_uid_0(engine: DockerEngine, facts: dict[str, object]) -> None:
    engine._info = facts  # cached: asked once an engine
    assert engine._user() == (0, 0)


def test_it_has_no_capability_and_gains_none(engine: DockerEngine, env: Environment) -> None:
    status = dict(line.split(":", 1) for line in sh(engine, env, "cat /proc/self/status")[1].splitlines())
    assert {name: int(value, 16) for name, value in status.items() if name.startswith("Cap")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0
    )
    assert status["NoNewPrivs"].strip() == "1"


def test_it_has_no_network(engine: DockerEngine, env: Environment) -> None:
    lines = sh(engine, env, "cat /proc/net/dev")[1].splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]


def test_it_writes_to_its_temporary_folder_only(engine: DockerEngine, env: Environment, outside: Path) -> None:
    readable, writable = outside / "readable", outside / "writable"
    for folder in (readable, writable):
        folder.mkdir()
        (folder / "there").write_text("x")
    mounts = (Mount(readable, "/readable"), Mount(writable, "/writable", writable=True))
    script = "for p in / /usr /etc /var /readable /dev/shm /tmp /writable; do touch $p/new 2>/dev/null && echo $p; done"
    shown = sh(engine, env, f"{script}; cat /readable/there", mounts=mounts)[1].split()
    assert shown == ["/dev/shm", "/tmp", "/writable", "x"]
    assert (writable / "new").stat().st_uid == user()
    assert (writable / "there").stat().st_uid == user()  # handed over where the caller is root
    assert (readable / "there").stat().st_uid == os.getuid()


def test_its_processes_and_memory_are_limited(engine: DockerEngine, env: Environment) -> None:
    container = engine.start(task(env, "sleep", "9", name=f"enginetest-{secrets.token_hex(4)}", pids=77, memory_mib=99))
    limits = engine.client.containers.get(container.id).attrs["HostConfig"]
    engine.remove(container.id, force=True)
    assert (limits["PidsLimit"], limits["Memory"]) == (77, 99 * 2**20)
    assert sh(engine, env, "true", memory_mib=10**9)[0] == 0  # more than the machine has


def test_memory_that_runs_out_is_said_so(engine: DockerEngine, env: Environment) -> None:
    unless_podman(engine, "does not tell that memory ran out")
    with pytest.raises(EngineError, match="wanted more than its 32 MiB"):
        sh(engine, env, 'x=$(head -c 300000000 /dev/zero | tr "\\0" x); echo $?', memory_mib=32)
    assert leftovers(engine) == []


def test_memory_that_ran_out_is_also_read_from_the_engines_events(
    engine: DockerEngine, env: Environment, name: str
) -> None:
    """Under load the engine ends the container first, and then learns why."""
    unless_podman(engine, "does not tell that memory ran out")
    eater = 'x=$(head -c 300000000 /dev/zero | tr "\\0" x)'
    container = engine.client.containers.get(engine.start(task(env, "sh", "-c", eater, name=name, memory_mib=32)).id)
    assert container.wait()["StatusCode"] == 137
    container.attrs = {**container.attrs, "State": {}}
    container.reload = lambda: None  # type: ignore[method-assign]
    assert engine._ran_out_of_memory(container, 137)
    assert not engine._ran_out_of_memory(container, 1)


def test_a_silent_command_outlives_the_engines_timeout(
    engine: DockerEngine, env: Environment, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    engine.client.api.timeout = 1
    assert sh(engine, env, "sleep 2; echo late") == (0, "late\n")
    assert sh(engine, env, "exec >/dev/null 2>&1; sleep 2; exit 3") == (3, "")
    engine.start(task(env, "sleep", "300", name=name))
    assert engine.exec(name, ["sh", "-c", "sleep 2; echo late; exit 4"], variables={}, workdir=None) == 4
    assert engine.exec(name, ["sh", "-c", "exec >&- 2>&-; sleep 2; exit 5"], variables={}, workdir=None) == 5
    assert capfd.readouterr().out == "late\n"


def test_only_containers_of_the_project_are_touched(engine: DockerEngine, env: Environment, name: str) -> None:
    assert env.image
    engine.client.containers.create(env.image, ["sleep", "9"], name=name, labels={"io.edgekiln.project": "another"})
    assert name not in [one.name for one in engine.containers()]
    with pytest.raises(WrongUse, match="no container is called"):
        engine.remove(name, force=True)
    with pytest.raises(WrongUse, match=f"another container is called {name}; give another --name"):
        engine.start(task(env, "sleep", "9", name=name))


def test_images_of_the_project_are_listed(engine: DockerEngine, env: Environment) -> None:
    unless_podman(engine, "writes tags with its registry")
    mine = [one for one in engine.images() if one.id == env.image]
    tags = (f"edgekiln/{ENV}:latest",)
    assert [(one.env, one.tags, one.lock_digest) for one in mine] == [(ENV, tags, env.lock_digest)]
    assert mine[0].size_bytes > 2**20


def test_an_image_that_is_gone_says_how_to_make_it(engine: DockerEngine, env: Environment) -> None:
    for image in (None, "sha256:" + "0" * 64):
        with pytest.raises(EngineError, match=f"image.* run `invoke build --env {ENV}`"):
            sh(engine, Environment(ENV, env.lock_digest, env.tree, image), "true")


def test_a_start_that_fails_leaves_nothing(engine: DockerEngine, env: Environment, name: str) -> None:
    unless_podman(engine, "makes the missing folder")
    nowhere = Mount(Path("/nowhere/at/all"), "/x")
    for begin in (lambda one: engine.start(one), lambda one: engine.run(one, stdout=print, stderr=print)):
        with pytest.raises(EngineError, match="refused while .*bind source path does not exist"):
            begin(task(env, "true", name=name, mounts=(nowhere,)))
    assert leftovers(engine) == []


def test_a_terminated_command_may_end_in_its_own_time(engine: DockerEngine, env: Environment, outside: Path) -> None:
    outside.chmod(0o777)
    script = f"trap 'echo ended >{outside}/seen; exit 1' TERM; echo ready; while :; do sleep 0.1; done"
    mount = f"Mount(Path({str(outside)!r}), {str(outside)!r}, True)"
    body = (
        f'given = Task(environment=environment, command=["sh", "-c", {script!r}], mounts=[{mount}], workdir="/tmp")\n'
    )
    child = drive("docker", env, body + "engine.run(given, stdout=out, stderr=err)")
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=20)
    assert (outside / "seen").read_text() == "ended\n"


class Proxy:
    """A socket before the engine's own that can be cut in the middle."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "proxy.sock")
        self._engine = find().url.removeprefix("unix://")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen()
        self._open = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(self._engine)
                self._open += [client, engine]
                for one, other in ((client, engine), (engine, client)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := one.recv(1 << 16):
                other.sendall(block)
            other.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def proxy(outside: Path) -> Iterator[Proxy]:
    made = Proxy(outside)
    yield made
    made.cut()


GONE = r"the engine went away .*; start it and run the same command again"


def test_an_engine_that_dies_under_a_run_is_one_line(
    engine: DockerEngine, env: Environment, proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    dying = DockerEngine(Endpoint(f"unix://{proxy.path}"))
    with pytest.raises(EngineError, match=GONE):
        dying.run(task(env, "sh", "-c", "echo x; sleep 300"), stdout=lambda _: proxy.cut(), stderr=print)
    (left,) = leftovers(engine)  # by its label it can be found, and removed
    engine.remove(left, force=True)


def test_an_engine_that_dies_under_exec_and_logs_is_one_line(
    engine: DockerEngine, env: Environment, proxy: Proxy, name: str
) -> None:
    engine.start(task(env, "sh", "-c", "echo x; sleep 300", name=name))
    dying = DockerEngine(Endpoint(f"unix://{proxy.path}"))
    threading.Timer(1, proxy.cut).start()
    with pytest.raises(EngineError, match=GONE):
        dying.exec(name, ["sleep", "300"], variables={}, workdir=None)
    for use in (lambda: dying.containers(), lambda: dying.images(), lambda: dying.stop(name)):
        with pytest.raises(EngineError, match=GONE):
            use()


def test_an_engine_that_dies_under_logs_is_one_line(
    engine: DockerEngine, env: Environment, proxy: Proxy, name: str
) -> None:
    engine.start(task(env, "sh", "-c", "echo x; sleep 300", name=name))
    dying = DockerEngine(Endpoint(f"unix://{proxy.path}"))
    with pytest.raises(EngineError, match=GONE):
        dying.logs(name, follow=True, sink=lambda _: proxy.cut())


def test_two_starts_at_once_make_one_container(engine: DockerEngine, env: Environment, name: str) -> None:
    body = f'print(engine.start(task("sleep", "300", name={name!r})).id)'
    children = [drive("docker", env, body) for _ in range(3)]
    ids = {child.communicate(timeout=60)[0] for child in children}
    assert len(ids) == 1 and ids != {b""}


def test_exec_adds_little_to_the_engines_own_time(engine: DockerEngine, env: Environment, name: str) -> None:
    engine.start(task(env, "sleep", "300", name=name))
    times = []
    for _ in range(5):
        began = time.monotonic()
        engine.exec(name, ["true"], variables={}, workdir=None)
        times.append(time.monotonic() - began)
    assert min(times) < 1


def test_it_says_product_version_and_address(engine: DockerEngine) -> None:
    assert re.fullmatch(r"(Docker|Podman) Engine \d+\.\d+\S* at \w+://\S+", engine.describe())
    assert within(1, lambda: engine.client.ping())
