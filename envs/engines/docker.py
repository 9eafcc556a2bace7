"""Docker Engine (API 1.41 and newer; Podman's socket speaks it too) through the docker SDK."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import requests
import urllib3
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
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
from envs.engines.docker_connect import ANSWER_S, Endpoint
from envs.engines.docker_streams import GONE, attach, converse, guarded
from envs.engines.interrupts import held
from envs.errors import EngineError, WrongUse

PROJECT = "edgekiln"
OLDEST_API = (1, 41)
TIMEOUT_S = 60
GRACE_S = 5
KILLED = 128 + 9
OOM_NOTE_S = 0.5
WENT_AWAY = (requests.RequestException, urllib3.exceptions.HTTPError)
STATES: dict[str, State] = {"created": "created", "running": "running", "paused": "running", "restarting": "running"}


class DockerEngine:
    """Containers without network, privileges or a writable root, under the caller's own uid."""

    def __init__(self, endpoint: Endpoint) -> None:
        doing = f"{endpoint.url} ({endpoint.named_by or 'a usual place'}) was asked for its version"
        with _explained(doing):
            self.client = docker.DockerClient(base_url=endpoint.url, timeout=ANSWER_S, tls=_tls(endpoint))  # type: ignore[arg-type]
            facts = self.client.version()
        self.client.api.timeout = TIMEOUT_S
        product = facts.get("Components", [{}])[0].get("Name", "Engine").removesuffix(" Engine")
        self._description = f"{product.replace('Engine', 'Docker')} Engine {facts['Version']} at {endpoint.url}"
        if tuple(int(part) for part in facts["ApiVersion"].split(".")) < OLDEST_API:
            raise EngineError(f"{self._description} is too old", "20.10 and newer will do, or use --engine local")

    @property
    def name(self) -> Literal["docker"]:
        return "docker"

    def describe(self) -> str:
        """Product, version and address."""
        return self._description

    def view(self, mount: Mount) -> str:
        """Where the mount is inside."""
        return mount.target

    def run(self, task: Task, *, stdout: Sink, stderr: Sink) -> int:
        """Run to the end, streams live; the container is removed whatever happens."""
        with _explained("the command was running"), self._throwaway(task, task.command) as container:
            with attach(self.client, _id(container)) as stream:
                container.start()
                for is_error, block in stream.blocks():
                    (stderr if is_error else stdout)(block)
            code = int(container.wait()["StatusCode"])
            if code and self._ran_out_of_memory(container, code):
                raise EngineError(
                    f"the command was killed: it wanted more than its {task.memory_mib} MiB of memory",
                    "run something smaller, or on a machine with more",
                )
            return code

    def _ran_out_of_memory(self, container: SdkContainer, code: int) -> bool:
        """The engine notes it when it ends the container, but under load learns it only a moment later."""
        container.reload()
        if container.attrs["State"].get("OOMKilled"):
            return True
        if code != KILLED:
            return False
        client: Any = self.client  # the stubs know no fractions of a second
        until = f"{time.time() + OOM_NOTE_S:.3f}"
        asked = {"container": _id(container), "event": "oom"}
        return any(guarded(client.events(since=0, until=until, filters=asked, decode=True)))

    def start(self, task: Task) -> Container:
        """Create the kept container of that name and start it, or start the one that is there."""
        name = names.of(task)
        with _explained(f"{name} was started"), names.alone(self.name, name):
            _hand_over(task, self._user())
            found = next((one for one in self._all() if one.name == name), None)
            if found is None:
                found = self._start_new(task, name)
            elif not self._is_of(found, task):
                raise names.refuse_other_lock(self._shown(found))
            elif self._shown(found).state != "running":
                found.start()
            found.reload()
            return self._shown(found)

    def _start_new(self, task: Task, name: str) -> SdkContainer:
        with held() as signals:
            made = self._create(task, task.command, name)
            try:
                with signals.let_through():
                    made.start()
            except BaseException:
                _discard(made)
                raise
        return made

    def exec(self, container: str, command: Sequence[str], *, variables: Mapping[str, str], workdir: str | None) -> int:
        """Run in a running container with this process's streams; a terminal where both ends are one."""
        with _explained("the command was running"):
            target = self._find(container)
            if target.status != "running":
                raise names.refuse_stopped(self._shown(target))
            return converse(self.client, _id(target), command, variables, workdir)

    def attach(self, task: Task) -> int:
        """In a throwaway container, removed at its end."""
        with _explained("the command was running"), self._throwaway(task, ("sleep", "infinity")) as container:
            container.start()
            return converse(self.client, _id(container), task.command, task.variables, task.workdir)

    def shell(self, task: Task) -> int:
        """bash in a container of its own; off a terminal it reads commands from stdin."""
        return self.attach(names.bash(task))

    def stop(self, container: str, timeout_s: float = 10) -> None:
        """SIGTERM, and SIGKILL after the timeout."""
        with _explained(f"{container} was stopped"):
            self._find(container).stop(timeout=round(timeout_s))

    def restart(self, container: str, timeout_s: float = 10) -> None:
        """Stop and start again."""
        with _explained(f"{container} was restarted"):
            self._find(container).restart(timeout=round(timeout_s))

    def remove(self, container: str, force: bool = False) -> None:
        """Remove it; a running one only by force."""
        with _explained(f"{container} was removed"):
            target = self._find(container)
            shown = self._shown(target)
            if shown.state == "running" and not force:
                raise names.refuse_running(shown)
            target.remove(force=force, v=True)

    def containers(self) -> list[Container]:
        """This project's containers, running and stopped, by name."""
        with _explained("containers were listed"):
            return sorted((self._shown(one) for one in self._all()), key=lambda one: one.name)

    def logs(self, container: str, *, follow: bool, sink: Sink) -> None:
        """What the main process wrote."""
        with _explained(f"the log of {container} was read"):
            target = self._find(container)
            for block in guarded(target.logs(stream=True, follow=follow)):
                sink(block)
            if follow:
                self.client.ping()  # an engine that went away ends the stream just like a container that stopped

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
        ours: dict[str, str | list[str] | bool] = {"label": f"{PROJECT_LABEL}={PROJECT}"}
        return self.client.containers.list(all=True, filters=ours, ignore_removed=True)

    def _find(self, asked: str) -> SdkContainer:
        listed = self._all()
        meant = names.find(asked, [self._shown(one) for one in listed])
        return next(one for one in listed if one.id == meant.id)

    def _shown(self, one: SdkContainer) -> Container:
        config = one.attrs["Config"]
        return Container(
            id=_id(one),
            name=str(one.name),
            env=one.labels.get(ENV_LABEL, ""),
            state=STATES.get(one.status, "stopped"),
            engine=self.name,
            lock_digest=one.labels.get(LOCK_LABEL, ""),
            image=_image(one),
            created=str(one.attrs["Created"]).partition(".")[0].rstrip("Z") + "Z",
            command=" ".join(config.get("Cmd") or []),
        )

    def _is_of(self, one: SdkContainer, task: Task) -> bool:
        wanted = (task.environment.lock_digest, task.environment.image)
        return (one.labels.get(LOCK_LABEL), _image(one)) == wanted

    @contextlib.contextmanager
    def _throwaway(self, task: Task, command: Sequence[str]) -> Iterator[SdkContainer]:
        """A container that is gone afterwards, whichever signal comes when."""
        _hand_over(task, self._user())
        with held() as signals:
            container = self._create(task, command, None)
            try:
                with signals.let_through():
                    yield container
            finally:
                _discard(container)

    def _create(self, task: Task, command: Sequence[str], name: str | None) -> SdkContainer:
        env = task.environment
        remedy = f"run `invoke build --env {env.name}`"
        if env.image is None:
            raise EngineError(f"{env.name} has no image in this engine", remedy)
        uid, gid = self._user()
        home = {"HOME": "/tmp", "USER": PROJECT, "LOGNAME": PROJECT}  # noqa: S108 - the container's own tmpfs
        try:
            return self.client.containers.create(
                env.image,
                command=list(command),
                entrypoint=[],
                name=name,
                user=f"{uid}:{gid}",
                working_dir=task.workdir,
                environment={**home, **task.variables},
                network_mode="none",
                read_only=True,
                tmpfs={"/tmp": "rw,size=512m,mode=1777"},  # noqa: S108
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                pids_limit=task.pids,
                mem_limit=f"{min(task.memory_mib, self._info['MemTotal'] // 2**20)}m",
                init=True,
                mounts=[_bind(mount) for mount in task.mounts],
                labels={PROJECT_LABEL: PROJECT, ENV_LABEL: env.name, LOCK_LABEL: env.lock_digest},
            )
        except ImageNotFound as error:
            raise EngineError(f"the image of {env.name} is not in the engine any more", remedy) from error
        except APIError as error:
            if "already in use" in str(error.explanation):
                raise WrongUse(f"another container is called {name}", "give another --name") from error
            raise

    @functools.cached_property
    def _info(self) -> dict[str, Any]:
        return self.client.info()

    def _user(self) -> tuple[int, int]:
        """The caller, or a fixed uid that has nothing where the caller is root.

        Inside a rootless engine the caller is uid 0, and any other uid is a stranger to the caller's files.
        """
        options = self._info.get("SecurityOptions") or []
        if self._info.get("Rootless") or "name=rootless" in options:  # Podman's word, and Docker's
            return 0, 0
        return (os.getuid(), os.getgid()) if os.getuid() else (ROOT_UID, ROOT_UID)


