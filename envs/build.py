"""Lock -> environment: the tree in the cache and, for an engine with images, the image in the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from envs.engines.base import Environment
from envs.engines.choose import Chosen
from envs.errors import FetchError
from envs.fetch import deb, fetch, stored
from envs.image import ImagePlan, plan_image
from envs.image_archive import archive_base
from envs.image_base import BaseImage, debian_base
from envs.lock import EnvLock, LockedDeb, read_lock
from envs.progress import Progress
from envs.registry.base import registry_base
from envs.tree import TreeRecord, building, ensure_tree, read_record, refuse_foreign


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """What a build made, or found made."""

    environment: Environment
    lock: EnvLock
    record: TreeRecord
    image_bytes: int | None  # uncompressed size of the image; None where the engine has no images


def build(name: str, chosen: Chosen, progress: Progress) -> Built:
    """The environment of that name, usable in the chosen engine. What is there already is not made again."""
    lock = read_lock(name)
    refuse_foreign(lock)
    tree = ensure_tree(lock, progress)
    environment = Environment(name=name, lock_digest=lock.digest, tree=tree)
    image_bytes = None
    if chosen.docker is not None:
        from envs.engines.load import ensure_image

        plan = image_plan(lock, tree, progress)
        with building(f"image-{name}", progress):
            image = ensure_image(chosen.docker.client, plan, progress)
        environment = msgspec.structs.replace(environment, image=image)
        image_bytes = sum(layer.bytes for layer in plan.layers)
    return Built(environment=environment, lock=lock, record=read_record(tree), image_bytes=image_bytes)


def image_plan(lock: EnvLock, tree: Path, progress: Progress) -> ImagePlan:
    """The image of the lock's tree on its base; base packages are downloaded where their layer is not there."""
    return plan_image(lock, tree, base_of(lock, progress))


def base_of(lock: EnvLock, progress: Progress) -> BaseImage:
    """The base of the lock: its Debian packages as one layer, or the layers of an image."""
    if lock.base_image is not None:
        return registry_base(lock.base_image, progress)
    if (archive := lock.base_archive) is not None:
        path = stored(archive.sha256, archive.file)
        if not path.exists():
            raise FetchError(
                f"{archive.file}: the base's image archive is not in the store of this machine",
                f"put it beside the spec and run `invoke lock --env {lock.name}`",
            )
        return archive_base(path, archive.sha256)
    fetched: set[str] = set()

    def path_of(package: LockedDeb) -> Path:
        if not fetched:  # the layer is missing: have all its packages at once
            _fetch_debs(lock.base, lock.suite, progress)
            fetched.update(one.name for one in lock.base)
        return stored(package.sha256, package.file.rsplit("/", 1)[-1])

    return debian_base(lock.base, lock.suite, lock.source_date_epoch, path_of)


def _fetch_debs(debs: Sequence[LockedDeb], suite: str, progress: Progress) -> None:
    try:
        fetch([deb(one, suite) for one in debs], f"{len(debs)} packages of Debian {suite}", progress)
    except FetchError as error:
        raise FetchError(
            error.message, f"{error.remedy}; a mirror drops superseded packages: `invoke lock` moves on"
        ) from error
