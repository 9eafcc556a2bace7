"""Where bytes come from is configuration, and the first that is set wins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from envs import sources
from envs.errors import SpecError, WrongUse

DEB822 = """\
# a comment
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""
ONE_LINE = "deb [arch=amd64 signed-by=/k] https://mirror.example/debian bookworm main contrib\n"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    sources.index_url.cache_clear()
    sources.debian_mirror.cache_clear()
    yield
    sources.index_url.cache_clear()
    sources.debian_mirror.cache_clear()


@pytest.mark.parametrize("text", [DEB822, ONE_LINE])
def test_the_mirror_is_read_from_both_formats_of_apt(text: str) -> None:
    found = sources.mirror_in(text, "bookworm")
    assert found is not None
    assert found.endswith("//mirror.example/debian")


@pytest.mark.parametrize("text", [DEB822, ONE_LINE, ""])
def test_a_suite_nobody_serves_has_no_mirror(text: str) -> None:
    assert sources.mirror_in(text, "trixie") is None


def test_the_variable_wins_over_the_file(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "config" / "edgekiln"
    folder.mkdir(parents=True)
    (folder / "sources.toml").write_text('index = "http://file.example/simple/"\n')
    assert sources.index_url() == "http://file.example/simple"
    sources.index_url.cache_clear()
    monkeypatch.setenv("EDGEKILN_INDEX_URL", "http://variable.example/simple")
    assert sources.index_url() == "http://variable.example/simple"


def test_without_ours_the_index_is_the_one_uv_has(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEKILN_INDEX_URL", raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://uv.example/simple")
    assert sources.index_url() == "http://uv.example/simple"


def test_an_unknown_key_in_the_file_is_named(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "config" / "edgekiln"
    folder.mkdir(parents=True)
    (folder / "sources.toml").write_text('indx = "http://file.example"\n')
    with pytest.raises(SpecError, match=r"unknown key 'indx'.*allowed: .*debian, hub, index, interpreter, registry"):
        sources.index_url()


def test_a_snapshot_pattern_is_filled_and_passed_over_where_it_wants_what_the_file_has_not(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patterns = "http://snap.example/{date}/{file} http://hash.example/{sha256}"
    monkeypatch.setenv("EDGEKILN_SNAPSHOT_URL", patterns)
    deb = sources.snapshot_urls(file="pool/a.deb", suite="bookworm", date="20260711T101637Z", sha256="ab", name="a")
    assert deb == ["http://snap.example/20260711T101637Z/pool/a.deb", "http://hash.example/ab"]
    assert sources.snapshot_urls(file="a.whl", sha256="cd", name="a") == ["http://hash.example/cd"]


def test_without_a_snapshot_service_there_is_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEKILN_SNAPSHOT_URL", raising=False)
    assert sources.snapshot_urls(file="a", sha256="b", name="c") == []


def test_an_unknown_placeholder_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKILN_SNAPSHOT_URL", "http://snap.example/{day}/{file}")
    with pytest.raises(WrongUse, match=r"unknown placeholder \{day\}; known are \{file\}"):
        sources.snapshot_urls(file="a")


def test_a_bundle_that_is_not_there_is_named(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    monkeypatch.setenv("EDGEKILN_BUNDLE", f"{tmp_path / 'a.tar'}:{tmp_path / 'b.tar'}")
    with pytest.raises(WrongUse, match=r"b.tar: no bundle is there; correct EDGEKILN_BUNDLE"):
        sources.bundles()
