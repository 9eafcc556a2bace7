"""Compiled kernels as files: the package that pipelines/native loads, and the same as one tar in a bundle."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from envs import sources
from envs.bundle.read import member_bytes, open_bundle
from envs.errors import CheckFailed
from envs.files import write_atomic
from envs.image_tar import tar_stream
from envs.layers import walk
from envs.paths import cache_root

PACKAGE = "edgekiln_native"
RECORD = "kernels.json"
INIT = b'"""Compiled kernels, loaded by pipelines.native."""\n'


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """kernels.json: what pipelines/native checks before it loads a library."""

    platform: str
    compiler: str
    sources: str  # hex sha256 over the C files, as pipelines/native counts it
    files: dict[str, str]  # level -> hex sha256 of LEVEL.so


def native_root() -> Path:
    """All compiled kernels of this user: KEY/edgekiln_native, and KEY.tar where a bundle has brought them."""
    return cache_root() / "native"


def kept_archive(key: str) -> Path:
    """Where a bundle leaves the kernels of that key, there or not."""
    return native_root() / f"{key}.tar"


def sources_sha256(files: Mapping[str, bytes]) -> str:
    """Hex sha256 over the C files: each one's name and sha256, in the order of names."""
    lines = (f"{name} {hashlib.sha256(content).hexdigest()}\n" for name, content in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_package(folder: Path, record: Record, libraries: Mapping[str, bytes]) -> None:
    """The package into `folder`, which is made; readable for whoever a container runs as."""
    package = folder / PACKAGE
    package.mkdir(parents=True)
    for one in (folder, package):
        one.chmod(0o755)
    for level, content in libraries.items():
        write_atomic(package / f"{level}.so", content)
    write_atomic(package / "__init__.py", INIT)
    write_atomic(package / RECORD, msgspec.json.format(msgspec.json.encode(record)))


def pack(folder: Path, epoch: int, target: Path) -> None:
    """A folder of kernels as a tar whose bytes follow from it alone."""
    with target.open("wb") as out:
        out.writelines(tar_stream(walk(folder), epoch, lambda entry: (folder / entry.path).open("rb")))


def archives(key: str) -> Iterator[tuple[str, bytes]]:
    """The tars of that key that a bundle has brought or that the named bundles hold, each with its place."""
    if (kept := kept_archive(key)).is_file():
        yield str(kept), kept.read_bytes()
    for path in sources.bundles():
        bundle = open_bundle(path)
        if any(place.member.path == f"kernels/{key}.tar" for place in bundle.places):
            yield path.name, member_bytes(bundle, f"kernels/{key}.tar")


def read_archive(content: bytes, platform: str, wanted_sources: str) -> tuple[Record, dict[str, bytes]]:
    """Record and libraries out of a tar. CheckFailed where they are others, not whole, or more than that."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            files = {one.name: read.read() for one in tar if one.isreg() and (read := tar.extractfile(one))}
        record = msgspec.json.decode(files.pop(f"{PACKAGE}/{RECORD}"), type=Record)
    except (tarfile.TarError, KeyError, msgspec.DecodeError) as error:
        raise CheckFailed(f"no archive of kernels ({error})") from error
    files.pop(f"{PACKAGE}/__init__.py", None)
    libraries = {Path(name).stem: content for name, content in files.items()}
    if (record.platform, record.sources) != (platform, wanted_sources):
        raise CheckFailed("kernels of other sources or for another platform")
    if {level: hashlib.sha256(content).hexdigest() for level, content in libraries.items()} != record.files:
        raise CheckFailed("kernels that are damaged")
    return record, libraries
