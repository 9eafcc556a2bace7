"""Lock -> environment: the tree in the cache and, for an engine with images, the image in the engine."""

from __future__ import annotations

from pathlib import Path

import msgspec

from envs.engines.base import Environment
from envs.engines.choose import Chosen
from envs.fetch import base_archive, base_packages, fetch, refreshing, stored
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


def build(name: str, chosen: Chosen, progress: Progress, lock: EnvLock | None = None) -> Built:
    """The environment of that name, usable in the chosen engine. What is there already is not made again.

    `lock` takes the place of the one in the checkout. Gone names all locked files that are nowhere.
    """
    with refreshing(name):
        return _build(lock or read_lock(name), chosen, progress)


def _build(lock: EnvLock, chosen: Chosen, progress: Progress) -> Built:
    refuse_foreign(lock)
    tree = ensure_tree(lock, progress)
    environment = Environment(name=lock.name, lock_digest=lock.digest, tree=tree)
    image_bytes = None
    if chosen.docker is not None:
        from envs.engines.load import ensure_image

        plan = image_plan(lock, tree, progress)
        with building(f"image-{lock.name}", progress):
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
        (path,) = fetch([base_archive(archive, lock.name)], "the base's image archive", progress)
        return archive_base(path, archive.sha256)
    fetched: set[str] = set()

    def path_of(package: LockedDeb) -> Path:
        if not fetched:  # the layer is missing: have all its packages at once
            fetch(base_packages(lock), f"{len(lock.base)} packages of Debian {lock.suite}", progress)
            fetched.update(one.name for one in lock.base)
        return stored(package.sha256, package.file.rsplit("/", 1)[-1])

    return debian_base(lock.base, lock.suite, lock.source_date_epoch, path_of)
