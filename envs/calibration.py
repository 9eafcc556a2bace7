"""The user's own calibration pictures: looked at before anything is built, then copied into the run."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from envs.contract import Picture
from envs.errors import WrongUse
from envs.files import explain_os_error, sha256_file, write_atomic
from envs.progress import Progress
from envs.workspace import LARGEST_INPUT_BYTES

COLLECTION = "own"
INPUT = "input/calibration"
SIGNATURES = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"BM", "bmp"), (b"RIFF", "webp"))
KINDS = "JPEG, PNG, BMP and WebP"


class OwnPicture(msgspec.Struct, frozen=True, kw_only=True):
    """A picture of the user's: where it is, what it is called below the folder, and what it holds."""

    path: Path
    name: str
    kind: str  # a file name's ending
    sha256: str


def own_pictures(folder: Path, judging: Collection[Picture]) -> tuple[OwnPicture, ...]:
    """All pictures in the folder and below, by name; hidden files are passed over.

    WrongUse for a folder without any, with more than 4 GiB, with a file that can't be read or is no picture, or with
    one of the pictures that judge.
    """
    if not folder.is_dir():
        raise WrongUse(f"--calibration {folder}: no such folder", "name a folder of pictures")
    files = sorted(_files(folder), key=lambda path: path.relative_to(folder).as_posix())
    if not files:
        raise WrongUse(f"--calibration {folder}: no pictures in it", f"{KINDS} are pictures")
    if (total := sum(file.stat().st_size for file in files)) > LARGEST_INPUT_BYTES:
        raise WrongUse(
            f"--calibration {folder}: its {len(files)} files take {total / 2**30:.1f} GiB", "give at most 4 GiB"
        )
    judges = {picture.sha256 for picture in judging}
    found = tuple(_picture(file, folder) for file in files)
    for one in found:
        if one.sha256 in judges:
            raise WrongUse(
                f"--calibration {folder}: {one.name} is a picture that judges the result", "leave it out of the folder"
            )
    return found


def bring_pictures(found: Sequence[OwnPicture], run_folder: Path, progress: Progress) -> tuple[Picture, ...]:
    """Copies of them in the run, numbered: a vendor's tool hangs on names that are not plain ASCII.

    `input/calibration.json` there maps each new name to the old one.
    """
    made = []
    for number, one in enumerate(found, 1):
        path = f"{INPUT}/{number:04}.{one.kind}"
        target = run_folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(one.path, target)
        except OSError as error:
            raise explain_os_error(error) or _unreadable(one.path, error) from error
        made.append(Picture(path=path, sha256=one.sha256, collection=COLLECTION, place="run"))
    names = {picture.path: one.name for picture, one in zip(made, found, strict=True)}
    write_atomic(run_folder / f"{INPUT}.json", msgspec.json.format(msgspec.json.encode(names), indent=1) + b"\n")
    progress.say(f"calibration: {len(made)} pictures of yours, copied as {made[0].path}, ...; {INPUT}.json names them")
    return tuple(made)


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _picture(path: Path, folder: Path) -> OwnPicture:
    try:
        with path.open("rb") as file:
            head = file.read(16)
        sha256 = sha256_file(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    kind = next((kind for start, kind in SIGNATURES if head.startswith(start)), "")
    if not kind or (kind == "webp" and head[8:12] != b"WEBP"):
        raise WrongUse(
            f"--calibration {folder}: {path.relative_to(folder).as_posix()} is no picture",
            f"leave it out of the folder; {KINDS} are pictures",
        )
    return OwnPicture(path=path, name=path.relative_to(folder).as_posix(), kind=kind, sha256=sha256)


def _unreadable(path: Path, error: OSError) -> WrongUse:
    return WrongUse(f"--calibration: {path} can't be read: {error.strerror}", "make it readable or leave it out")
