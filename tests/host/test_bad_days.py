"""Downloads on bad days: each fault is one clear line, and nothing of it gets into the store."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import shutil
import ssl
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import answering, reply

from envs import sources, transfer
from envs.errors import FetchError
from envs.fetch import Gone, Wanted, fetch, get, list_index, stored, wheel
from envs.lock import LockedWheel
from envs.progress import Silent
from envs.transfer import Body, receive

CONTENT = random.Random(1).randbytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"


@pytest.fixture(autouse=True)
def own_cache(cache: Path) -> Iterator[None]:
    sources.index_url.cache_clear()
    yield
    sources.index_url.cache_clear()


def have(*urls: str, size: int = len(CONTENT)) -> Path:
    first, *others = urls
    return fetch([Wanted("big", DIGEST, size, lambda: first, elsewhere=lambda: others)], "big", Silent())[0]


def in_store() -> list[str]:
    folder = stored(DIGEST, "big").parent.parent
    return sorted(p.name for p in folder.rglob("*") if p.is_file()) if folder.exists() else []


def test_a_web_page_in_place_of_a_file_is_called_one() -> None:
    with (
        answering(reply(HTML, Content_Type="text/html")) as server,
        pytest.raises(FetchError, match=r"^big: localhost sent an HTML page instead of it; "),
    ):
        have(server.url)
    assert in_store() == []


def test_a_web_page_in_place_of_a_document_is_called_one() -> None:
    with (
        answering(reply(HTML)) as server,
        pytest.raises(FetchError, match=r"InRelease: an HTML page came from localhost"),
    ):
        get(f"{server.url}/dists/bookworm/InRelease")


def test_other_bytes_are_refused_with_both_hashes_and_the_host() -> None:
    wrong = hashlib.sha256(b"x" * 9).hexdigest()
    with (
        answering(reply(b"x" * 9)) as server,
        pytest.raises(FetchError, match=rf"sha256 is {wrong}, the lock says {DIGEST} \(localhost\)") as caught,
    ):
        have(server.url)
    assert not isinstance(caught.value, Gone)  # no drift is offered for it
    assert in_store() == []


def test_a_body_shorter_than_promised_goes_on_where_it_broke() -> None:
    first = reply(CONTENT[:100_000], Content_Length=str(len(CONTENT)))
    rest = reply(CONTENT[100_000:], "206 Partial Content", Content_Range=f"bytes 100000-299999/{len(CONTENT)}")
    with answering(first, rest) as server:
        assert have(server.url).read_bytes() == CONTENT
        assert "Range: bytes=100000-" in server.requests[1]
    assert in_store() == ["big"]


def test_a_body_that_never_gets_further_is_given_up_and_kept_for_later() -> None:
    begin = reply(CONTENT[:1000], Content_Length=str(len(CONTENT)))
    nothing = reply(b"", "206 Partial Content", Content_Range="bytes 1000-299999/300000", Content_Length="299000")
    with answering(begin, nothing) as server, pytest.raises(FetchError, match=r"big: localhost breaks off: "):
        have(server.url)
    assert in_store() == [f"{DIGEST}.lock", f"{DIGEST}.part"]
    with answering(reply(CONTENT[1000:], "206 Partial Content", Content_Range="bytes 1000-299999/300000")) as server:
        assert have(server.url).read_bytes() == CONTENT
    assert in_store() == ["big"]


def test_a_part_that_begins_elsewhere_is_not_appended() -> None:
    first = reply(CONTENT[:1000], Content_Length=str(len(CONTENT)))
    elsewhere = reply(CONTENT[500:], "206 Partial Content", Content_Range="bytes 500-299999/300000")
    with answering(first, elsewhere, reply(CONTENT)) as server:
        assert have(server.url).read_bytes() == CONTENT
        assert ["Range:" in asked for asked in server.requests] == [False, True, False]


def test_what_an_earlier_source_left_is_not_held_against_the_next() -> None:
    part = stored(DIGEST, "big").parent.with_suffix(".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?" * 1000)
    lie = reply(CONTENT[1000:], "206 Partial Content", Content_Range="bytes 1000-299999/300000")
    with answering(lie, reply(CONTENT)) as server:
        assert have(server.url).read_bytes() == CONTENT


def test_a_sender_that_does_not_end_is_cut_off() -> None:
    with (
        answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(8 << 20)) as server,
        pytest.raises(FetchError, match=r"localhost sends more than the 300,000 bytes that are locked"),
    ):
        have(server.url)
    assert in_store() == []


def test_a_compressed_answer_is_not_unpacked() -> None:
    import gzip

    bomb = gzip.compress(bytes(64 << 20))
    with (
        answering(reply(bomb, Content_Encoding="gzip")) as server,
        pytest.raises(FetchError, match=r"sha256 is " + hashlib.sha256(bomb).hexdigest()),
    ):
        have(server.url)


def test_a_document_that_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "LARGEST_DOCUMENT_BYTES", 1 << 20)
    with answering(reply(bytes(4 << 20))) as server, pytest.raises(FetchError, match=r"x: localhost does not stop"):
        get(f"{server.url}/x")


def test_a_redirect_to_another_host_is_followed_without_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = base64.b64encode(b"me:pass-word").decode()
    with answering(reply(CONTENT)) as other:
        with answering(
            reply(b"", "302 Found", Location=f"http://127.0.0.1:{other.url.rpartition(':')[2]}/x")
        ) as server:
            assert have(server.url.replace("//", "//me:pass-word@")).read_bytes() == CONTENT
            assert secret in server.requests[0]
        assert "Authorization" not in other.requests[0]


def test_a_redirect_to_other_bytes_is_refused() -> None:
    with (
        answering(reply(b"evil")) as other,
        answering(reply(b"", "302 Found", Location=other.url)) as server,
        pytest.raises(FetchError, match=r"sha256 is .*, the lock says"),
    ):
        have(server.url)
    assert in_store() == []


def test_a_password_in_an_address_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKILN_INDEX_URL", "http://me:pass-word@127.0.0.1:9/simple")
    locked = LockedWheel(name="a", version="1", file="a-1-py3-none-any.whl", sha256=DIGEST, bytes=1)
    with pytest.raises(FetchError, match=r"a: 127.0.0.1 can't be reached") as caught:
        fetch([wheel(locked)], "a", Silent())
    assert "pass-word" not in str(caught.value)


def test_an_index_that_answers_nonsense_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "application/vnd.pypi.simple.v1+json"
    for body in (b"{", b"[]", b'{"files": [{"filename": 1}]}'):
        with answering(reply(body, Content_Type=kind)) as server:
            monkeypatch.setenv("EDGEKILN_INDEX_URL", server.url)
            sources.index_url.cache_clear()
            with pytest.raises(FetchError) as caught:
                list_index("a")
            assert "\n" not in str(caught.value)


def test_a_host_that_is_down_is_asked_once_and_every_file_is_named() -> None:
    wanted = [Wanted(f"f{n:02}", f"{n:064}", 1, lambda: "http://127.0.0.1:9/x", part="base") for n in range(14)]
    with pytest.raises(
        Gone, match=r"^14 locked files can't be had: f00 \(127.0.0.1 can't be reached\); f01 .*; and 4 more; "
    ) as caught:
        fetch(wanted, "x", Silent())
    assert len(caught.value.missing) == 14
    assert "f09" in str(caught.value)
    assert "f10" not in str(caught.value)
    assert "`invoke lock --env light --only base`" in str(caught.value.of("light"))


def test_files_are_readable_by_others_whatever_the_umask() -> None:
    before = os.umask(0o077)
    try:
        with answering(reply(CONTENT)) as server:
            path = have(server.url)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


@pytest.fixture(scope="module", params=["not yet valid", "expired"])
def wrong_clock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A certificate of another time, as a machine whose clock is wrong sees any certificate."""
    for need in ("faketime", "openssl"):
        if shutil.which(need) is None and os.environ.get("CI") != "true":
            pytest.skip(f"{need} is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    day = "+30 days" if request.param == "not yet valid" else "-30 days"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "9",
    ]
    made += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key)]
    subprocess.run(["faketime", day, *made, "-out", str(certificate)], check=True, capture_output=True)
    return request.param, key, certificate


