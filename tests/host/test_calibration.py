"""The user's own calibration pictures: refused in one line, or copied under names that no tool hangs on."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import calibration
from envs.calibration import bring_pictures, own_pictures
from envs.contract import Picture
from envs.errors import EdgekilnError, WorkspaceError, WrongUse
from envs.progress import Silent

JPEG, PNG = b"\xff\xd8\xff\xe0 a photograph", b"\x89PNG\r\n\x1a\n a drawing"
BMP, WEBP = b"BM a bitmap", b"RIFF\x10\0\0\0WEBPVP8 "


def folder_of(place: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


def refused(folder: Path, judging: tuple[Picture, ...] = ()) -> str:
    with pytest.raises(WrongUse) as caught:
        own_pictures(folder, judging)
    assert "\n" not in str(caught.value)
    assert caught.value.message.startswith("--calibration")
    return str(caught.value)


def test_each_kind_is_known_by_its_content(tmp_path: Path) -> None:
    """A name's ending says nothing."""
    found = own_pictures(folder_of(tmp_path, {"a.png": JPEG, "b": PNG, "c.txt": BMP, "d.jpg": WEBP}), ())
    assert [(one.name, one.kind) for one in found] == [
        ("a.png", "jpg"),
        ("b", "png"),
        ("c.txt", "bmp"),
        ("d.jpg", "webp"),
    ]
    assert found[0].sha256 == hashlib.sha256(JPEG).hexdigest()


def test_folders_inside_are_looked_into_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    files = {"cats/1.jpg": JPEG, "cats/.DS_Store": b"x", ".thumbs/1.jpg": JPEG, "0.png": PNG}
    assert [one.name for one in own_pictures(folder_of(tmp_path, files), ())] == ["0.png", "cats/1.jpg"]


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"<html>", b"RIFF\x10\0\0\0WAVEfmt ", b"%PDF-1.7"])
def test_what_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    folder_of(tmp_path, {"a.jpg": JPEG, "sub/b.jpg": content})
    assert "sub/b.jpg is no picture; leave it out" in refused(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(JPEG)
    assert "no such folder" in refused(tmp_path / "file")


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, {".hidden": JPEG})
    assert "no pictures in it" in refused(tmp_path)


def test_more_than_a_run_takes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(5 << 30)  # sparse: takes no room
    assert "its 1 files take 5.0 GiB; give at most 4 GiB" in refused(tmp_path)


def test_a_picture_that_judges_does_not_fit(tmp_path: Path) -> None:
    judge = Picture(path="imagenet20/x.jpg", sha256=hashlib.sha256(JPEG).hexdigest(), collection="imagenet20")
    folder_of(tmp_path, {"a.png": PNG, "mine.jpg": JPEG})
    assert "mine.jpg is a picture that judges the result" in refused(tmp_path, (judge,))


def test_a_picture_that_can_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path, {"a.jpg": JPEG})

    def denied(path: Path) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(calibration, "sha256_file", denied)  # root reads whatever its mode says
    assert "a.jpg can't be read: Permission denied" in refused(tmp_path)


@settings(deadline=None, max_examples=40)
@given(
    names=st.sets(
        st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20).filter(
            lambda name: not name.startswith(".") and len(name.encode()) < 200
        ),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_they_are_called_their_copies_have_plain_names(
    tmp_path_factory: pytest.TempPathFactory, names: set[str]
) -> None:
    """And the same bytes, in the order of their names, each old name told once."""
    place = tmp_path_factory.mktemp("pictures")
    source = folder_of(place / "in", {name: JPEG + name.encode() for name in names})
    found = own_pictures(source, ())
    made = bring_pictures(found, place / "run", Silent())
    assert [picture.path for picture in made] == [f"input/calibration/{n:04}.jpg" for n in range(1, len(names) + 1)]
    told = msgspec.json.decode((place / "run" / "input" / "calibration.json").read_bytes())
    assert [told[picture.path] for picture in made] == sorted(names)
    for picture in made:
        copy = (place / "run" / picture.path).read_bytes()
        assert copy == JPEG + told[picture.path].encode()
        assert (picture.place, picture.label) == ("run", None)
        assert picture.sha256 == hashlib.sha256(copy).hexdigest()


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = own_pictures(folder_of(tmp_path / "in", {"a.jpg": JPEG}), ())

    def full(source: Path, target: Path) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(WorkspaceError, match=r"0001\.jpg: no space left on the disk"):
        bring_pictures(found, tmp_path / "run", Silent())


def test_a_picture_that_goes_away_meanwhile_is_named(tmp_path: Path) -> None:
    found = own_pictures(folder_of(tmp_path / "in", {"a.jpg": JPEG}), ())
    (tmp_path / "in" / "a.jpg").unlink()
    with pytest.raises(EdgekilnError, match=r"a\.jpg can't be read: No such file"):
        bring_pictures(found, tmp_path / "run", Silent())
