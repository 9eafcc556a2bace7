"""What can be compared with a rebuild, and how its bytes are read: an engine's image or container, files, ..."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from envs.errors import EngineError, WrongUse
from envs.image import ImagePlan, short_digest
from envs.image_base import file_chunks
from envs.lock import EnvLock
from envs.progress import Progress
from envs.verify.images import ReadImage, read_layers, read_layout, read_saved
from envs.verify.injected import Injected
from envs.verify.tars import Keep, ReadLayer, read_layer, readable, watched

if TYPE_CHECKING:
    from envs.engines.docker import DockerEngine

Read = Callable[[bool, Keep], ReadImage]  # with facts or digests only; which contents to keep


class Subject(msgspec.Struct, frozen=True):
    """An image that exists somewhere: what it is called, and its bytes, read anew at each call."""

    name: str
    read: Read


def engine_image(engine: DockerEngine, lock: EnvLock, progress: Progress) -> Subject:
    """The image that carries this lock's tag. EngineError where the engine has none."""
    from envs.engines.saved import image_id, saved_image

    tag = ImagePlan(lock.name, lock.digest, lock.platform, 0, "", ()).tags[1]  # tags follow from the lock alone
    found = image_id(engine, tag)
    if found is None:
        raise EngineError(f"the engine has no image {tag}", f"make it with `invoke build --env {lock.name}`")

    def read(facts: bool, keep: Keep) -> ReadImage:
        return _saved(saved_image(engine, found), f"reading {tag} out of the engine", progress, facts, keep)

    return Subject(f"image {tag} ({short_digest(found)}) in the engine", read)


def archive(text: str, wanted: Callable[[], str], progress: Progress) -> Subject:
    """`oci:DIR` or `docker-archive:FILE`. WrongUse where it is neither or not there.

    `wanted` gives the manifest digest of the image to take out of a layout of several, once that is known.
    """
    kind, _, place = text.partition(":")
    path = Path(place).absolute()
    if kind == "oci" and (path / "index.json").is_file():
        return Subject(text, lambda facts, keep: read_layout(path, wanted(), facts=facts, keep=keep))
    if kind == "docker-archive" and path.is_file():
        return Subject(text, lambda facts, keep: _saved(file_chunks(path), f"reading {path}", progress, facts, keep))
    missing = "no such OCI layout" if kind == "oci" else "no such file"
    what = missing if kind in ("oci", "docker-archive") and place else "neither oci:DIR nor docker-archive:FILE"
    raise WrongUse(f"--archive {text!r}: {what}", "`invoke build --output` writes both kinds")


def registry_image(reference: str, platform: str, progress: Progress) -> Subject:
    """HOST/REPOSITORY@sha256:... (or a tag, of which the digest is said); its blobs are in the store afterwards."""
    from envs.registry.pull import fetch_image

    remote = fetch_image(reference, progress, platform)

    def read(facts: bool, keep: Keep) -> ReadImage:
        image = read_layers(remote.config, remote.layers, f"reading {remote.reference}", progress, facts, keep)
        return msgspec.structs.replace(image, manifest=remote.manifest)

    return Subject(f"image {remote.reference}", read)


class ContainerSubject(msgspec.Struct, frozen=True):
    """A container's file system."""

    name: str
    export: Callable[[Keep], ReadLayer]
    injected: Injected
    lock_digest: str


def engine_container(engine: DockerEngine, asked: str, progress: Progress) -> ContainerSubject:
    """A container of this project. WrongUse where there is none of that name."""
    from envs.engines.saved import exported, inside

    found = inside(engine, asked)

    def export(keep: Keep) -> ReadLayer:
        bar = progress.bar(f"reading the files of {found.container.name}", 0)
        try:
            chunks = watched(exported(engine, found.container), bar)
            return read_layer(readable(chunks), f"container {found.container.name}", facts=True, keep=keep)
        finally:
            bar.close()

    name = f"container {found.container.name} ({found.container.id[:12]}, {found.container.state})"
    return ContainerSubject(name, export, Injected(found.mounted), found.container.lock_digest)


def _saved(chunks: Iterable[bytes], label: str, progress: Progress, facts: bool, keep: Keep) -> ReadImage:
    bar = progress.bar(label, 0)
    try:
        return read_saved(watched(chunks, bar), facts=facts, keep=keep)
    finally:
        bar.close()
