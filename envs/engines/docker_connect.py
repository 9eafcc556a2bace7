"""Where a Docker Engine may answer, and what to tell when none does."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import msgspec

from envs.errors import EngineError

PERMISSION = "join the group docker (`sudo usermod -aG docker $USER`, then log in again), or use --engine local"


class Endpoint(msgspec.Struct, frozen=True):
    """An address, and what named it; `ca` and friends are a context's TLS files."""

    url: str
    named_by: str
    tls_folder: Path | None = None


class _Config(msgspec.Struct, frozen=True):
    currentContext: str = ""  # noqa: N815 - docker's own spelling


class _Host(msgspec.Struct, frozen=True):
    Host: str = ""


class _Endpoints(msgspec.Struct, frozen=True):
    docker: _Host = _Host()


class _Meta(msgspec.Struct, frozen=True):
    Endpoints: _Endpoints = _Endpoints()


def endpoints() -> list[Endpoint]:
    """DOCKER_HOST, else the context in use, else the sockets where engines usually listen."""
    if host := os.environ.get("DOCKER_HOST"):
        return [Endpoint(host, "DOCKER_HOST")]
    if context := _context():
        return [context]
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    sockets = ["/var/run/docker.sock", f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock"]
    sockets.append("/run/podman/podman.sock")
    return [Endpoint(f"unix://{path}", "a usual place") for path in sockets]


def _context() -> Endpoint | None:
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
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


def reachable(endpoint: Endpoint) -> str:
    """Why a unix socket can't be opened, or "" where it can (other addresses are tried by the client)."""
    if not endpoint.url.startswith("unix://"):
        return ""
    path = endpoint.url.removeprefix("unix://")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(path)
        except PermissionError:
            return f"no permission on {path}"
        except FileNotFoundError:
            return f"nothing at {path}"
        except OSError as error:
            return f"{path}: {error.strerror or error}"
    return ""


def no_engine(reasons: list[str], listed: list[Endpoint]) -> EngineError:
    """One line for all that was tried; a refused permission comes first, for it is the one to mend."""
    denied = [reason for reason in reasons if reason.startswith("no permission")]
    if denied:
        return EngineError(f"no Docker Engine answers: {denied[0]}", PERMISSION)
    named = listed[0].named_by
    why = reasons[0] if named == "a usual place" else f"{named} is {listed[0].url}: {reasons[0]}"
    return EngineError(f"no Docker Engine answers: {why}", "start or install one, or use --engine local")
