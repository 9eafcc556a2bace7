"""Whose bytes a pulled image is: of a lock in this checkout, or not."""

from __future__ import annotations

from typing import Literal

import msgspec

from envs.build import image_plan
from envs.engines.base import LOCK_LABEL
from envs.errors import EdgekilnError
from envs.image import ImagePlan
from envs.lock import EnvLock, read_lock
from envs.progress import Silent
from envs.registry.pull import Remote
from envs.spec import spec_names
from envs.tree import existing_tree

State = Literal["same", "differs", "unproven", "foreign"]


class Verdict(msgspec.Struct, frozen=True):
    """`same` and `differs` are by the image id, which follows from every byte; the others say why there is none."""

    state: State
    env: str = ""
    lock_digest: str = ""  # as the image's own label has it
    plan: ImagePlan | None = None  # of the lock, where the bytes are the same

    @property
    def line(self) -> str:
        """The same for people."""
        if self.state == "same":
            return f"these are the bytes of the lock {self.env} of this checkout"
        if self.state == "differs":
            return f"it says it is made from the lock {self.env}, but its bytes are not what that lock gives here"
        if self.state == "unproven":
            return f"it says it is made from the lock {self.env}, which is not built here: `invoke verify` proves it"
        return "it is of no lock of this checkout"


def recognise(image: Remote) -> Verdict:
    """Compare with the plan of the lock that the image's label names; nothing is built for it."""
    claimed = image.labels.get(LOCK_LABEL, "")
    lock = _lock_of(claimed, image.platform) if claimed else None
    if lock is None:
        return Verdict("foreign", lock_digest=claimed)
    plan = _plan_of(lock)
    if plan is None:
        return Verdict("unproven", lock.name, claimed)
    if plan.image_id == image.image_id:
        return Verdict("same", lock.name, claimed, plan)
    return Verdict("differs", lock.name, claimed)


def _lock_of(digest: str, platform: str) -> EnvLock | None:
    for name in spec_names():
        try:
            if (lock := read_lock(name, platform)).digest == digest:
                return lock
        except EdgekilnError:  # another environment's lock is no reason to refuse this image
            continue
    return None


def _plan_of(lock: EnvLock) -> ImagePlan | None:
    tree = existing_tree(lock)
    if tree is None:
        return None
    try:
        plan = image_plan(lock, tree, Silent())
    except EdgekilnError:
        return None
    return plan if plan.is_known else None
