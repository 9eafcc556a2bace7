"""Take a bundle in: everything checked, sources into the store, the image into an engine where one answers.

A file is put in its place only when its bytes are right, so an interrupted load is gone on with by the same call.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from envs import toml
from envs.bundle.contents import interpreter_member, sources_of
from envs.bundle.layers import bundled_plan
from envs.bundle.manifest import AGAIN, BundledImage, Place, total_bytes
from envs.bundle.read import Bundle, check_structure, member_bytes, open_bundle, read_member
from envs.data import HUB, ensure_data
from envs.engines.choose import choose
from envs.errors import CheckFailed, LockError, SpecError
from envs.files import exclusive, write_atomic
from envs.image import ImagePlan
from envs.image_base import base_key
from envs.interpreter import kept_tree
from envs.layers import Known, known_path, remember
from envs.lock import EnvLock, read_lock_file
from envs.native_package import native_root
from envs.paths import LOCKS, SPECS, cache_root
from envs.platforms import host_platform
from envs.progress import Bar, Progress
from envs.spec import EnvSpec, for_platform, spec_sha256
from envs.tree import building


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle brought."""

    bundle_digest: str
    lock: EnvLock
    members: int
    new_bytes: int  # what was not there before
    image: str  # its id in the engine, or "" where none was loaded


def load_bundle(path: Path, engine: str, progress: Progress) -> Loaded:
    """Check all of a bundle and take in what this machine lacks.

    CheckFailed names the member that was changed; LockError where this checkout has another lock of that name.
    """
    bundle = open_bundle(path)
    with path.open("rb") as file:
        check_structure(bundle, file)
        lock = bundled_lock(bundle)
        _check_against_lock(bundle, lock)
        _check_checkout(bundle, lock)
        chosen = choose(engine)
        bar = progress.bar(f"checking and loading {path.name}", total_bytes(list(bundle.places)))
        try:
            new = sum(_take(bundle, file, place, lock, bar, progress) for place in bundle.places)
        finally:
            bar.close()
    _settle_checkout(bundle)
    image = ""
    if (bundled := bundle.manifest.image) is not None:
        plan = bundled_plan(bundle, bundled, lock)
        if plan.image_id != bundled.image_id:
            progress.say("the bundle's image was configured by another version of this tool: `invoke build` makes it")
        else:
            _remember_layers(bundled, plan, lock)
            if chosen.docker is not None and lock.platform == host_platform():
                from envs.engines.load import ensure_image

                progress.say(chosen.why)
                with building(f"image-{lock.name}", progress):
                    image = ensure_image(chosen.docker.client, plan, progress)
    return Loaded(
        bundle_digest=bundle.manifest.digest,
        lock=lock,
        members=len(bundle.manifest.members),
        new_bytes=new,
        image=image,
    )


def bundled_lock(bundle: Bundle) -> EnvLock:
    """The bundle's lock, which its spec and its manifest agree with. LockError or CheckFailed where one does not."""
    manifest = bundle.manifest
    where = f"{bundle.path.name}: the lock of {manifest.env}"
    with tempfile.TemporaryDirectory() as folder:
        lock_file, spec_file = (Path(folder, kind) for kind in ("lock", "spec"))
        for kind, file in (("lock", lock_file), ("spec", spec_file)):
            file.write_bytes(member_bytes(bundle, _only(bundle, kind)))
        try:
            lock = read_lock_file(lock_file)
            spec = toml.convert(toml.parse_toml(spec_file), EnvSpec, spec_file)
        except (LockError, SpecError) as error:
            why = error.message.replace(f"{lock_file}: ", "").replace(str(spec_file), "its spec")
            raise CheckFailed(f"{where}: {why}", AGAIN) from error
    if (lock.digest, lock.name, lock.platform) != (manifest.lock_digest, manifest.env, manifest.platform):
        raise CheckFailed(f"{where} is not the one that the manifest names", AGAIN)
    if not _is_of(lock, spec):
        raise CheckFailed(f"{where} was made from another spec than the bundle's", AGAIN)
    return lock


def _is_of(lock: EnvLock, spec: EnvSpec) -> bool:
    other = "" if lock.platform == spec.platform else lock.platform
    return spec_sha256(for_platform(spec, other)) == lock.spec_sha256


def _only(bundle: Bundle, kind: str) -> str:
    found = [member.path for member in bundle.manifest.members if member.kind == kind]
    if len(found) != 1:
        raise CheckFailed(f"{bundle.path.name}: holds {len(found)} files of the kind {kind}, not one", AGAIN)
    return found[0]


