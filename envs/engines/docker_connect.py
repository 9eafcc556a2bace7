"""Where a Docker Engine may answer, and what to tell when none does. Needs no docker SDK, which is slow to import."""

from __future__ import annotations

import hashlib
import os
import socket
import urllib.parse
from pathlib import Path

import msgspec

from envs.errors import EngineError

ANSWER_S = 5.0  # an engine that is busy may take a moment, one that hangs must not hang us
DENIED = "no permission on"
ABSENT = "no socket at"
PERMISSION = (
    "join the group docker (`sudo usermod -aG docker $USER`, then `newgrp docker` or log in again), "
    "or use --engine local"
)


class Endpoint(msgspec.Struct, frozen=True):
    """An address, what named it ("" for a usual place) and the folder of its TLS files, if it has any."""

    url: str
    named_by: str = ""
    tls_folder: Path | None = None


class _Config(msgspec.Struct, frozen=True):
    currentContext: str = ""  # noqa: N815 - docker's own spelling


class _Host(msgspec.Struct, frozen=True):
    Host: str = ""


class _Endpoints(msgspec.Struct, frozen=True):
    docker: _Host = _Host()


class _Meta(msgspec.Struct, frozen=True):
    Endpoints: _Endpoints = _Endpoints()


def find() -> Endpoint:
    """The first endpoint that answers; one that is no unix socket is taken as it is, the SDK will try it.

    EngineError says why none does; a refused permission comes first, for it is the one to mend.
    """
    endpoints = _endpoints()
    reasons = []
    for endpoint in endpoints:
        reason = _silent(endpoint)
        if not reason:
            return endpoint
        reasons.append(reason)
    why = min(reasons, key=lambda one: (not one.startswith(DENIED), one.startswith(ABSENT)))
    if named := endpoints[0].named_by:
        why += f" ({named})"
    remedy = PERMISSION if why.startswith(DENIED) else "start or install one, or use --engine local"
    raise EngineError(f"no Docker Engine answers: {why}", remedy)


def _endpoints() -> list[Endpoint]:
    """DOCKER_HOST, else the context in use, else the sockets where engines usually listen."""
    if host := os.environ.get("DOCKER_HOST"):
        tls = Path(os.environ.get("DOCKER_CERT_PATH") or _docker_folder())
        return [Endpoint(host, "DOCKER_HOST", tls if os.environ.get("DOCKER_TLS_VERIFY") else None)]
    if context := _context():
        return [context]
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    usual = ("/var/run/docker.sock", f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock")
    return [Endpoint(f"unix://{path}") for path in (*usual, "/run/podman/podman.sock")]


def _docker_folder() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def _context() -> Endpoint | None:
    folder = _docker_folder()
    name = os.environ.get("DOCKER_CONTEXT", "")
    if not name:
        try:
            name = msgspec.json.decode((folder / "config.json").read_bytes(), type=_Config).currentContext
        except (OSError, msgspec.DecodeError):
            return None
    if name in ("", "default"):
        return None
    key = hashlib.sha256(name.encode()).hexdigest()
    meta = folder / "contexts" / "meta" / key / "meta.json"
    try:
        host = msgspec.json.decode(meta.read_bytes(), type=_Meta).Endpoints.docker.Host
    except (OSError, msgspec.DecodeError) as error:
        raise EngineError(f"the docker context {name!r} can't be read", "see `docker context ls`") from error
    tls = folder / "contexts" / "tls" / key / "docker"
    return Endpoint(host, f"docker context {name}", tls if tls.is_dir() else None)


def _silent(endpoint: Endpoint) -> str:
    """Why nothing answers at a socket; "" where an engine does, or where only the SDK can tell (ssh, TLS)."""
    scheme, _, place = endpoint.url.partition("://")
    if scheme not in ("unix", "tcp"):
        return ""
    try:
        with socket.socket(socket.AF_UNIX) if scheme == "unix" else _dialled(place) as probe:
            probe.settimeout(ANSWER_S)
            if scheme == "unix":
                probe.connect(place)
            if endpoint.tls_folder:
                return ""
            probe.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
            answer = probe.recv(64)
    except PermissionError:
        return f"{DENIED} {place}"
    except FileNotFoundError:
        return f"{ABSENT} {place}"
    except TimeoutError:
        return f"{place} says nothing"
    except (OSError, ValueError) as error:
        return f"{place}: {getattr(error, 'strerror', None) or error}"
    return "" if b" 200 " in answer else f"{place}: what answers is no engine"


def _dialled(place: str) -> socket.socket:
    address = urllib.parse.urlsplit(f"//{place}")
    return socket.create_connection((address.hostname, address.port or 2375), timeout=ANSWER_S)
