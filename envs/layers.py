"""Deterministic layers of an environment tree, their exact size known before the first byte is written.

The bytes depend on paths, contents, the executable bit and the epoch: not on umask, owner, clock or the order
of folders. They are never stored, but streamed from the tree; their digests are remembered by content.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from envs.errors import BuildError
from envs.files import sha256_file, write_atomic
from envs.finish import normalised
from envs.image_tar import Entry, tar_size, tar_stream
from envs.paths import cache_root

LAYOUT_VERSION = 2  # part of every key: raise it when the same input gives other bytes
IMAGE_ROOT = "opt/edgekiln"  # where the tree lies in the image
MOUNT_POINTS = ("app", "data", "workspace")  # the root is read-only at run time, so they must be there
BIG_BYTES = 8 << 20  # a distribution this big gets a layer of its own
MOST_BIG = 80  # overlay file systems stack at most 127 layers
PART_BYTES = 256 << 20  # a bigger layer is cut: engines and registries take several at a time
NOT_IN_IMAGE = frozenset({".edgekiln", "__pycache__"})  # our record; what a run in place may have left


class Known(msgspec.Struct, frozen=True):
    """What is remembered of a layer once it was written."""

    diff_id: str  # sha256:... of the uncompressed tar
    bytes: int


class Layer:
    """One layer of an image: its size is known at once, its digest once it was streamed to the end.

    `settle` is told the digest when it is first known, and None where a remembered one did not hold.
    """

    def __init__(
        self,
        name: str,
        comment: str,
        known: Known | int,
        source: Path,
        chunks: Callable[[], Iterator[bytes]],
        settle: Callable[[Known | None], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.comment = comment
        self.bytes = known if isinstance(known, int) else known.bytes
        self.diff_id = None if isinstance(known, int) else known.diff_id
        self._source = source
        self._chunks = chunks
        self._settle = settle

    def stream(self) -> Iterator[bytes]:
        """The layer's tar. BuildError where it is not what was remembered, which is forgotten then."""
        digest, count = hashlib.sha256(), 0
        for chunk in self._chunks():
            digest.update(chunk)
            count += len(chunk)
            yield chunk
        seen = Known(f"sha256:{digest.hexdigest()}", count)
        if count != self.bytes or self.diff_id not in (None, seen.diff_id):
            self._settle(None)
            raise BuildError(
                f"layer {self.name}: {self._source} no longer holds what was packed from it before",
                "remove it and build again",
            )
        if self.diff_id is None:
            self.diff_id = seen.diff_id
            self._settle(seen)


def known_path(key: str) -> Path:
    """Where the digest of the layer with that content key is remembered."""
    return cache_root() / "layers" / f"{key}.json"


def recall(key: str) -> Known | None:
    """What is known of that layer, or None."""
    try:
        return msgspec.json.decode(known_path(key).read_bytes(), type=Known)
    except (OSError, msgspec.DecodeError):
        return None  # a cache: made again where it can't be read


def remember(key: str, known: Known) -> None:
    write_atomic(known_path(key), msgspec.json.encode(known))


class Part(msgspec.Struct, frozen=True):
    """The files of one layer: paths relative to the tree, and the sha256 that a RECORD gives for them."""

    name: str
    comment: str
    files: tuple[Entry, ...]


class _Remembered(msgspec.Struct, frozen=True):
    """One layer as `TREE.layers.json` has it."""

    name: str
    comment: str
    key: str
    known: Known


class _TreeRecord(msgspec.Struct, frozen=True):
    """`TREE.layers.json`: nothing of the tree must be looked at while it holds."""

    layout: int
    epoch: int
    layers: tuple[_Remembered, ...]


