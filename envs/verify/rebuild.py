"""The side that is known to be right: tree and image made anew from the lock, with nothing remembered."""

from __future__ import annotations

import getpass
import socket
from pathlib import Path

import msgspec

from envs.build import image_plan
from envs.image import ImagePlan
from envs.layers import IMAGE_ROOT, recorded_hashes
from envs.lock import EnvLock
from envs.progress import Progress
from envs.tree import ensure_tree
from envs.verify.fresh import check_sources
from envs.verify.images import ReadImage, read_layers
from envs.verify.tars import Keep, keep_nothing


class Rebuilt(msgspec.Struct, frozen=True):
    """A fresh build of a lock, to be used while its fresh place is there."""

    lock: EnvLock
    tree: Path
    progress: Progress

    def plan(self) -> ImagePlan:
        """The image of the fresh tree; the base is made or unpacked where it is not yet."""
        return image_plan(self.lock, self.tree, self.progress)

    def read(self, *, facts: bool, keep: Keep = keep_nothing) -> ReadImage:
        """The image's bytes, streamed from the fresh tree."""
        plan = self.plan()
        label = f"the rebuilt image of {self.lock.name}"
        layers = read_layers(b"", plan.layers, label, self.progress, facts, keep).layers
        return ReadImage(plan.config(), layers, plan.manifest())  # both are known now

    def recorded(self) -> frozenset[str]:
        """Paths, in the tree and in the image, whose content a RECORD names."""
        listed = recorded_hashes(self.tree)
        return frozenset(listed) | {f"{IMAGE_ROOT}/{path}" for path in listed}


def rebuild(lock: EnvLock, progress: Progress) -> Rebuilt:
    """Build the lock's tree in the fresh place that the caller has opened; every source is hashed again first."""
    count = check_sources(lock, progress)
    progress.say(f"rebuilding {lock.name} in a fresh place from {count} checked sources")
    return Rebuilt(lock, ensure_tree(lock, progress), progress)


def own_names() -> tuple[str, ...]:
    """What this machine and its user are called, where that is a name one would recognise."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        user = ""
    return tuple(name for name in (socket.gethostname(), user) if len(name) > 2 and name not in ("root", "localhost"))