def _check_against_lock(bundle: Bundle, lock: EnvLock) -> None:
    """Everything the lock names is there, and nothing else is."""
    needed = {f"sources/{sha256}/{name}" for sha256, name in sources_of(lock)}
    interpreters = {interpreter_member(one) for one in lock.interpreter}
    held = {member.path for member in bundle.manifest.members if member.kind in ("source", "interpreter")}
    if missing := sorted(needed - held):
        raise CheckFailed(f"{bundle.path.name}: member {missing[0]} is missing, the lock needs it", AGAIN)
    if interpreters and not interpreters & held:
        raise CheckFailed(f"{bundle.path.name}: member {sorted(interpreters)[0]} is missing, the lock needs it", AGAIN)
    if extra := sorted(held - needed - interpreters):
        raise CheckFailed(f"{bundle.path.name}: member {extra[0]} is nothing that the lock names", AGAIN)
    prefixes = {one.file: one.sha256 or one.sha256_prefix for one in lock.hub}
    for member in bundle.manifest.members:
        name = member.path.rpartition("/")[2]
        if member.kind == "weights" and not member.sha256.startswith(prefixes.get(name, "-")):
            raise CheckFailed(f"{bundle.path.name}: member {member.path} is not what the lock publishes", AGAIN)


def _own_files(bundle: Bundle) -> dict[str, Path]:
    """Member -> its place in this checkout, for lock and spec."""
    lock, spec = _only(bundle, "lock"), _only(bundle, "spec")
    return {lock: LOCKS / lock.rpartition("/")[2], spec: SPECS / spec.rpartition("/")[2]}


def _check_checkout(bundle: Bundle, lock: EnvLock) -> None:
    """LockError where this checkout has another lock or spec of that name."""
    lock_file, spec_file = _own_files(bundle).values()
    other = None
    if lock_file.exists() and toml.parse_toml(lock_file).get("digest") != lock.digest:
        other = lock_file
    elif spec_file.exists():
        spec = toml.convert(toml.parse_toml(spec_file), EnvSpec, spec_file)
        if not _is_of(lock, spec):
            other = spec_file
    if other:
        name = bundle.path.name
        raise LockError(
            f"{toml.shown(other)}: this checkout has another {lock.name} than {name}",
            f"use the tool inside it: tar xf {name} tool && cd tool && ./inv bundle --load ../{name}",
        )


def _settle_checkout(bundle: Bundle) -> None:
    """Spec and lock, where this checkout has none of that name."""
    for member, path in reversed(_own_files(bundle).items()):
        if not path.exists():
            write_atomic(path, member_bytes(bundle, member))


def _take(bundle: Bundle, file: BinaryIO, place: Place, lock: EnvLock, bar: Bar, progress: Progress) -> int:
    """Check a member, keep it where it belongs; how many bytes are new here. All is read, also what is there."""
    member = place.member
    target: Path | None = None
    match member.kind:
        case "source":
            target = cache_root() / "store" / member.sha256 / member.path.rpartition("/")[2]
        case "interpreter":
            target = next(kept_tree(one) for one in lock.interpreter if interpreter_member(one) == member.path)
        case "kernels":
            target = native_root() / member.path.rpartition("/")[2]
        case "weights":
            target = ensure_data(lock, progress, only=()) / HUB / member.path.rpartition("/")[2]
    if target is None or target.exists():
        read_member(bundle, file, place, bar.advance)
        return 0
    partial = cache_root() / "store" / f"{member.sha256}.part"  # as a download has it: whoever is second goes on
    with exclusive(partial.with_suffix(".lock"), lambda: progress.say(f"waiting for another process: {member.path}")):
        try:
            with partial.open("wb") as out:
                read_member(bundle, file, place, bar.advance, out.write)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.chmod(0o644)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
            partial.with_suffix(".lock").unlink(missing_ok=True)
    return member.bytes


def _remember_layers(image: BundledImage, plan: ImagePlan, lock: EnvLock) -> None:
    """So that a build here need not pack what is known: digests by content key, and the base's own tar."""
    for layer in image.layers:
        if layer.key:
            remember(layer.key, Known(layer.diff_id, layer.bytes))
    if lock.base:
        key = base_key(lock.base, lock.source_date_epoch)
        path = known_path(key).with_suffix(".tar")
        if not path.exists():
            _write_stream(path, plan.layers[0].stream)
            remember(key, Known(image.layers[0].diff_id, image.layers[0].bytes))


def _write_stream(path: Path, chunks: Callable[[], Iterator[bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".base.") as work:
        made = Path(work) / "base.tar"
        with made.open("wb") as out:
            out.writelines(chunks())
        made.chmod(0o644)
        made.replace(path)
