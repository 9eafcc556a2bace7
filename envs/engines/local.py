"""The local engine: the environment's tree in place on this machine. It isolates variables and HOME, nothing else."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from envs import process
from envs.engines import names
from envs.engines.base import Container, ImageInfo, Mount, Sink, Task
from envs.engines.interrupts import held
from envs.errors import EngineError
from envs.files import write_atomic
from envs.paths import cache_root
from envs.tree import RECORD, read_record, trees_root

GRACE_S = 5.0
KEPT_VARIABLES = ("TERM", "COLORTERM", "TZ")  # of the caller's; all else is the environment's own


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """state.json of a kept container: what it is, and which process is its main one."""

    id: str
    name: str
    env: str
    lock_digest: str
    tree: str
    created: str
    command: tuple[str, ...]
    variables: dict[str, str]
    workdir: str
    pid: int = 0
    pid_started: int = 0  # clock ticks since boot, from /proc: tells a reused pid


class LocalEngine:
    """Commands run on this machine, under the caller's own user."""

    @property
    def name(self) -> Literal["local"]:
        return "local"

    def describe(self) -> str:
        """What it is and what it does not promise."""
        return "this machine itself; no isolation of network or files"

    def view(self, mount: Mount) -> str:
        """Nothing is mounted: the host's own path."""
        return str(mount.source)

    def run(self, task: Task, *, stdout: Sink, stderr: Sink) -> int:
        """Run to the end in a process group of its own, streams live; nothing of the group outlives the call."""
        with tempfile.TemporaryDirectory(prefix="edgekiln-home-") as home, held() as signals:
            child = process.attach(
                task.command,
                env=_variables(task.environment.tree, Path(home), task.variables),
                cwd=Path(task.workdir),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                no_stdin=True,
                new_group=True,
            )
            try:
                with signals.let_through():
                    _pump(child, stdout, stderr)
                    return _exit_code(child.wait())
            finally:
                _end_group(child.pid, GRACE_S)
                with child:
                    pass  # closes its streams and reaps it

    def start(self, task: Task) -> Container:
        """Start the main process in the background and remember it."""
        env = task.environment
        name = names.of(task)
        with names.alone(self.name, name):
            kept = _read(name)
            if kept is None:
                kept = _Kept(
                    id=secrets.token_hex(32),
                    name=name,
                    env=env.name,
                    lock_digest=env.lock_digest,
                    tree=str(env.tree),
                    created=dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    command=tuple(task.command),
                    variables=dict(task.variables),
                    workdir=task.workdir,
                )
            elif (kept.lock_digest, kept.tree) != (env.lock_digest, str(env.tree)):
                raise names.refuse_other_lock(_shown(kept))
            try:
                return _shown(kept if _is_running(kept) else _launch(kept))
            finally:
                if not _read(name):  # it could not be started
                    shutil.rmtree(_folder(name), ignore_errors=True)

    def exec(self, container: str, command: Sequence[str], *, variables: Mapping[str, str], workdir: str | None) -> int:
        """Run with the caller's streams, in the caller's folder: under local they see the caller's files."""
        kept = self._kept(container)
        if not _is_running(kept):
            raise names.refuse_stopped(_shown(kept))
        own = _variables(Path(kept.tree), _folder(kept.name) / "home", {**kept.variables, **variables})
        return _attended(command, own, Path(workdir) if workdir else Path.cwd())

    def attach(self, task: Task) -> int:
        """With a HOME for this command alone, in the caller's folder."""
        with tempfile.TemporaryDirectory(prefix="edgekiln-home-") as home:
            own = _variables(task.environment.tree, Path(home), task.variables)
            return _attended(task.command, own, Path.cwd())

    def shell(self, task: Task) -> int:
        """bash in the caller's folder; off a terminal it reads commands from stdin."""
        return self.attach(names.bash(task))

    def stop(self, container: str, timeout_s: float = 10) -> None:
        """SIGTERM to its group, SIGKILL after the timeout."""
        kept = self._kept(container)
        if _is_running(kept):
            _end_group(kept.pid, timeout_s)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(kept.pid, 0)  # ours where the same process started it

    def restart(self, container: str, timeout_s: float = 10) -> None:
        """Stop and start again."""
        with names.alone(self.name, self._kept(container).name):
            self.stop(container, timeout_s)
            _launch(self._kept(container))

    def remove(self, container: str, force: bool = False) -> None:
        """Forget it, with its HOME and log."""
        with names.alone(self.name, self._kept(container).name):
            kept = self._kept(container)
            if _is_running(kept) and not force:
                raise names.refuse_running(_shown(kept))
            self.stop(kept.name, timeout_s=GRACE_S)
            shutil.rmtree(_folder(kept.name))

    def containers(self) -> list[Container]:
        """All that were started and not removed."""
        found = [_read(folder.name) for folder in sorted(_root().glob("*"))]
        return [_shown(kept) for kept in found if kept]

    def logs(self, container: str, *, follow: bool, sink: Sink) -> None:
        """What the main process wrote to stdout and stderr."""
        kept = self._kept(container)
        with (_folder(kept.name) / "log").open("rb") as log:
            while True:
                running = _is_running(kept)  # asked before reading: what is written until then is not missed
                while block := log.read(1 << 16):
                    sink(block)
                if not (follow and running):
                    return
                time.sleep(0.2)

    def images(self) -> list[ImageInfo]:
        """The trees that are made: what stands for images here."""
        listed = []
        for record in sorted(trees_root().glob(f"*/{RECORD}")):
            tree = record.parents[1]
            its = read_record(tree)
            listed.append(
                ImageInfo(
                    id=tree.name,
                    env=its.env,
                    tags=(),
                    lock_digest=its.lock_digest,
                    size_bytes=its.size_bytes,
                    engine=self.name,
                )
            )
        return listed

    def _kept(self, container: str) -> _Kept:
        kept = _read(names.find(container, self.containers()).name)
        if kept is None:
            raise EngineError(f"{container} was removed meanwhile")
        return kept


