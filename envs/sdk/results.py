"""What a vendor's container left, kept by what it was made of: a conversion there takes minutes to hours."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

import msgspec

from envs.contract import OutsideReport
from envs.files import sha256_file

REPORT = "outside.json"


def key_of(identity: str, image: str, prepared: Path) -> str:
    """Over the SDK, its image and every prepared file, names and contents."""
    digest = hashlib.sha256(f"{identity} {image}\n".encode())
    for path in sorted(path for path in prepared.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(prepared).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def recall(kept: Path, home: Path) -> OutsideReport | None:
    """Lay out what is kept there; None where there is nothing, or not every file is the one that was left."""
    try:
        report = msgspec.json.decode((kept / REPORT).read_bytes(), type=OutsideReport)
    except (OSError, msgspec.DecodeError):
        return None
    files = [(kept / file.path, file.sha256) for file in report.files]
    if not all(path.is_file() and not path.is_symlink() and sha256_file(path) == sha256 for path, sha256 in files):
        shutil.rmtree(kept, ignore_errors=True)
        return None
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(kept, home, symlinks=True)
    return report


def remember(home: Path, kept: Path) -> None:
    """Keep a copy, whole or not at all."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    staging = kept.with_name(f".{kept.name}-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        shutil.copytree(home, staging, symlinks=True)
        with contextlib.suppress(OSError):  # another run was faster
            staging.rename(kept)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
