"""`invoke verify` as a function: rebuild, then compare with each thing that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from envs.engines.choose import choose
from envs.errors import EngineError, WrongUse
from envs.lock import EnvLock, read_lock
from envs.progress import Progress
from envs.tree import existing_tree
from envs.verify import subjects
from envs.verify.check import check_container, check_image, check_memory, check_tree, label_notes
from envs.verify.fresh import fresh_place
from envs.verify.rebuild import Rebuilt, rebuild
from envs.verify.records import VerifyReport

Check = Callable[[Rebuilt], "VerifyReport | None"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to verify: at most one of container, image and archive; without any, what a build left here."""

    env: str
    engine: str = "auto"
    platform: str = ""
    container: str = ""
    image: str = ""
    archive: str = ""


def verify(request: Request, progress: Progress) -> tuple[VerifyReport, ...]:
    """One report for each thing compared. WrongUse, EngineError, FetchError where nothing can be compared."""
    named = [name for name in ("container", "image", "archive") if getattr(request, name)]
    if len(named) > 1:
        raise WrongUse(f"--{named[0]} and --{named[1]} can't be verified at once", "run it once for each")
    lock = read_lock(request.env, request.platform)
    checks = _checks(request, lock, progress)  # what is not there is said before anything is rebuilt
    with fresh_place():
        rebuilt = rebuild(lock, progress)
        reports = [check(rebuilt) for check in checks]
    return tuple(report for report in reports if report is not None)


def _checks(request: Request, lock: EnvLock, progress: Progress) -> list[Check]:
    if request.archive:
        return [_archive_check(request.archive, progress)]
    if request.image:
        return [_image_check(subjects.registry_image(request.image, lock.platform, progress))]
    chosen = choose(request.engine)
    progress.say(chosen.why)
    tree = existing_tree(lock)
    if chosen.docker is None:
        return [_tree_check(request, lock, tree)]
    if request.container:
        return [_container_check(subjects.engine_container(chosen.docker, request.container, progress))]
    image = _image_check(subjects.engine_image(chosen.docker, lock, progress))
    if tree is None:
        return [image]
    return [image, lambda rebuilt: check_tree(rebuilt, tree), lambda rebuilt: check_memory(rebuilt, tree)]


def _tree_check(request: Request, lock: EnvLock, tree: Path | None) -> Check:
    if request.container:
        raise WrongUse(
            "under local a container is a process in the tree itself",
            f"`invoke verify --env {lock.name} --engine local` verifies the tree",
        )
    if tree is None:
        raise EngineError(f"nothing of {lock.name} is built here", f"`invoke build --env {lock.name}` makes it")
    return lambda rebuilt: check_tree(rebuilt, tree)


def _image_check(subject: subjects.Subject) -> Check:
    return lambda rebuilt: check_image(rebuilt, subject.name, subject.read)


def _archive_check(text: str, progress: Progress) -> Check:
    subjects.archive(text, str, progress)  # a wrong one is said at once

    def check(rebuilt: Rebuilt) -> VerifyReport:
        subject = subjects.archive(text, lambda: rebuilt.plan().manifest_digest, progress)
        return check_image(rebuilt, subject.name, subject.read)

    return check


def _container_check(found: subjects.ContainerSubject) -> Check:
    def check(rebuilt: Rebuilt) -> VerifyReport:
        report = check_container(rebuilt, found.name, found.export, found.injected)
        notes = (*report.notes, *label_notes(found.lock_digest, rebuilt.lock))
        return msgspec.structs.replace(report, notes=notes)

    return check