def tree_layers(tree: Path, epoch: int) -> tuple[Layer, ...]:
    """The layers of an environment tree: interpreter, big distributions, the rest.

    Where `TREE.layers.json` remembers them nothing is walked or hashed. Where it does not, a layer whose
    files were seen in another tree still has its digest: only what is new must be read.
    """
    path = tree.with_name(tree.name + ".layers.json")
    parts = functools.cache(lambda: split(tree))
    layers: dict[str, Layer] = {}  # by content key

    def chunks(name: str) -> Iterator[bytes]:
        part = next((part for part in parts() if part.name == name), None)
        if part is None:
            raise BuildError(f"{tree}: the files of layer {name} are gone", f"remove {tree} and build again")
        return tar_stream(_in_image(part), epoch, functools.partial(_open, tree))

    def settle(key: str, known: Known | None) -> None:
        if known is None:
            path.unlink(missing_ok=True)
            known_path(key).unlink(missing_ok=True)
        else:
            remember(key, known)
            write_record()

    def write_record() -> None:
        done = tuple(
            _Remembered(layer.name, layer.comment, key, Known(layer.diff_id, layer.bytes))
            for key, layer in layers.items()
            if layer.diff_id
        )
        if len(done) == len(layers):
            write_atomic(path, msgspec.json.encode(_TreeRecord(LAYOUT_VERSION, epoch, done)))

    def add(name: str, comment: str, key: str, known: Known | int) -> None:
        read, told = functools.partial(chunks, name), functools.partial(settle, key)
        layers[key] = Layer(name, comment, known, tree, read, told)

    if (record := _read_record(path, epoch)) is not None:
        for old in record.layers:
            add(old.name, old.comment, old.key, old.known)
        return tuple(layers.values())
    hashes = recorded_hashes(tree)
    for part in parts():
        key = content_key(tree, part, hashes, epoch)
        add(part.name, part.comment, key, recall(key) or tar_size(_in_image(part)))
    write_record()
    return tuple(layers.values())


def split(tree: Path) -> tuple[Part, ...]:
    """Who goes where: the interpreter, then the big distributions by size, then the rest of site-packages.

    An engine shares only what comes before a change, and what is biggest changes least. The nvidia wheels come as
    one: they are released together and none is used without the others.
    """
    site = site_packages(tree)
    inside = f"{site.relative_to(tree).as_posix()}/"
    owners = _owners(tree, site)
    entries = list(walk(tree))
    size: dict[str, int] = {}
    for entry in entries:
        if owner := owners.get(entry.path):
            size[owner] = size.get(owner, 0) + entry.size
    big = sorted((name for name in size if size[name] >= BIG_BYTES), key=lambda name: (-size[name], name))[:MOST_BIG]
    groups: dict[str, list[Entry]] = {name: [] for name in ("interpreter", *big, "packages")}
    for entry in entries:
        if not entry.path.startswith(inside):
            groups["interpreter"].append(entry)
        elif entry.kind != "dir":  # a layer names the folders of its own files
            owner = owners.get(entry.path, "packages")
            groups[owner if owner in groups else "packages"].append(entry)
    comments = {
        "interpreter": "the interpreter and its standard library",
        "packages": "the other Python packages",
    }
    return tuple(
        Part(part, comments.get(name, f"the Python package {name}"), files)
        for name, found in groups.items()
        for part, files in _cut(name, found)
    )


def _cut(name: str, files: list[Entry]) -> Iterator[tuple[str, tuple[Entry, ...]]]:
    """NAME, NAME-2, ...: pieces in the order of paths, none above PART_BYTES but for a single file that is."""
    pieces: list[list[Entry]] = []
    left = 0
    for entry in sorted(files, key=lambda entry: os.fsencode(entry.path)):
        if not pieces or entry.size > left:
            pieces.append([])
            left = PART_BYTES
        pieces[-1].append(entry)
        left -= entry.size
    for number, piece in enumerate(pieces, 1):
        yield name if number == 1 else f"{name}-{number}", tuple(piece)


