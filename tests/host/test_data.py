"""Pictures and weights: locked bytes only, and random weights never in silence."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from making import small_lock
from serving import Server, make_wheel, serving

from envs import data, resolve_data, sources
from envs.errors import FetchError, WrongUse
from envs.lock import EnvLock, LockedData, LockedFile, LockedHubWeights
from envs.progress import Silent

PICTURE = b"not really a picture"
WEIGHTS = b"not really weights"
PREFIX = hashlib.sha256(WEIGHTS).hexdigest()[:8]


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    sources.index_url.cache_clear()
    with serving() as made:
        monkeypatch.setenv("EDGEKILN_INDEX_URL", f"{made.url}/simple")
        monkeypatch.setenv("EDGEKILN_HUB_URL", f"{made.url}/models")
        yield made
    sources.index_url.cache_clear()


@pytest.fixture
def lock(server: Server, tmp_path: Path) -> EnvLock:
    name = "pics/imagenet_00_243.jpg"
    wheel = make_wheel(tmp_path / "wheels", "pics", "1.0", {name: PICTURE, "pics/other.txt": b"-"})
    server.add_wheels(tmp_path / "wheels")
    file = LockedFile(path=name, sha256=hashlib.sha256(PICTURE).hexdigest(), bytes=len(PICTURE))
    hub = LockedHubWeights(model="net", name="V1", file=f"net-{PREFIX}.pth", sha256_prefix=PREFIX)
    return small_lock(tmp_path / "small", data=(LockedData(collection="c", wheel=wheel, files=(file,)),), hub=(hub,))


def choose(lock: EnvLock, tmp_path: Path, choice: str, progress: Silent | None = None) -> data.Weights:
    folder = data.ensure_data(lock, Silent())
    return data.choose_weights(choice, "onnx_tv_net", lock, folder, tmp_path, progress or Silent())


def test_only_locked_files_are_laid_out(lock: EnvLock) -> None:
    folder = data.ensure_data(lock, Silent())
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    assert files == ["c/pics/imagenet_00_243.jpg"]
    assert data.ensure_data(lock, Silent()) == folder


def test_labels_are_read_from_names(lock: EnvLock) -> None:
    (picture,) = data.pictures(lock)
    assert (picture.collection, picture.label) == ("c", 243)


def test_a_file_that_is_not_the_locked_one_is_refused(lock: EnvLock) -> None:
    one = lock.data[0]
    wrong = msgspec.structs.replace(one, files=(msgspec.structs.replace(one.files[0], sha256="0" * 64),))
    with pytest.raises(FetchError, match=r"imagenet_00_243.jpg is not what the lock says"):
        data.ensure_data(msgspec.structs.replace(lock, data=(wrong,)), Silent())


def test_published_weights_come_from_the_hub_by_their_hash(lock: EnvLock, server: Server, tmp_path: Path) -> None:
    server.files[f"/models/net-{PREFIX}.pth"] = ("application/octet-stream", WEIGHTS)
    chosen = choose(lock, tmp_path, "auto")
    assert (chosen.kind, chosen.sha256) == ("published", hashlib.sha256(WEIGHTS).hexdigest())
    count = len(server.requests)
    choose(lock, tmp_path, "auto")
    assert len(server.requests) == count


def test_an_unreachable_hub_means_random_weights_and_says_so(
    lock: EnvLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKILN_HUB_URL", "http://127.0.0.1:9")
    said = Said()
    chosen = choose(lock, tmp_path, "auto", said)
    assert (chosen.kind, chosen.seed, chosen.note) == ("random", 0, "hub unreachable")
    assert any("random" in line and "can't be reached" in line for line in said.lines)


def test_wrong_bytes_from_the_hub_are_an_error_not_a_reason_to_guess(
    lock: EnvLock, server: Server, tmp_path: Path
) -> None:
    server.files[f"/models/net-{PREFIX}.pth"] = ("application/octet-stream", b"evil")
    with pytest.raises(FetchError, match=r"does not start with"):
        choose(lock, tmp_path, "auto")
    assert not list(data.ensure_data(lock, Silent()).glob("hub/*"))


def test_the_user_s_own_file_is_copied_into_the_run(lock: EnvLock, tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(WEIGHTS)
    chosen = choose(lock, tmp_path, str(tmp_path / "mine.pth"))
    assert (chosen.kind, chosen.file) == ("file", "input/weights.pth")
    assert (tmp_path / "input/weights.pth").read_bytes() == WEIGHTS


@pytest.mark.parametrize("choice", ["random:x", "random:-1", "randomly", "no/such/file.pth"])
def test_a_choice_that_means_nothing_is_refused(lock: EnvLock, tmp_path: Path, choice: str) -> None:
    with pytest.raises(WrongUse, match=choice.partition(":")[0]):
        choose(lock, tmp_path, choice)


def test_a_seed_is_taken_as_given(lock: EnvLock, tmp_path: Path) -> None:
    assert choose(lock, tmp_path, "random:7").seed == 7


def test_a_file_that_unpacks_to_more_than_its_locked_size_is_refused_unread(lock: EnvLock, tmp_path: Path) -> None:
    (one,) = lock.data
    smaller = msgspec.structs.replace(one.files[0], bytes=3)
    bomb = msgspec.structs.replace(lock, data=(msgspec.structs.replace(one, files=(smaller,)),))
    with pytest.raises(FetchError, match=r"imagenet_00_243.jpg is 20 bytes, the lock says 3 bytes"):
        data.ensure_data(bomb, Silent())
    assert not list((tmp_path / "cache" / "data").glob("*"))


def test_a_file_that_the_wheel_does_not_hold_is_named(lock: EnvLock) -> None:
    (one,) = lock.data
    other = msgspec.structs.replace(one.files[0], path="pics/gone.jpg")
    with pytest.raises(FetchError, match=r"pics-1.0-.*whl: pics/gone.jpg is not in it"):
        data.ensure_data(msgspec.structs.replace(lock, data=(msgspec.structs.replace(one, files=(other,)),)), Silent())


def test_data_can_be_read_by_a_container_s_user_whatever_the_umask(lock: EnvLock) -> None:
    before = os.umask(0o077)
    try:
        folder = data.ensure_data(lock, Silent())
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert modes == {0o755, 0o644}


def test_weights_whose_whole_hash_is_locked_are_checked_by_it(lock: EnvLock, server: Server, tmp_path: Path) -> None:
    server.files[f"/models/net-{PREFIX}.pth"] = ("application/octet-stream", WEIGHTS)
    whole = hashlib.sha256(WEIGHTS).hexdigest()
    known = resolve_data.hash_weights(lock, ["onnx_tv_net"], Silent())
    assert known.hub[0].sha256 == whole
    assert choose(known, tmp_path, "auto").sha256 == whole
    other = msgspec.structs.replace(lock.hub[0], sha256=PREFIX + "0" * 56)
    with pytest.raises(FetchError, match="not the weights that the lock names"):
        choose(msgspec.structs.replace(lock, hub=(other,)), tmp_path, "auto")


def test_whole_hashes_stay_when_the_lock_is_made_again(lock: EnvLock) -> None:
    (again,) = resolve_data.with_hashes(lock.hub, {lock.hub[0].file: "ab"})
    assert again.sha256 == "ab"
    assert resolve_data.with_hashes([again], {}) == (again,)


def test_weights_can_not_be_hashed_without_the_hub(lock: EnvLock, server: Server) -> None:
    with pytest.raises(FetchError, match=r"net-.*pth: 127.0.0.1 answers 404; lock them on a machine that reaches"):
        resolve_data.hash_weights(lock, ["net"], Silent())
    with pytest.raises(WrongUse, match="no weights are published"):
        resolve_data.hash_weights(lock, ["nett"], Silent())


def test_a_web_page_from_the_hub_means_random_weights(lock: EnvLock, server: Server, tmp_path: Path) -> None:
    server.files[f"/models/net-{PREFIX}.pth"] = ("text/html", b"<html>log in</html>")
    said = Said()
    assert choose(lock, tmp_path, "auto", said).kind == "random"
    assert any("an HTML page" in line for line in said.lines)
    assert not list((data.ensure_data(lock, Silent()) / "hub").iterdir())


def two_collections(lock: EnvLock, server: Server, tmp_path: Path) -> EnvLock:
    """The lock with a second wheel, of calibration pictures."""
    wheel = make_wheel(tmp_path / "more", "fits", "1.0", {"fits/one.png": PICTURE})
    server.add_wheels(tmp_path / "more")
    file = LockedFile(path="fits/one.png", sha256=hashlib.sha256(PICTURE).hexdigest(), bytes=len(PICTURE))
    return msgspec.structs.replace(
        lock, data=(*lock.data, LockedData(collection="calibration", wheel=wheel, files=(file,)))
    )


def laid_out(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def asked_for(server: Server, package: str) -> bool:
    return any(f"{package}-1.0" in request for request in map(str, server.requests))


def test_calibration_pictures_are_downloaded_when_a_run_calibrates(
    lock: EnvLock, server: Server, tmp_path: Path
) -> None:
    both = two_collections(lock, server, tmp_path)
    folder = data.ensure_data(both, Silent(), data.collections(both, calibrates=False))
    assert (laid_out(folder), asked_for(server, "fits")) == (["c", "hub"], False)
    again = data.ensure_data(both, Silent(), data.collections(both, calibrates=True))
    assert (again, laid_out(folder)) == (folder, ["c", "calibration", "hub"])
    assert data.ensure_data(both, Silent()) == folder
    assert data.data_key(both) == folder.name


def test_weights_alone_download_no_pictures(lock: EnvLock, server: Server) -> None:
    assert laid_out(data.ensure_data(lock, Silent(), only=())) == ["hub"]
    assert not asked_for(server, "pics")


def test_a_lock_without_data_has_an_empty_folder(lock: EnvLock, server: Server) -> None:
    folder = data.ensure_data(msgspec.structs.replace(lock, data=()), Silent())
    assert laid_out(folder) == ["hub"]


def test_a_collection_that_can_not_be_had_leaves_no_part_of_itself(
    lock: EnvLock, server: Server, tmp_path: Path
) -> None:
    both = two_collections(lock, server, tmp_path)
    (first, fits) = both.data
    gone = msgspec.structs.replace(fits.files[0], path="fits/2.png")
    spoiled = msgspec.structs.replace(fits, files=(*fits.files, gone))
    broken = msgspec.structs.replace(both, data=(first, spoiled))
    folder = data.ensure_data(broken, Silent(), data.collections(broken, calibrates=False))
    with pytest.raises(FetchError, match=r"fits/2.png is not in it"):
        data.ensure_data(broken, Silent())
    assert laid_out(folder) == ["c", "hub"]
    assert laid_out(folder.parent) == [folder.name]
