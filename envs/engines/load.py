"""Bring a planned image into a Docker Engine: only the layers that are missing, nothing where it is there."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import requests
import urllib3
from docker.errors import DockerException, ImageNotFound
from docker.models.images import Image

import docker
from envs.engines.base import PART_LABEL, PROJECT_LABEL
from envs.engines.load_parts import load_pieces, piece_ends
from envs.errors import EngineError
from envs.image import ImagePlan, short_digest
from envs.progress import Bar, Progress

_MIB = 1 << 20


def ensure_image(client: docker.DockerClient, plan: ImagePlan, progress: Progress) -> str:
    """The id of the plan's image, which is in the engine afterwards and carries the plan's tags.

    An interrupted load leaves the engine as it was: tags move when everything has arrived.
    EngineError where the engine refuses, dies, or holds something else than was planned.
    """
    with _explained(plan):
        if plan.is_known and (image := _find(client, plan.image_id)):
            _tag(image, plan)
            return plan.image_id
        refusal = _load_shared(client, plan, progress)
        if refusal:
            raise _refused(plan, refusal)
        image = _find(client, plan.image_id)
        if image is None:
            raise EngineError(
                f"the engine loaded {plan.tags[0]}, but not as the planned {short_digest(plan.image_id)}",
                "it may rewrite images: report it with the output of `docker version`",
            )
        _tag(image, plan)
    return plan.image_id


def _find(client: docker.DockerClient, image_id: str) -> Image | None:
    try:
        return client.images.get(image_id)
    except ImageNotFound:
        return None


def _tag(image: Image, plan: ImagePlan) -> None:
    """Set the tags that are not there or point elsewhere."""
    for tag in set(plan.tags) - set(image.tags):
        repository, _, name = tag.rpartition(":")
        image.tag(repository, name)


def _load_shared(client: docker.DockerClient, plan: ImagePlan, progress: Progress) -> str:
    """Load what the engine lacks, in pieces; all of it in one where the engine wants that. What was refused, or ""."""
    skip = _common_layers(client, plan)
    whole = len(piece_ends(plan, skip)) == 1
    try:
        refusal = _load(client, plan, skip, progress, whole=whole)
        if refusal and (skip or not whole) and "no space left" not in refusal:
            progress.say(f"the engine wants all layers of {plan.name} at once ({refusal})")
            refusal = _load(client, plan, 0, progress, whole=True)
    finally:
        with contextlib.suppress(DockerException, requests.RequestException):  # they cost no space, and go next time
            for image in client.images.list(filters={"label": f"{PART_LABEL}={plan.name}"}):
                client.images.remove(str(image.id))
    return refusal


def _common_layers(client: docker.DockerClient, plan: ImagePlan) -> int:
    """How many of the plan's first layers some image of ours begins with: engines share only a prefix."""
    best = 0
    ours = client.images.list(filters={"label": PROJECT_LABEL})
    for image in [*ours, *client.images.list(filters={"label": PART_LABEL})]:
        layers = image.attrs["RootFS"].get("Layers") or []
        pairs = zip(plan.layers, layers, strict=False)
        shared = itertools.takewhile(lambda pair: pair[0].diff_id == pair[1], pairs)
        best = max(best, sum(1 for _ in shared))
    return best


def _load(client: docker.DockerClient, plan: ImagePlan, skip: int, progress: Progress, *, whole: bool) -> str:
    """Stream the image into the engine; what it refused, or "" where it took everything."""
    size = plan.archive_size(skip)
    kept = f", {skip} of {len(plan.layers)} layers are there" if skip else ""
    progress.say(f"loading image {plan.name} into the engine: {size / _MIB:.0f} MiB{kept}")
    sending, unpacking = progress.bar("sending", size), _Unpacking(progress, size)
    try:
        with no_timeout(client) as api:

            def load(archive: Iterator[bytes]) -> str:
                for answer in api.load_image(_counted(archive, sending), quiet=False):
                    if "error" in answer:
                        return str(answer["error"]).strip()
                    unpacking.take(answer)
                return ""

            return load(plan.archive(skip)) if whole else load_pieces(plan, skip, load)
    finally:
        sending.close()
        unpacking.close()


def _counted(archive: Iterator[bytes], bar: Bar) -> Iterator[bytes]:
    for chunk in archive:
        yield chunk
        bar.advance(len(chunk))


class _Unpacking:
    """The engine's own account of how far it is, as one bar over all layers."""

    def __init__(self, progress: Progress, size: int) -> None:
        self._bar = progress.bar("unpacking in the engine", size)
        self._done: dict[str, int] = {}

    def take(self, answer: dict[str, Any]) -> None:
        current = (answer.get("progressDetail") or {}).get("current", 0)
        layer = answer.get("id", "")
        if current > self._done.get(layer, 0):
            self._bar.advance(current - self._done.get(layer, 0))
            self._done[layer] = current

    def close(self) -> None:
        self._bar.close()


@contextlib.contextmanager
def no_timeout(client: docker.DockerClient) -> Iterator[Any]:
    """Its API, for calls in which it says nothing while it works on gigabytes; one that died closes the socket."""
    api: Any = client.api  # its type stubs know neither a missing timeout nor load_image
    before, api.timeout = api.timeout, None
    try:
        yield api
    finally:
        api.timeout = before


@contextlib.contextmanager
def _explained(plan: ImagePlan) -> Iterator[None]:
    try:
        yield
    except DockerException as error:  # first: an APIError is a RequestException too
        raise _refused(plan, str(getattr(error, "explanation", None) or error)) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise EngineError(
            f"the engine went away while image {plan.name} was loaded ({type(error).__name__})",
            "start it and run the same command again; images that were there are unchanged",
        ) from error


def _refused(plan: ImagePlan, reason: str) -> EngineError:
    line = " ".join(reason.split())
    if "no space left" in line:
        return EngineError(
            f"no space left where the engine keeps its images, {plan.name} needs about "
            f"{2 * plan.archive_size() / 1e9:.1f} GB while it loads",
            "free some space (`docker system df` shows what is used) and run the same command again",
        )
    return EngineError(f"the engine refused image {plan.name}: {line}", "the engine's own log says more")