def test_a_wrong_clock_is_named_as_the_cause(
    wrong_clock: tuple[str, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, key, certificate = wrong_clock
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    said = "is not valid yet" if kind == "not yet valid" else "has expired"
    with (
        answering(reply(CONTENT), context=context) as server,
        pytest.raises(FetchError, match=rf"fails its TLS check: its certificate {said}.*clock says 20\d\d-"),
    ):
        have(server.url)


cuts = st.lists(st.integers(0, 5000), max_size=4).map(sorted)


@settings(max_examples=25, deadline=None)
@given(cuts)
def test_wherever_a_transfer_is_cut_the_bytes_are_the_same(places: list[int]) -> None:
    content = CONTENT[:5000]
    begins = [0, *dict.fromkeys(p for p in places if 0 < p < 5000)]
    answers = []
    for begin, end in zip(begins, [*begins[1:], 5000], strict=True):
        span = {"Content_Range": f"bytes {begin}-4999/5000"} if begin else {}
        status = "206 Partial Content" if begin else "200 OK"
        answers.append(reply(content[begin:end], status, Content_Length=str(5000 - begin), **span))
    with tempfile.TemporaryDirectory() as folder, answering(*answers) as server:
        with Body(Path(folder, "part"), lambda _: None) as body:
            receive(server.url, body, expected_bytes=5000)
        assert Path(folder, "part").read_bytes() == content
