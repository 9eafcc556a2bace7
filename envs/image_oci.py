"""An image as files: an OCI layout (a folder), or one archive as `docker save` writes it. No engine is needed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from envs.errors import WrongUse
from envs.files import sha256_file, write_atomic
from envs.image import MANIFEST_TYPE, ImagePlan, short_digest
from envs.layers import Layer
from envs.progress import Bar, Progress

Kind = Literal["oci", "docker-archive"]


class Output(msgspec.Struct, frozen=True):
    """Where an image is written: `oci:DIR` or `docker-archive:FILE`, as skopeo names them."""

    kind: Kind
    path: Path


def parse_output(text: str) -> Output:
    """WrongUse for anything but the two kinds, or a target that can't be replaced safely."""
    kind, _, path = text.partition(":")
    if kind not in ("oci", "docker-archive") or not path:
        raise WrongUse(f"--output {text!r}", "write it as in oci:DIR or docker-archive:FILE.tar")
    target = Path(path).absolute()
    if kind == "oci" and target.exists() and not (target / "oci-layout").is_file():
        raise WrongUse(f"--output {text}: it is there and no OCI layout", "name a new folder or an OCI layout")
    if kind == "docker-archive" and target.is_dir():
        raise WrongUse(f"--output {text}: it is a folder", "name a file")
    return Output(kind, target)  # type: ignore[arg-type]


def write_output(plan: ImagePlan, output: Output, progress: Progress) -> None:
    """Write the image there; what was there before stays until the new one is whole."""
    output.path.parent.mkdir(parents=True, exist_ok=True)
    bar = progress.bar(f"writing {output.path.name}", plan.archive_size())
    try:
        (_write_layout if output.kind == "oci" else _write_archive)(plan, output.path, bar)
    finally:
        bar.close()


def _write_archive(plan: ImagePlan, path: Path, bar: Bar) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in plan.archive():
                file.write(chunk)
                bar.advance(len(chunk))
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _write_layout(plan: ImagePlan, folder: Path, bar: Bar) -> None:
    """Blobs the layout has already are kept; the index, which makes the image visible, is written last."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for layer in plan.layers:
        if layer.diff_id and _has(blobs, layer):
            bar.advance(layer.bytes)
        else:
            _write_layer(layer, blobs, bar)
    for content in (plan.config(), manifest := plan.manifest()):
        write_atomic(blobs / hashlib.sha256(content).hexdigest(), content)
    system, _, architecture = plan.platform.partition("/")
    entry = {
        "mediaType": MANIFEST_TYPE,
        "digest": plan.manifest_digest,
        "size": len(manifest),
        "annotations": {"org.opencontainers.image.ref.name": short_digest(plan.lock_digest)},
        "platform": {"architecture": architecture, "os": system},
    }
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
    write_atomic(folder / "index.json", msgspec.json.encode(index, order="deterministic"))
    write_atomic(folder / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')


def _has(blobs: Path, layer: Layer) -> bool:
    """Whether a whole blob of an earlier write is there: its bytes are read, names prove nothing."""
    path = blobs / str(layer.diff_id).removeprefix("sha256:")
    return path.is_file() and path.stat().st_size == layer.bytes and f"sha256:{sha256_file(path)}" == layer.diff_id


def _write_layer(layer: Layer, blobs: Path, bar: Bar) -> None:
    with _temporary(blobs) as temporary:
        with temporary.open("wb") as file:
            for chunk in layer.stream():
                file.write(chunk)
                bar.advance(len(chunk))
        temporary.chmod(0o644)
        temporary.replace(blobs / str(layer.diff_id).removeprefix("sha256:"))


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A file in a folder of its own beside its future place; both go, whatever happens."""
    work = Path(tempfile.mkdtemp(dir=folder, prefix=".layer."))
    try:
        yield work / "blob"
    finally:
        shutil.rmtree(work, ignore_errors=True)
