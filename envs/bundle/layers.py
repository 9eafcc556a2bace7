"""An image's layers in a bundle: plain tars, compressed one by one; what they are is their diff id."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import zstandard

from envs.bundle.manifest import BundledImage, BundledLayer, Member
from envs.bundle.read import BLOCK, Bundle, open_member
from envs.errors import CheckFailed
from envs.files import sha256_file
from envs.image import ImagePlan
from envs.layers import Known, Layer, content_key, recorded_hashes, split
from envs.lock import EnvLock
from envs.progress import Progress

LEVEL = 3
LARGEST_WINDOW = 8 << 20  # bytes of memory that reading one may ask for


def pack_layers(
    plan: ImagePlan, tree: Path, work: Path, progress: Progress
) -> tuple[BundledImage, list[tuple[Member, Path]]]:
    """Compress the plan's layers into the folder `work`; those that a call before has left there are kept."""
    work.mkdir(parents=True, exist_ok=True)
    hashes = recorded_hashes(tree)
    keys = {part.name: content_key(tree, part, hashes, plan.epoch) for part in split(tree)}
    layers, pieces = [], []
    for layer in plan.layers:
        path = _packed(layer, work, progress)
        name = f"layers/{path.name}"
        pieces.append((Member(path=name, kind="layer", sha256=sha256_file(path), bytes=path.stat().st_size), path))
        layers.append(
            BundledLayer(
                name=layer.name,
                comment=layer.comment,
                key=keys.get(layer.name, ""),
                diff_id=str(layer.diff_id),
                bytes=layer.bytes,
                member=name,
            )
        )
    unique = {member.path: (member, path) for member, path in pieces}  # a base image may have a layer twice
    image = BundledImage(image_id=plan.image_id, description=plan.description, layers=tuple(layers))
    return image, list(unique.values())


def _packed(layer: Layer, work: Path, progress: Progress) -> Path:
    if layer.diff_id and (path := _place(work, layer.diff_id)).exists():
        return path
    temporary = work / f".{layer.name}.{os.getpid()}"
    bar = progress.bar(f"compressing layer {layer.name}", layer.bytes)
    squeeze = zstandard.ZstdCompressor(level=LEVEL).compressobj(size=layer.bytes)
    try:
        with temporary.open("wb") as out:
            for chunk in layer.stream():
                out.write(squeeze.compress(chunk))
                bar.advance(len(chunk))
            out.write(squeeze.flush())
        path = _place(work, str(layer.diff_id))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        bar.close()
    return path


def _place(work: Path, diff_id: str) -> Path:
    return work / f"{diff_id.removeprefix('sha256:')}.tar.zst"


def bundled_plan(bundle: Bundle, image: BundledImage, lock: EnvLock) -> ImagePlan:
    """The image as it can be streamed out of the bundle; every layer is checked against its diff id on the way."""
    layers = tuple(
        Layer(
            one.name,
            one.comment,
            Known(one.diff_id, one.bytes),
            bundle.path,
            functools.partial(unpacked, bundle, one),
        )
        for one in image.layers
    )
    return ImagePlan(
        name=lock.name,
        lock_digest=lock.digest,
        platform=lock.platform,
        epoch=lock.source_date_epoch,
        description=image.description,
        layers=layers,
        drift=lock.drift,
    )


def unpacked(bundle: Bundle, layer: BundledLayer) -> Iterator[bytes]:
    """The layer's tar. CheckFailed where it is no zstd stream or more than was promised: it may be a bomb."""
    left = layer.bytes
    opener = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
    with open_member(bundle, bundle.place(layer.member)) as packed:
        try:
            with opener.stream_reader(packed, closefd=False) as plain:
                while block := plain.read(BLOCK):
                    if (left := left - len(block)) < 0:
                        raise CheckFailed(f"{bundle.path.name}: {layer.member} holds more than its manifest says")
                    yield block
        except zstandard.ZstdError as error:
            raise CheckFailed(f"{bundle.path.name}: {layer.member} can't be unpacked: {error}") from error
