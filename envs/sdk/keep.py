"""`invoke sdk`: take an SDK in, list what is recorded, forget it; and what a run needs of it."""

from __future__ import annotations

import contextlib
import difflib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from envs.errors import CheckFailed, WrongUse
from envs.files import exclusive, sha256_file
from envs.image_archive import read_archive
from envs.paths import cache_root
from envs.platforms import host_platform
from envs.progress import Progress
from envs.sdk.folder import LAYOUT, folder_version, hash_folder, tools_folder
from envs.sdk.record import SdkFolder, SdkImage, SdkRecord, read_record, record_path, write_record


class Sdk(msgspec.Struct, frozen=True):
    """An SDK whose parts are both recorded and on this machine; their bytes are checked by who uses them."""

    record: SdkRecord
    archive: Path
    folder: Path

    @property
    def name(self) -> str:
        """As its folder is called, which has the version."""
        assert self.record.folder is not None
        return self.record.folder.name


def check_vendor(vendor: str) -> None:
    """WrongUse with the nearest name where no vendor of that name brings an SDK."""
    if vendor not in LAYOUT:
        near = difflib.get_close_matches(vendor, LAYOUT, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise WrongUse(f"no SDK of {vendor!r} is known here", f"{hint}these are: {', '.join(LAYOUT)}")


def add(vendor: str, path: Path, progress: Progress) -> SdkRecord:
    """Record an image archive or an SDK folder, and keep a copy; adding the other one completes the record.

    WrongUse where the path is neither; CheckFailed where another one is recorded.
    """
    check_vendor(vendor)
    if not path.exists():
        raise WrongUse(f"{path}: not there", "name an archive of `docker save`, or the folder of the SDK")
    with _alone(vendor, progress):
        record = read_record(vendor)
        if path.is_dir():
            changed = msgspec.structs.replace(record, folder=_add_folder(record, path, progress))
        else:
            changed = msgspec.structs.replace(record, image=_add_image(record, path, progress))
        write_record(changed)
    return changed


def remove(vendor: str, progress: Progress) -> bool:
    """Forget what is recorded and remove the copies; whether there was anything."""
    check_vendor(vendor)
    with _alone(vendor, progress):
        there = record_path(vendor).exists() or _home(vendor).exists()
        record_path(vendor).unlink(missing_ok=True)
        shutil.rmtree(_home(vendor), ignore_errors=True)
    return there


def find(vendor: str) -> Sdk | None:
    """The SDK, or None where a part is not recorded or not on this machine."""
    record = read_record(vendor)
    if lacking(record):
        return None
    assert record.image is not None
    assert record.folder is not None
    return Sdk(record, _archive(record.vendor, record.image), _folder(record.vendor, record.folder))


def lacking(record: SdkRecord) -> str:
    """Which part is not there, and where it is missing; "" where the SDK is whole."""
    if record.image is None:
        return "its image was never added"
    if record.folder is None:
        return "its folder was never added"
    if not _archive(record.vendor, record.image).is_file():
        return f"its image {record.image.file} is recorded, and not on this machine"
    if not _folder(record.vendor, record.folder).is_dir():
        return f"its folder {record.folder.name} is recorded, and not on this machine"
    return ""


def check_folder(sdk: Sdk) -> None:
    """CheckFailed where the kept folder is not the recorded one any more."""
    assert sdk.record.folder is not None
    if hash_folder(sdk.folder).sha256 != sdk.record.folder.sha256:
        raise _changed(sdk.record.folder.name, sdk.record.vendor)


def check_archive(sdk: Sdk) -> None:
    """CheckFailed where the kept archive is not the recorded one any more."""
    assert sdk.record.image is not None
    if sha256_file(sdk.archive) != sdk.record.image.sha256:
        raise _changed(sdk.record.image.file, sdk.record.vendor)


def _changed(name: str, vendor: str) -> CheckFailed:
    return CheckFailed(f"{name}: its sha256 is not the recorded one", f"`invoke sdk add {vendor} PATH` again")


def _other(path: Path, recorded: str, vendor: str) -> CheckFailed:
    return CheckFailed(
        f"{path}: its sha256 is not the recorded one ({recorded[:12]}...)",
        f"give that one, or `invoke sdk rm {vendor}` first",
    )


def _add_image(record: SdkRecord, path: Path, progress: Progress) -> SdkImage:
    found = read_archive(path)
    if found.platform != host_platform():
        raise WrongUse(f"{path}: an image for {found.platform}, and this machine is {host_platform()}")
    progress.say(f"reading {path.name}, {path.stat().st_size / 2**20:,.0f} MiB")
    with _staged(record.vendor, path.name) as staging:
        shutil.copyfile(path, staging)
        image = SdkImage(
            file=path.name, sha256=sha256_file(staging), bytes=staging.stat().st_size, image_id=found.image_id
        )
        if record.image is not None and record.image.sha256 != image.sha256:
            raise _other(path, record.image.sha256, record.vendor)
        image = record.image or image  # the same bytes under another name
        if read_archive(staging).image_id != image.image_id:
            raise WrongUse(f"{path}: it changed while it was read", "wait until it is whole")
        _publish(staging, _archive(record.vendor, image))
    return image


def _add_folder(record: SdkRecord, path: Path, progress: Progress) -> SdkFolder:
    source = tools_folder(record.vendor, path)
    hash_folder(source)  # refuses what a copy would follow or hang on
    progress.say(f"copying {source.name}")
    with _staged(record.vendor, source.name) as staging:
        shutil.copytree(source, staging, symlinks=True)
        _open_to_all(staging)
        hashed = hash_folder(staging)
        folder = SdkFolder(
            name=source.resolve().name,
            version=folder_version(source.resolve().name),
            sha256=hashed.sha256,
            files=hashed.files,
            bytes=hashed.bytes,
        )
        if record.folder is not None and record.folder.sha256 != folder.sha256:
            raise _other(path, record.folder.sha256, record.vendor)
        folder = record.folder or folder
        _publish(staging, _folder(record.vendor, folder))
    return folder


def _open_to_all(folder: Path) -> None:
    """Readable for the uid of a container, and for its owner to remove."""
    for place, _, files in os.walk(folder):
        Path(place).chmod(0o755)
        for name in files:
            path = Path(place, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _home(vendor: str) -> Path:
    return cache_root() / "sdk" / vendor


def _archive(vendor: str, image: SdkImage) -> Path:
    return _home(vendor) / image.sha256 / image.file


def _folder(vendor: str, folder: SdkFolder) -> Path:
    return _home(vendor) / folder.sha256 / folder.name


@contextlib.contextmanager
def _alone(vendor: str, progress: Progress) -> Iterator[None]:
    lock = cache_root() / "locks" / f"sdk-{vendor}"
    with exclusive(lock, lambda: progress.say(f"waiting for another process that works on the SDK of {vendor}")):
        yield


@contextlib.contextmanager
def _staged(vendor: str, name: str) -> Iterator[Path]:
    """A place beside the final ones, gone afterwards, with what a killed process left there."""
    root = _home(vendor) / ".incoming"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    try:
        yield root / name
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _publish(staging: Path, final: Path) -> None:
    """Move it into its place, in that of a changed one."""
    shutil.rmtree(final.parent, ignore_errors=True)
    final.parent.mkdir(parents=True)
    staging.rename(final)