def _bind(mount: Mount) -> Any:
    return docker.types.Mount(target=mount.target, source=str(mount.source), type="bind", read_only=not mount.writable)


def _hand_over(task: Task, user: tuple[int, int]) -> None:
    """Where the caller is root, give what can be written and is not owned yet to the container's user."""
    if os.getuid() or user[0] == 0:
        return
    for mount in task.mounts:
        if mount.writable:
            for place, folders, files in os.walk(mount.source):
                for path in (place, *(os.path.join(place, name) for name in (*folders, *files))):  # noqa: PTH118
                    with contextlib.suppress(FileNotFoundError):  # another run's temporary file
                        if os.lstat(path).st_uid != user[0]:
                            os.chown(path, *user, follow_symlinks=False)


def _id(one: SdkContainer) -> str:
    return str(one.id)


def _image(one: SdkContainer) -> str:
    """The id with its algorithm, which Podman leaves out."""
    return "sha256:" + str(one.attrs["Image"]).removeprefix("sha256:")


def _discard(container: SdkContainer) -> None:
    """Stop within the grace and remove; where the engine has gone there is nothing more to do here."""
    try:
        container.reload()
        if container.status == "running":
            container.stop(timeout=GRACE_S)
        container.remove(force=True, v=True)
    except NotFound:
        pass
    except WENT_AWAY as error:
        if isinstance(error, APIError):
            raise


def _tls(endpoint: Endpoint) -> TLSConfig | bool:
    folder = endpoint.tls_folder
    if folder is None:
        return False
    pair = (str(folder / "cert.pem"), str(folder / "key.pem"))
    known = Path(pair[0]).exists()
    return TLSConfig(client_cert=pair if known else None, ca_cert=str(folder / "ca.pem"), verify=True)


@contextlib.contextmanager
def _explained(doing: str) -> Iterator[None]:
    """The SDK's exceptions as one line each."""
    try:
        yield
    except DockerException as error:  # an APIError is a requests.RequestException too: it comes first
        reason = " ".join(str(getattr(error, "explanation", None) or error).split())
        remedy = "install catatonit, Podman's init" if "container-init" in reason else ""
        raise EngineError(f"the engine refused while {doing}: {reason}", remedy) from error
    except WENT_AWAY as error:
        raise EngineError(f"the engine went away while {doing}", GONE) from error
