"""Bring somebody else's image, an archive of `docker save`, into a Docker Engine; nothing where it is there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import requests
import urllib3
from docker.errors import DockerException, ImageNotFound

import docker
from envs.engines.load import no_timeout
from envs.errors import EngineError
from envs.progress import Progress

BLOCK = 1 << 20


def ensure_archive(
    client: docker.DockerClient, archive: Path, image_id: str, progress: Progress, check: Callable[[], None]
) -> None:
    """The image of that id is in the engine afterwards. `check` is called before its archive is read, and may refuse.

    EngineError where the engine refuses, or makes another image of it.
    """
    try:
        if _is_there(client, image_id):
            return
        check()
        bar = progress.bar(f"loading {archive.name} into the engine", archive.stat().st_size)
        try:
            with no_timeout(client) as api:
                for answer in api.load_image(_blocks(archive, bar.advance), quiet=False):
                    if "error" in answer:
                        raise EngineError(f"the engine refused {archive.name}: {str(answer['error']).strip()}")
        finally:
            bar.close()
        if not _is_there(client, image_id):
            raise EngineError(f"the engine loaded {archive.name}, but not as the recorded {image_id[:19]}")
    except DockerException as error:  # first: an APIError is a RequestException too
        reason = " ".join(str(getattr(error, "explanation", None) or error).split())
        raise EngineError(f"the engine refused {archive.name}: {reason}") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise EngineError(
            f"the engine went away while {archive.name} was loaded ({type(error).__name__})",
            "start it and run the same command again",
        ) from error


def _is_there(client: docker.DockerClient, image_id: str) -> bool:
    try:
        client.images.get(image_id)
    except ImageNotFound:
        return False
    return True


def _blocks(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb") as file:
        for block in iter(functools.partial(file.read, BLOCK), b""):
            yield block
            advance(len(block))
