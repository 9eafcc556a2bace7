"""Docker Engine (API 1.41 and newer; Podman's socket speaks it too) through the docker SDK."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import requests
import urllib3
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container as SdkContainer
from docker.tls import TLSConfig

import docker
from envs.engines import names
from envs.engines.base import (
    ENV_LABEL,
    LOCK_LABEL,
    PROJECT_LABEL,
    ROOT_UID,
    Container,
    ImageInfo,
    Mount,
    Sink,
    State,
    Task,
)
from envs.engines.docker_connect import Endpoint, endpoints, no_engine, reachable
from envs.engines.docker_streams import Attached, converse
from envs.errors import EngineError, WrongUse

PROJECT = "edgekiln"
GRACE_S = 5
STATES: dict[str, State] = {"created": "created", "running": "running", "paused": "running", "restarting": "running"}


def connect() -> DockerEngine:
    """The first endpoint that answers. EngineError says why none does."""
    listed = endpoints()
    reasons = []
    for endpoint in listed:
        reason = reachable(endpoint)
        if not reason:
            try:
                return DockerEngine(endpoint)
            except (DockerException, requests.RequestException) as error:
                reason = _one_line(error)
        reasons.append(reason)
    raise no_engine(reasons, listed)


class DockerEngine:
    """Containers without network, privileges or a writable root, under the caller's own uid."""

    def __init__(self, endpoint: Endpoint) -> None:
        tls = _tls(endpoint)
        self.client = docker.DockerClient(base_url=endpoint.url, version="auto", timeout=60, tls=tls)
        self._endpoint = endpoint
        self._version = str(self.client.version()["Version"])

    @property
    def name(self) -> Literal["docker"]:
        return "docker"

    def describe(self) -> str:
        """Version and address."""
        return f"Docker Engine {self._version} answers at {self._endpoint.url}"

    def view(self, mount: Mount) -> str:
        """Where the mount is inside."""
        return mount.target

    def run(self, task: Task, *, stdout: Sink, stderr: Sink) -> int:
        """Run to the end, streams live; the container is removed whatever happens."""
        with _explained("the container was running"):
            container = self._create(task, command=task.command, tty=False, stdin=False)
            try:
                return self._follow(container, task, stdout, stderr)
            finally:
                _discard(container)

    def _follow(self, container: SdkContainer, task: Task, stdout: Sink, stderr: Sink) -> int:
        with Attached(self.client, container.id or "", stdin=False) as streams:
            container.start()
            for is_error, block in streams.blocks():
                (stderr if is_error else stdout)(block)
        code = int(container.wait()["StatusCode"])
        container.reload()
        if container.attrs["State"].get("OOMKilled"):
            raise EngineError(f"the command used more than its {task.memory_mib} MiB of memory and was killed")
        return code

    def start(self, task: Task) -> Container:
        """Create the kept container of that name and start it, or start the one that is there."""
        name = task.name or f"{PROJECT}-{task.environment.name}"
        with _explained("it was started"):
            found = next((c for c in self._all() if c.name == name), None)
            if found is None:
                found = self._create(task, command=task.command, tty=False, stdin=False, name=name)
            elif (_labels(found).get(LOCK_LABEL), found.attrs["Image"]) != (
                task.environment.lock_digest,
                task.environment.image,
            ):
                raise names.refuse_other_lock(self._shown(found))
            if found.status != "running":
                found.start()
            found.reload()
            return self._shown(found)

    def exec(self, container: str, command: Sequence[str], *, variables: Mapping[str, str], workdir: str | None) -> int:
        """Run in a running container with this process's streams; a terminal where both ends are one."""
        with _explained("a command ran in it"):
            target = self._find(container)
            if target.status != "running":
                raise names.refuse_stopped(self._shown(target))
            tty = os.isatty(0) and os.isatty(1)
            term = {"TERM": os.environ.get("TERM", "xterm")} if tty else {}
            return converse(self.client, target.id or "", command, {**term, **variables}, workdir, tty=tty)

    def shell(self, task: Task) -> int:
        """A one-off container with bash in the foreground."""
        tty = os.isatty(0) and os.isatty(1)
        words = ["bash", "--norc", "--noprofile"] + (["-i"] if tty else [])
        prompt = {"PS1": f"({task.environment.name}) \\w\\$ "}
        with _explained("the shell was open"):
            container = self._create(task, command=("sleep", "infinity"), tty=False, stdin=False)
            try:
                container.start()
                term = {"TERM": os.environ.get("TERM", "xterm")} if tty else {}
                more = {**task.variables, **prompt, **term}
                return converse(self.client, container.id or "", words, more, task.workdir, tty=tty)
            finally:
                _discard(container)

    def stop(self, container: str, timeout_s: float = 10) -> None:
        """SIGTERM, and SIGKILL after the timeout."""
        with _explained("it was stopped"):
            self._find(container).stop(timeout=int(timeout_s))

    def restart(self, container: str, timeout_s: float = 10) -> None:
        """Stop and start again."""
        with _explained("it was restarted"):
            self._find(container).restart(timeout=int(timeout_s))

    def remove(self, container: str, force: bool = False) -> None:
        """Remove it; a running one only by force."""
        with _explained("it was removed"):
            target = self._find(container)
            if target.status == "running" and not force:
                raise names.refuse_running(self._shown(target))
            target.remove(force=force, v=True)

    def containers(self) -> list[Container]:
        """This project's containers, running and stopped, by name."""
        with _explained("containers were listed"):
            return sorted((self._shown(one) for one in self._all()), key=lambda one: one.name)

    def logs(self, container: str, *, follow: bool, sink: Sink) -> None:
        """What the main process wrote."""
        with _explained("its log was read"):
            for block in self._find(container).logs(stream=True, follow=follow):
                sink(block)

    def images(self) -> list[ImageInfo]:
        """This project's images."""
        with _explained("images were listed"):
            listed = []
            for image in self.client.images.list(filters={"label": f"{PROJECT_LABEL}={PROJECT}"}):
                labels = image.labels or {}
                listed.append(
                    ImageInfo(
                        id=str(image.id),
                        env=labels.get(ENV_LABEL, ""),
                        tags=tuple(sorted(image.tags)),
                        lock_digest=labels.get(LOCK_LABEL, ""),
                        size_bytes=int(image.attrs["Size"]),
                        engine=self.name,
                    )
                )
            return sorted(listed, key=lambda one: (one.env, one.tags, one.id))

    def _all(self) -> list[SdkContainer]:
        return self.client.containers.list(all=True, filters={"label": f"{PROJECT_LABEL}={PROJECT}"})

    def _find(self, asked: str) -> SdkContainer:
        listed = self._all()
        meant = names.find(asked, [self._shown(one) for one in listed])
        return next(one for one in listed if one.id == meant.id)

    def _shown(self, one: SdkContainer) -> Container:
        config = one.attrs["Config"]
        return Container(
            id=str(one.id),
            name=str(one.name),
            env=_labels(one).get(ENV_LABEL, ""),
            state=STATES.get(one.status, "stopped"),
            engine=self.name,
            lock_digest=_labels(one).get(LOCK_LABEL, ""),
            image=str(one.attrs["Image"]),
            created=str(one.attrs["Created"]).partition(".")[0].rstrip("Z") + "Z",
            command=" ".join([*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]),
        )

    def _create(
        self, task: Task, *, command: Sequence[str], tty: bool, stdin: bool, name: str | None = None
    ) -> SdkContainer:
        if task.environment.image is None:
            raise EngineError(f"{task.environment.name} has no image in this engine", "run `invoke build`")
        uid, gid = _user()
        for mount in task.mounts:
            if mount.writable and os.getuid() == 0:
                _hand_over(mount.source, uid, gid)
        total_mib = int(self.client.info().get("MemTotal") or 0) // 2**20
        limit_mib = min(task.memory_mib, total_mib) if total_mib else task.memory_mib
        own = {
            "PATH": "/opt/edgekiln/bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": "/tmp",  # noqa: S108 - the container's own tmpfs
            "LANG": "C.UTF-8",
            "USER": PROJECT,
            "LOGNAME": PROJECT,
        }
        try:
            return self.client.containers.create(
                task.environment.image,
                command=list(command),
                entrypoint=[],
                name=name,
                user=f"{uid}:{gid}",
                working_dir=task.workdir,
                environment={**own, **task.variables},
                network_mode="none",
                read_only=True,
                tmpfs={"/tmp": "rw,size=512m,mode=1777"},  # noqa: S108
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                pids_limit=task.pids,
                mem_limit=f"{limit_mib}m",
                init=True,
                tty=tty,
                stdin_open=stdin,
                mounts=[_bind(mount) for mount in task.mounts],
                labels={
                    PROJECT_LABEL: PROJECT,
                    ENV_LABEL: task.environment.name,
                    LOCK_LABEL: task.environment.lock_digest,
                },
            )
        except APIError as error:
            if error.status_code == 409:
                raise WrongUse(
                    f"the name {name} is taken by a container that is not ours", "give another --name"
                ) from error
            raise


