"""An image's bytes -> its configuration and layers: from a `docker save` stream, an OCI layout, or a plan."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from envs.engines.base import LOCK_LABEL
from envs.errors import CheckFailed, WrongUse
from envs.image import short_digest
from envs.layers import Layer
from envs.progress import Progress
from envs.verify.tars import BLOCK, GZIP, ZSTD, Keep, ReadLayer, keep_nothing, read_layer, readable, watched

DOCUMENT_BYTES = 16 << 20  # a manifest or configuration above this is none


class ReadImage(msgspec.Struct, frozen=True):
    """An image as its bytes say: the configuration, and the layers lowest first."""

    config: bytes
    layers: tuple[ReadLayer, ...]
    manifest: bytes = b""  # where the image has one


class _Saved(msgspec.Struct, frozen=True):
    """The fields of manifest.json that lead to the parts."""

    config: str = msgspec.field(name="Config")
    layers: tuple[str, ...] = msgspec.field(name="Layers")


class _Descriptor(msgspec.Struct, frozen=True):
    digest: str
    annotations: dict[str, str] = {}


class _Index(msgspec.Struct, frozen=True):
    manifests: tuple[_Descriptor, ...]


class _Manifest(msgspec.Struct, frozen=True):
    config: _Descriptor
    layers: tuple[_Descriptor, ...]


class _Labels(msgspec.Struct, frozen=True):
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)


class _Config(msgspec.Struct, frozen=True):
    config: _Labels = _Labels()


def read_saved(chunks: Iterable[bytes], *, facts: bool, keep: Keep = keep_nothing) -> ReadImage:
    """The one image of a `docker save` stream, whatever the order of its members. CheckFailed where it holds none."""
    documents: dict[str, bytes] = {}
    layers: dict[str, ReadLayer] = {}
    links: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=readable(chunks), mode="r|", bufsize=BLOCK) as tar:
            for info in tar:
                tar.members.clear()  # type: ignore[attr-defined]
                if info.issym() or info.islnk():
                    folder = posixpath.dirname(info.name) if info.issym() else ""
                    links[info.name] = posixpath.normpath(posixpath.join(folder, info.linkname))
                elif (content := tar.extractfile(info)) is not None:
                    _take(info, content, documents, layers, facts, keep)
        saved = msgspec.json.decode(documents["manifest.json"], type=tuple[_Saved, ...])
        if len(saved) != 1:
            raise CheckFailed(f"the archive holds {len(saved)} images", "save one image alone")
        config = documents[saved[0].config]
        return ReadImage(config, tuple(layers[links.get(name, name)] for name in saved[0].layers))
    except KeyError as error:
        raise CheckFailed(f"the image archive lacks {error}", "save or build it again") from error
    except (tarfile.TarError, msgspec.DecodeError) as error:
        raise CheckFailed(f"no image archive: {error}", "make it with `docker save`, or build it again") from error


def _take(
    info: tarfile.TarInfo,
    content: IO[bytes],
    documents: dict[str, bytes],
    layers: dict[str, ReadLayer],
    facts: bool,
    keep: Keep,
) -> None:
    """A member is a document where it begins as JSON does and is no tar; every other one may be a layer."""
    first = content.read(tarfile.BLOCKSIZE)
    if first[:1] in (b"{", b"[") and first[257:262] != b"ustar" and info.size <= DOCUMENT_BYTES:
        documents[info.name] = first + content.read()
    elif info.size >= 2 * tarfile.BLOCKSIZE or first.startswith((GZIP, ZSTD)):
        layers[info.name] = read_layer(readable(_all(first, content)), info.name, facts=facts, keep=keep)


def _all(first: bytes, content: IO[bytes]) -> Iterator[bytes]:
    yield first
    while block := content.read(BLOCK):
        yield block


def read_layout(folder: Path, wanted: str, *, facts: bool, keep: Keep = keep_nothing) -> ReadImage:
    """The image of an OCI layout; of several the one whose manifest digest or reference name is `wanted`."""
    index = _document(folder / "index.json", _Index)
    named = [one for one in index.manifests if wanted in (one.digest, *one.annotations.values())]
    chosen = named or list(index.manifests)
    if len(chosen) != 1:
        names = ", ".join(short_digest(one.digest) for one in index.manifests) or "none"
        raise WrongUse(
            f"oci:{folder} holds several images or none ({names})", "write the image into a layout of its own"
        )
    described = _blob(folder, chosen[0].digest)
    manifest = _document(described, _Manifest)
    layers = []
    for one in manifest.layers:
        with _blob(folder, one.digest).open("rb") as file:
            layers.append(read_layer(file, f"blob {short_digest(one.digest)}", facts=facts, keep=keep))
    return ReadImage(_blob(folder, manifest.config.digest).read_bytes(), tuple(layers), described.read_bytes())


def read_layers(
    config: bytes, layers: Sequence[Layer], label: str, progress: Progress, facts: bool, keep: Keep = keep_nothing
) -> ReadImage:
    """An image given as its configuration and layers, each streamed to its end."""
    bar = progress.bar(label, sum(layer.bytes for layer in layers))
    try:
        made = []
        for layer in layers:
            file = readable(watched(layer.stream(), bar))
            made.append(read_layer(file, f"layer {layer.name}", facts=facts, keep=keep))
        return ReadImage(config, tuple(made))
    finally:
        bar.close()


def lock_label(config: bytes) -> str:
    """The lock digest that an image says it was made from; "" where it says none that can be read."""
    try:
        return (msgspec.json.decode(config, type=_Config).config.labels or {}).get(LOCK_LABEL, "")
    except msgspec.DecodeError:
        return ""


def _document(path: Path, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise CheckFailed(f"{path}: missing", "this is no whole OCI layout: write it again") from error
    except msgspec.DecodeError as error:
        raise CheckFailed(f"{path}: {error}", "this is no whole OCI layout: write it again") from error


def _blob(folder: Path, digest: str) -> Path:
    algorithm, _, name = digest.partition(":")
    path = folder / "blobs" / algorithm / name
    if not name.isalnum() or not algorithm.isalnum() or not path.is_file():
        raise CheckFailed(f"{folder}: the blob {digest!r} is missing", "write the layout again")
    return path
