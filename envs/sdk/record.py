"""`envs/locks/VENDOR.sdk.toml`: which SDK of a vendor is used here, by sha256; no machine's path, no clock."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import tomli_w

from envs import toml
from envs.files import write_atomic
from envs.lock import Locked
from envs.paths import LOCKS

VERSION = 1
HEAD = "# made by `invoke sdk add {vendor} PATH`: `invoke sdk rm {vendor}` forgets it\n"


class SdkImage(Locked, frozen=True, kw_only=True):
    """The vendor's image, as its archive (`docker save`)."""

    file: str
    sha256: str  # of the archive
    bytes: int
    image_id: str  # what `docker load` yields


class SdkFolder(Locked, frozen=True, kw_only=True):
    """The vendor's tools. `sha256` is over the names, contents and executable bits of all files, and links' targets."""

    name: str
    version: str = ""  # as the folder's name has it; "" where it has none
    sha256: str
    files: int
    bytes: int


class SdkRecord(Locked, frozen=True, kw_only=True):
    """Both parts of an SDK; one of them may not have been added yet."""

    version: int = VERSION
    vendor: str
    image: SdkImage | None = None
    folder: SdkFolder | None = None

    @property
    def identity(self) -> str:
        """Hex sha256 over both parts; "" where one is missing."""
        if self.image is None or self.folder is None:
            return ""
        return hashlib.sha256(f"{self.image.image_id} {self.folder.sha256}".encode()).hexdigest()


def record_path(vendor: str) -> Path:
    """Where the record of that vendor is, there or not."""
    return LOCKS / f"{vendor}.sdk.toml"


def read_record(vendor: str) -> SdkRecord:
    """What is recorded, nothing where there is no record. SpecError where the file can't be read."""
    path = record_path(vendor)
    if not path.exists():
        return SdkRecord(vendor=vendor)
    return toml.convert(toml.parse_toml(path), SdkRecord, path)


def write_record(record: SdkRecord) -> None:
    """Write it, always the same bytes for the same record."""
    tables = {"version": record.version, **msgspec.to_builtins(record)}
    write_atomic(record_path(record.vendor), (HEAD.format(vendor=record.vendor) + tomli_w.dumps(tables)).encode())
