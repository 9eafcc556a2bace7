"""Downloads: only the locked bytes get into the store, whatever the source does."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Server, make_wheel, serving

from envs import sources
from envs.errors import FetchError
from envs.fetch import Wanted, fetch, list_index, stored, wheel
from envs.progress import Silent

CONTENT = random.Random(0).randbytes(3 << 20)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(cache: Path) -> Iterator[Server]:
    with serving() as made:
        made.files["/big"] = ("application/octet-stream", CONTENT)
        yield made


@pytest.fixture(autouse=True)
def fresh_sources() -> Iterator[None]:
    sources.index_url.cache_clear()
    yield
    sources.index_url.cache_clear()


def wanted(url: str, sha256: str = DIGEST) -> Wanted:
    return Wanted("big", sha256, len(CONTENT), lambda: url)


def test_a_file_is_fetched_once(server: Server) -> None:
    (path,) = fetch([wanted(f"{server.url}/big")], "big", Silent())
    assert path.read_bytes() == CONTENT
    fetch([wanted(f"{server.url}/big")], "big", Silent())
    assert len(server.requests) == 1


def test_other_bytes_than_the_locked_are_refused_and_not_kept(server: Server) -> None:
    server.files["/big"] = ("application/octet-stream", CONTENT[:-1] + b"x")
    with pytest.raises(FetchError, match=r"big: sha256 is [0-9a-f]{64}, the lock says"):
        fetch([wanted(f"{server.url}/big")], "big", Silent())
    assert not stored(DIGEST, "big").exists()
    server.files["/big"] = ("application/octet-stream", CONTENT)
    fetch([wanted(f"{server.url}/big")], "big", Silent())


def test_a_broken_download_goes_on_where_it_broke(server: Server) -> None:
    server.break_after = 2 << 20
    (path,) = fetch([wanted(f"{server.url}/big")], "big", Silent())
    assert path.read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, f"bytes={2 << 20}-"]


def test_a_download_that_was_interrupted_goes_on_in_the_next_run(server: Server, cache: Path) -> None:
    (cache / "store").mkdir(parents=True)
    (cache / "store" / f"{DIGEST}.part").write_bytes(CONTENT[: 1 << 20])
    (path,) = fetch([wanted(f"{server.url}/big")], "big", Silent())
    assert path.read_bytes() == CONTENT
    assert server.requests[-1][1] == f"bytes={1 << 20}-"


def test_a_partial_file_longer_than_the_whole_starts_over(server: Server, cache: Path) -> None:
    (cache / "store").mkdir(parents=True)
    (cache / "store" / f"{DIGEST}.part").write_bytes(CONTENT + b"more")
    (path,) = fetch([wanted(f"{server.url}/big")], "big", Silent())
    assert path.read_bytes() == CONTENT


def test_an_unreachable_source_is_named(cache: Path) -> None:
    with pytest.raises(FetchError, match=r"big: 127.0.0.1 can't be reached; .*EDGEKILN_INDEX_URL"):
        fetch([wanted("http://127.0.0.1:9/big")], "big", Silent())


def test_a_refusing_source_is_named_with_its_answer(server: Server) -> None:
    with pytest.raises(FetchError, match=r"big: 127.0.0.1 answers 404"):
        fetch([wanted(f"{server.url}/gone")], "big", Silent())


def test_files_come_from_disk_too(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(CONTENT)
    (path,) = fetch([wanted((tmp_path / "big").as_uri())], "big", Silent())
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("html", [False, True])
def test_a_wheel_is_found_in_both_kinds_of_index(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, html: bool
) -> None:
    locked = make_wheel(tmp_path / "wheels", "some_thing", "1.0", {"some_thing.py": b"x = 1\n"})
    server.add_wheels(tmp_path / "wheels", html)
    monkeypatch.setenv("EDGEKILN_INDEX_URL", f"{server.url}/simple")
    assert list_index("Some.Thing")[locked.file].sha256 == locked.sha256
    (path,) = fetch([wheel(locked)], "wheels", Silent())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == locked.sha256


def test_a_wheel_the_index_dropped_is_named(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = make_wheel(tmp_path / "wheels", "thing", "1.0", {})
    make_wheel(tmp_path / "other", "thing", "2.0", {})
    server.add_wheels(tmp_path / "other")
    monkeypatch.setenv("EDGEKILN_INDEX_URL", f"{server.url}/simple")
    with pytest.raises(FetchError, match=r"thing-1.0-py3-none-any.whl: the package index does not list it"):
        fetch([wheel(locked)], "wheels", Silent())