def _root() -> Path:
    return cache_root() / "local"


def _folder(name: str) -> Path:
    return _root() / name


def _read(name: str) -> _Kept | None:
    try:
        return msgspec.json.decode((_folder(name) / "state.json").read_bytes(), type=_Kept)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.DecodeError as error:
        raise EngineError(f"{_folder(name) / 'state.json'}: {error}", "remove that folder") from error


def _launch(kept: _Kept) -> _Kept:
    folder = _folder(kept.name)
    (folder / "home").mkdir(parents=True, exist_ok=True)
    with held(), (folder / "log").open("ab") as log:  # no process that state.json does not know of
        child = process.attach(
            kept.command,
            env=_variables(Path(kept.tree), folder / "home", kept.variables),
            cwd=Path(kept.workdir),
            stdout=log.fileno(),
            stderr=log.fileno(),
            no_stdin=True,
            new_group=True,
        )
        running = msgspec.structs.replace(kept, pid=child.pid, pid_started=_started(child.pid) or 0)
        write_atomic(folder / "state.json", msgspec.json.encode(running))
    return running


def _started(pid: int) -> int | None:
    """When that process started, in ticks since boot; None where it is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _is_running(kept: _Kept) -> bool:
    return kept.pid > 0 and _started(kept.pid) == kept.pid_started


def _shown(kept: _Kept) -> Container:
    return Container(
        id=kept.id,
        name=kept.name,
        env=kept.env,
        state="running" if _is_running(kept) else "stopped",
        engine="local",
        lock_digest=kept.lock_digest,
        image=Path(kept.tree).name,
        created=kept.created,
        command=" ".join(kept.command),
    )


def _variables(tree: Path, home: Path, more: Mapping[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    own = {
        "PATH": f"{tree}/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return {**kept, **own, **more}


def _pump(child: subprocess.Popen[bytes], stdout: Sink, stderr: Sink) -> None:
    """Hand over what arrives as it arrives, until both streams end or the process does."""
    with selectors.DefaultSelector() as waiting:
        for stream, sink in ((child.stdout, stdout), (child.stderr, stderr)):
            if stream is not None:
                waiting.register(stream, selectors.EVENT_READ, sink)
        while waiting.get_map():
            for key, _ in waiting.select(timeout=0.5):
                block = os.read(key.fd, 1 << 16)
                if block:
                    key.data(block)
                else:
                    waiting.unregister(key.fileobj)
            if child.poll() is not None and not waiting.select(timeout=0):
                return  # a grandchild may hold the streams open; the group is ended next


def _attended(command: Sequence[str], variables: Mapping[str, str], workdir: Path) -> int:
    """With the caller's own streams; a terminal sends Ctrl-C to the command itself, else signals are passed on."""
    tty = os.isatty(0)
    with held() as signals:
        child = process.attach(command, env=variables, cwd=workdir, new_group=not tty)

        def pass_on(number: int) -> None:
            with contextlib.suppress(ProcessLookupError):
                if not tty:
                    os.killpg(child.pid, number)
                elif number != signal.SIGINT:
                    child.send_signal(signal.SIGHUP)  # bash at a terminal ignores SIGTERM

        with signals.passed_to(pass_on):
            return _exit_code(child.wait())


def _end_group(leader: int, grace_s: float) -> None:
    """End every process of the group: SIGTERM, and SIGKILL for those left after the grace."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(leader, number)
        except (ProcessLookupError, PermissionError):
            return
        ends = time.monotonic() + grace_s
        while time.monotonic() < ends and _group_lives(leader):
            time.sleep(0.02)


def _group_lives(leader: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == leader and fields[0] != "Z":
            return True
    return False


def _exit_code(returned: int) -> int:
    """As a shell says it: 128 + the signal's number for a command that a signal ended."""
    return 128 - returned if returned < 0 else returned
