"""What a Docker Engine holds, as streams: an image (`docker save`), a container's files (`docker export`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
import requests
import urllib3
from docker.errors import DockerException, NotFound

from envs.engines import names
from envs.engines.base import Container
from envs.engines.docker import DockerEngine
from envs.engines.docker_streams import GONE
from envs.engines.load import no_timeout
from envs.errors import EngineError

CHUNK = 2 << 20
WENT_AWAY = (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError)


class Inside(msgspec.Struct, frozen=True):
    """A container and the paths in it that are not its image's: mounts and temporary file systems."""

    container: Container
    mounted: tuple[str, ...]


def image_id(engine: DockerEngine, reference: str) -> str | None:
    """The id of an image by tag or id; None where the engine has none of that name."""
    with _explained(f"image {reference} was looked up"):
        try:
            return str(engine.client.images.get(reference).id)
        except NotFound:
            return None


def saved_image(engine: DockerEngine, image: str) -> Iterator[bytes]:
    """The image as the engine writes it out, in chunks."""
    return _streamed(engine, f"image {image} was read out", lambda api: api.get_image(image, chunk_size=CHUNK))


def inside(engine: DockerEngine, asked: str) -> Inside:
    """A container of this project by name or prefix. WrongUse where there is none."""
    container = names.find(asked, engine.containers())
    with _explained(f"{container.name} was looked at"):
        facts = engine.client.api.inspect_container(container.id)
    targets = [mount["Destination"] for mount in facts.get("Mounts") or []]
    temporary = list((facts.get("HostConfig") or {}).get("Tmpfs") or {})
    return Inside(container, tuple(sorted(path.strip("/") for path in (*targets, *temporary))))


def exported(engine: DockerEngine, container: Container) -> Iterator[bytes]:
    """The container's file system as one tar, in chunks; what is mounted shows as empty folders."""
    doing = f"the files of {container.name} were read out"
    return _streamed(engine, doing, lambda api: api.export(container.id, chunk_size=CHUNK))


def _streamed(engine: DockerEngine, doing: str, ask: Any) -> Iterator[bytes]:
    with no_timeout(engine.client) as api, _explained(doing):
        yield from ask(api)


@contextlib.contextmanager
def _explained(doing: str) -> Iterator[None]:
    try:
        yield
    except DockerException as error:  # first: an APIError is a RequestException too
        reason = " ".join(str(getattr(error, "explanation", None) or error).split())
        raise EngineError(f"the engine refused while {doing}: {reason}") from error
    except WENT_AWAY as error:
        raise EngineError(f"the engine went away while {doing}", GONE) from error