def _bind(mount: Mount) -> Any:
    return docker.types.Mount(target=mount.target, source=str(mount.source), type="bind", read_only=not mount.writable)


def _user() -> tuple[int, int]:
    """The caller, or a fixed uid that has nothing where the caller is root."""
    return (os.getuid(), os.getgid()) if os.getuid() else (ROOT_UID, ROOT_UID)


def _hand_over(folder: Path, uid: int, gid: int) -> None:
    """Give what is not owned yet to the container's user; links themselves, never what they point at."""
    for place, folders, files in os.walk(folder):
        for path in (place, *(os.path.join(place, name) for name in (*folders, *files))):  # noqa: PTH118 - hot loop
            with contextlib.suppress(FileNotFoundError):  # another run's temporary file
                if os.lstat(path).st_uid != uid:
                    os.chown(path, uid, gid, follow_symlinks=False)


def _labels(one: SdkContainer) -> dict[str, str]:
    return dict(one.attrs["Config"].get("Labels") or {})


def _discard(container: SdkContainer) -> None:
    """Stop within the grace and remove; a second Ctrl-C meanwhile must not leave it behind."""
    before = signal.getsignal(signal.SIGINT)
    with contextlib.suppress(ValueError):  # not in the main thread: no signals arrive here
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with contextlib.suppress(NotFound, requests.RequestException, urllib3.exceptions.HTTPError):
            container.reload()
            if container.status == "running":
                container.stop(timeout=GRACE_S)
        with contextlib.suppress(NotFound, requests.RequestException, urllib3.exceptions.HTTPError):
            container.remove(force=True, v=True)
    finally:
        with contextlib.suppress(ValueError, TypeError):
            signal.signal(signal.SIGINT, before)


def _tls(endpoint: Endpoint) -> TLSConfig | bool:
    folder = endpoint.tls_folder
    if folder is None and os.environ.get("DOCKER_TLS_VERIFY"):
        folder = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    if folder is None:
        return False
    pair = (str(folder / "cert.pem"), str(folder / "key.pem"))
    return TLSConfig(
        client_cert=pair if (folder / "cert.pem").exists() else None, ca_cert=str(folder / "ca.pem"), verify=True
    )


@contextlib.contextmanager
def _explained(doing: str) -> Iterator[None]:
    """The SDK's exceptions as one line each."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise EngineError(
            f"the engine went away while {doing} ({type(error).__name__})",
            "start it and run the same command again",
        ) from error
    except DockerException as error:
        raise EngineError(f"the engine refused while {doing}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "explanation", None) or error).split())
