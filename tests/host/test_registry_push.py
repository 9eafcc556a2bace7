"""Pushed by digest: what arrives is what was planned, nothing is sent twice, and a break costs little."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registries import Answer, Registry, needs, plan_of, push, registry, scripted

from envs.errors import RegistryError, WrongUse
from envs.image import ImagePlan
from envs.layers import Layer
from envs.registry import upload
from envs.registry.client import Client, digest_of
from envs.registry.reference import parse_reference

PIECE = 1 << 16
BIG = bytes(range(256)) * 4096  # 1 MiB: 16 pieces


@pytest.fixture
def plain(cache: Path, tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "registry") as made:
        yield made


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every piece that was sent; pieces are small, and nobody waits before another try."""
    sizes: list[int] = []
    send = Client.send

    def counted(self: Client, method: str, url: str, **how: Any) -> Any:
        if method == "PATCH":
            sizes.append(len(how["data"]))
        return send(self, method, url, **how)

    monkeypatch.setattr(Client, "send", counted)
    monkeypatch.setattr(upload, "PIECE", PIECE)
    monkeypatch.setattr(upload, "sleep", lambda _: None)
    return sizes


def breaking(content: bytes, after: int, what: Any) -> ImagePlan:
    """An image whose layer calls `what` once, when that many pieces of it have been read."""
    plan = plan_of(content)
    pending = [what]

    def chunks() -> Iterator[bytes]:
        for place, start in enumerate(range(0, len(content), PIECE)):
            if place == after and pending:
                pending.pop()()
            yield content[start : start + PIECE]

    plan.layers[0].diff_id = digest_of(content)
    plan.layers[0]._chunks = chunks
    return plan


def test_what_was_pushed_is_what_was_planned(plain: Registry) -> None:
    plan = plan_of(b"one", b"two")
    pushed = push(plan, f"{plain.host}/team/env:v1")
    assert pushed.reference == f"{plain.host}/team/env@{plan.manifest_digest}"
    assert plain.blob_path(pushed.digest).read_bytes() == plan.manifest()
    assert plain.blob_path(pushed.image_id).read_bytes() == plan.config()
    assert [plain.blob_path(str(layer.diff_id)).read_bytes() for layer in plan.layers] == [b"one", b"two"]
    client = Client.of_host(plain.host, "team/env")
    assert client.manifest("v1")[0] == client.manifest(pushed.digest)[0] == plan.manifest()


def test_without_a_tag_none_is_made(plain: Registry) -> None:
    push(plan_of(b"one"), f"{plain.host}/team/env")
    with pytest.raises(RegistryError, match="no repository team/env with a tag in it"):
        Client.of_host(plain.host, "team/env").manifest("latest")


def test_what_the_registry_has_is_not_sent(plain: Registry) -> None:
    push(plan_of(b"one", b"two"), f"{plain.host}/env")
    known = plan_of(b"one", b"other")
    for layer in known.layers:
        list(layer.stream())
    outcomes = {blob.name: blob.outcome for blob in push(known, f"{plain.host}/env").blobs}
    assert outcomes == {"part-0": "there", "part-1": "sent", "config": "sent"}


def test_another_repository_lends_its_blobs(plain: Registry) -> None:
    plan = plan_of(b"one", b"two")
    push(plan, f"{plain.host}/first")
    again = push(plan, f"{plain.host}/second")
    assert {blob.outcome for blob in again.blobs} == {"lent"}
    assert again.sent_bytes == 0
    assert Client.of_host(plain.host, "second").manifest(again.digest)[0] == plan.manifest()


def test_a_lender_that_lost_the_blob_is_no_obstacle(plain: Registry, tmp_path: Path) -> None:
    plan = plan_of(b"one")
    push(plan, f"{plain.host}/first")
    plain.stop()
    subprocess.run(["rm", "-r", str(plain.storage)], check=True)
    plain.start()
    assert {blob.outcome for blob in push(plan, f"{plain.host}/second").blobs} == {"sent"}