def site_packages(tree: Path) -> Path:
    """The tree's site-packages. BuildError where there is not exactly one."""
    # conda's python has a link lib/python3.1 beside the folder lib/python3.10
    found = sorted(path for path in tree.glob("lib/python3.*/site-packages") if not path.parent.is_symlink())
    if len(found) != 1:
        raise BuildError(
            f"{tree}: no environment tree, lib/python3.*/site-packages is missing",
            "remove it and build again",
        )
    return found[0]


def walk(tree: Path) -> Iterator[Entry]:
    """Everything in the tree with normalised modes; symlinks are kept and not followed."""
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(tree / folder) as found:
            for item in found:
                path = f"{folder}{item.name}"
                if item.name in NOT_IN_IMAGE:
                    continue
                if item.is_symlink():
                    yield Entry(path, "symlink", 0o777, link=str(Path(item.path).readlink()))
                elif item.is_dir():
                    yield Entry(path, "dir", 0o755)
                    folders.append(f"{path}/")
                elif item.is_file():
                    status = item.stat()
                    executable = status.st_mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
                    yield Entry(path, "file", 0o755 if executable else 0o644, status.st_size)
                else:
                    raise BuildError(f"{tree / path}: neither file, folder nor link", "remove it and build again")


def recorded_hashes(tree: Path) -> dict[str, str]:
    """Path in the tree -> hash, for every file that a RECORD gives one for."""
    site = site_packages(tree)
    inside = site.relative_to(tree).as_posix()
    return {f"{inside}/{row[0]}": row[1] for _, rows in _records(site) for row in rows if row[1]}


def content_key(tree: Path, part: Part, hashes: dict[str, str], epoch: int) -> str:
    """What the layer's bytes follow from; files with a hash in a RECORD are not read."""
    digest = hashlib.sha256(f"{LAYOUT_VERSION} {epoch}\0".encode())
    for entry in sorted(part.files, key=lambda entry: os.fsencode(entry.path)):
        content = entry.link
        if entry.kind == "file":
            content = hashes.get(entry.path) or sha256_file(tree / entry.path)
        digest.update(os.fsencode(f"{entry.path}\0{entry.kind}\0{entry.mode:o}\0{entry.size}\0{content}\0"))
    return digest.hexdigest()


def _records(site: Path) -> Iterator[tuple[str, list[list[str]]]]:
    for record in sorted(site.glob("*.dist-info/RECORD")):
        rows = csv.reader(io.StringIO(record.read_text("utf-8")))
        yield normalised(re.sub(r"-[^-]+\.dist-info$", "", record.parent.name)), [row for row in rows if row]


def _owners(tree: Path, site: Path) -> dict[str, str]:
    """Path in the tree -> distribution; the first by name where two claim a file."""
    inside = site.relative_to(tree).as_posix()
    owners: dict[str, str] = {}
    for name, rows in _records(site):
        for row in rows:
            owners.setdefault(f"{inside}/{row[0]}", "nvidia" if name.startswith("nvidia-") else name)
    return owners


def _in_image(part: Part) -> list[Entry]:
    """The part's entries at their place in the image, with every folder above them."""
    entries = {f"{IMAGE_ROOT}/{entry.path}": entry for entry in part.files}
    placed = {path: msgspec.structs.replace(entry, path=path) for path, entry in entries.items()}
    above = {str(folder) for path in placed for folder in Path(path).parents} - {"."}
    if part.name == "interpreter":
        above.update(MOUNT_POINTS)
    for folder in above - set(placed):
        placed[folder] = Entry(folder, "dir", 0o755)
    return list(placed.values())


def _open(tree: Path, entry: Entry) -> BinaryIO:
    return (tree / entry.path.removeprefix(f"{IMAGE_ROOT}/")).open("rb")


def _read_record(path: Path, epoch: int) -> _TreeRecord | None:
    try:
        record = msgspec.json.decode(path.read_bytes(), type=_TreeRecord)
    except (OSError, msgspec.DecodeError):
        return None
    return record if (record.layout, record.epoch) == (LAYOUT_VERSION, epoch) else None