def test_a_registry_that_comes_back_is_asked_how_much_it_has(plain: Registry, patched: list[int]) -> None:
    def restart() -> None:
        plain.stop()
        plain.start()

    plan = breaking(BIG, 8, restart)
    push(plan, f"{plain.host}/env")
    assert sum(patched) == len(BIG) + len(plan.config())
    assert plain.blob_path(digest_of(BIG)).read_bytes() == BIG


def test_a_push_goes_on_where_it_broke_off(
    plain: Registry, patched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = breaking(BIG, 8, plain.stop)
    monkeypatch.setattr(upload, "sleep", lambda _: plain.start())
    push(plan, f"{plain.host}/env")
    assert len(BIG) <= sum(patched) - len(plan.config()) <= len(BIG) + PIECE
    assert plain.blob_path(digest_of(BIG)).read_bytes() == BIG


def test_a_registry_that_stays_away_is_one_line_and_the_next_push_goes_on(plain: Registry, patched: list[int]) -> None:
    with pytest.raises(RegistryError) as told:
        push(breaking(BIG, 8, plain.stop), f"{plain.host}/env")
    assert str(told.value) == f"{plain.host}: no registry can be reached there; check the address and the network"
    patched.clear()
    plain.start()
    plan = breaking(BIG, 99, lambda: None)
    push(plan, f"{plain.host}/env")
    assert sum(patched) == len(BIG) // 2 + len(plan.config())
    assert plain.blob_path(digest_of(BIG)).read_bytes() == BIG


def test_an_upload_that_the_registry_lost_begins_anew(plain: Registry, patched: list[int]) -> None:
    def lose() -> None:
        for folder in plain.storage.rglob("_uploads"):
            subprocess.run(["rm", "-r", str(folder)], check=True)

    push(breaking(BIG, 8, lose), f"{plain.host}/env")
    assert plain.blob_path(digest_of(BIG)).read_bytes() == BIG


def test_a_registry_that_takes_less_than_was_sent_is_not_believed(cache: Path, patched: list[int]) -> None:
    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if method == "POST":
            return 202, {"Location": "/v2/env/blobs/uploads/1"}, b""
        return (202, {"Location": path, "Range": "0-9"}, b"") if method == "PATCH" else (404, {}, b"")

    with scripted(answer) as server, pytest.raises(RegistryError, match=r"has 10 bytes where 65536 were sent"):
        push(plan_of(BIG), f"{server.host}/env")


def test_a_manifest_that_comes_back_changed_is_refused(cache: Path) -> None:
    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if "/manifests/" in path:
            return (201, {}, b"") if method == "PUT" else (200, {}, b"{}")
        return (200, {"Content-Length": "3"}, b"") if method == "HEAD" else (404, {}, b"")

    plan = plan_of(b"one")
    list(plan.layers[0].stream())
    with scripted(answer) as server:
        client = Client.of_host(server.host, "env", "pull,push")
        with pytest.raises(RegistryError, match="gives other bytes back"):
            client.put_manifest("v1", "application/json", plan.manifest())


def test_a_layer_that_changed_since_it_was_packed_is_never_published(plain: Registry) -> None:
    from envs.errors import BuildError

    plan = plan_of(b"one")
    plan.layers[0].diff_id = digest_of(b"two")
    with pytest.raises(BuildError, match="no longer holds what was packed"):
        push(plan, f"{plain.host}/env:v1")
    with pytest.raises(RegistryError, match="has no"):
        Client.of_host(plain.host, "env").manifest("v1")


def test_skopeo_reads_and_copies_what_was_pushed(plain: Registry, tmp_path: Path) -> None:
    needs("skopeo")
    plan = plan_of(*(layer_tar(name) for name in ("a", "b")))
    pushed = push(plan, f"{plain.host}/team/env:v1")
    source = f"docker://{pushed.reference}"
    plainly = ["--tls-verify=false"]
    raw = subprocess.run(["skopeo", "inspect", "--raw", *plainly, source], capture_output=True, check=True).stdout
    assert raw == plan.manifest()
    said = json.loads(subprocess.run(["skopeo", "inspect", *plainly, source], capture_output=True, check=True).stdout)
    assert (said["Digest"], said["Layers"]) == (plan.manifest_digest, [layer.diff_id for layer in plan.layers])
    layout = tmp_path / "layout"
    copy = [
        "skopeo",
        "--insecure-policy",
        "copy",
        "--preserve-digests",
        "--src-tls-verify=false",
        source,
        f"oci:{layout}:v1",
    ]
    subprocess.run(copy, capture_output=True, check=True)
    assert json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"] == plan.manifest_digest
    back = f"docker://{plain.host}/copied:v1"
    copy = [
        "skopeo",
        "--insecure-policy",
        "copy",
        "--preserve-digests",
        "--dest-tls-verify=false",
        f"oci:{layout}:v1",
        back,
    ]
    subprocess.run(copy, capture_output=True, check=True)
    assert Client.of_host(plain.host, "copied").manifest("v1")[0] == plan.manifest()


@pytest.mark.engine
def test_the_engine_pulls_the_pushed_digest(plain: Registry) -> None:
    from envs.engines.choose import choose

    docker = choose("docker").docker
    assert docker is not None
    if docker.describe().startswith("Podman"):
        pytest.skip("Podman wants TLS on loopback too")
    plan = plan_of(layer_tar("a"), name="registry-test")
    pushed = push(plan, f"{plain.host}/team/env")
    image = docker.client.images.pull(f"{plain.host}/team/env", tag=pushed.digest)
    try:
        assert image.id == plan.image_id
    finally:
        docker.client.images.remove(str(image.id), force=True)


@pytest.mark.parametrize("text", ["host:5000/env:v1", "localhost/a/b", "h.x/a@sha256:" + "0" * 64, "[::1]:5000/a"])
def test_a_reference_is_read_and_written_alike(text: str) -> None:
    assert str(parse_reference(text)) == text


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_wrong_use(text: str) -> None:
    with contextlib.suppress(WrongUse):
        assert str(parse_reference(text)) == text


@pytest.mark.parametrize(
    "text", ["", "env", "team/env", "host:5000/", "h.x/UPPER", "h.x/../a", "h.x/a@sha256:12", "h.x//a"]
)
def test_what_is_no_reference_is_wrong_use(text: str) -> None:
    with pytest.raises(WrongUse, match="names no image in a registry"):
        parse_reference(text)


def test_a_password_in_a_reference_is_not_repeated() -> None:
    with pytest.raises(WrongUse) as told:
        parse_reference("user:s3cret@host:5000/env")
    assert "s3cret" not in str(told.value)


def test_a_digest_to_push_to_is_wrong_use(plain: Registry) -> None:
    with pytest.raises(WrongUse, match="follows from the image"):
        push(plan_of(b"one"), f"{plain.host}/env@sha256:{'0' * 64}")


@given(st.binary(max_size=300), st.integers(0, 320), st.integers(1, 50), st.integers(1, 64))
def test_pieces_are_what_follows_the_first_bytes(content: bytes, skip: int, size: int, step: int) -> None:
    chunks = (content[start : start + step] for start in range(0, len(content), step))
    pieces = list(upload._pieces(chunks, skip, size))
    assert b"".join(pieces) == content[skip:]
    assert all(len(piece) == size for piece in pieces[:-1])


def layer_tar(name: str) -> bytes:
    from envs.image_tar import Entry, tar_stream

    return b"".join(tar_stream([Entry(name, "dir", 0o755)], 0, lambda _: pytest.fail("no file")))


def test_a_small_document_is_a_blob() -> None:
    blob: Layer = upload.bytes_blob(b"{}", "config")
    assert (blob.diff_id, blob.bytes, list(blob.stream())) == (digest_of(b"{}"), 2, [b"{}"])
