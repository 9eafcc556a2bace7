"""A base by digest: only the bytes that the digest names, from a registry that may want a token."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from serving import Server, serving

from envs.build import base_of
from envs.errors import FetchError, LockError, RegistryError
from envs.fetch import stored
from envs.lock import LockedImage, read_lock
from envs.progress import Silent
from envs.registry.base import resolve_image


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def layer_tar(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 4
        tar.addfile(info, io.BytesIO(b"data"))
    return buffer.getvalue()


TARS = [layer_tar("a"), layer_tar("b")]
BLOBS = [gzip.compress(TARS[0], mtime=0), TARS[1]]  # the second is served as it is


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as made:
        monkeypatch.setenv("EDGEKILN_REGISTRY_URL", made.url)
        yield made


def put(server: Server, kind: str, content: bytes) -> str:
    digest = digest_of(content)
    server.files[f"/v2/library/base/{kind}/{digest}"] = ("application/octet-stream", content)
    return digest


def serve_image(server: Server, diff_ids: list[str] | None = None) -> str:
    """An index of one image for linux/amd64; the index's digest."""
    config = json.dumps({"rootfs": {"diff_ids": diff_ids or [digest_of(tar) for tar in TARS]}}).encode()
    manifest: dict[str, Any] = {
        "config": {"digest": put(server, "blobs", config), "size": len(config)},
        "layers": [{"digest": put(server, "blobs", blob), "size": len(blob)} for blob in BLOBS],
    }
    digest = put(server, "manifests", json.dumps(manifest).encode())
    platform = {"os": "linux", "architecture": "amd64"}
    return put(
        server, "manifests", json.dumps({"manifests": [{"digest": digest, "size": 1, "platform": platform}]}).encode()
    )


def resolve(server: Server, digest: str) -> LockedImage:
    return resolve_image(f"library/base@{digest}", "linux/amd64", Silent())


@pytest.mark.parametrize("token", ["", "secret"])
def test_the_layers_of_a_digest_become_the_base(server: Server, token: str) -> None:
    server.token = token
    locked = resolve(server, serve_image(server))
    assert [one.diff_id for one in locked.layers] == [digest_of(tar) for tar in TARS]
    assert [one.unpacked_bytes for one in locked.layers] == [len(tar) for tar in TARS]
    base = base_of(msgspec.structs.replace(read_lock("light"), base=(), base_image=locked), Silent())
    assert [b"".join(layer.stream()) for layer in base.layers] == TARS


def test_a_build_fetches_the_locked_layers_again_where_the_store_lost_them(server: Server) -> None:
    locked = resolve(server, serve_image(server))
    for one in locked.layers:
        stored(one.sha256, "blob").unlink()
    lock = msgspec.structs.replace(read_lock("light"), base=(), base_image=locked)
    assert [b"".join(layer.stream()) for layer in base_of(lock, Silent()).layers] == TARS


def test_bytes_that_are_not_the_digest_s_are_refused(server: Server) -> None:
    digest = serve_image(server)
    path = f"/v2/library/base/manifests/{digest}"
    server.files[path] = (server.files[path][0], server.files[path][1] + b" ")
    with pytest.raises(RegistryError, match="serves other bytes than sha256:"):
        resolve(server, digest)


def test_a_layer_that_was_changed_is_refused(server: Server) -> None:
    digest = serve_image(server)
    path = f"/v2/library/base/blobs/{digest_of(BLOBS[0])}"
    server.files[path] = (server.files[path][0], gzip.compress(b"evil", mtime=0))
    with pytest.raises(FetchError, match="blob: sha256 is"):
        resolve(server, digest)


def test_a_layer_that_is_not_what_the_configuration_says_is_refused(server: Server) -> None:
    digest = serve_image(server, diff_ids=["sha256:" + "0" * 64, digest_of(TARS[1])])
    with pytest.raises(LockError, match="not what its configuration says"):
        resolve(server, digest)


def test_a_platform_that_is_not_there_is_named(server: Server) -> None:
    with pytest.raises(LockError, match="nothing for linux/arm64"):
        resolve_image(f"library/base@{serve_image(server)}", "linux/arm64", Silent())


@pytest.mark.parametrize(
    "reference", ["library/base:latest", "library/base", "library/base@sha256:12", "@sha256:" + "0" * 64]
)
def test_what_is_no_digest_is_refused(cache: Path, reference: str) -> None:
    with pytest.raises(LockError, match="names no digest"):
        resolve_image(reference, "linux/amd64", Silent())


def test_without_a_registry_it_says_how_to_name_one(cache: Path) -> None:
    with pytest.raises(FetchError, match="EDGEKILN_REGISTRY_URL"):
        resolve_image("library/base@sha256:" + "0" * 64, "linux/amd64", Silent())


def test_a_bundle_gives_the_base_where_no_registry_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    locked = resolve(server, serve_image(server))
    lock = msgspec.structs.replace(read_lock("light"), base=(), base_image=locked)
    monkeypatch.delenv("EDGEKILN_REGISTRY_URL")
    assert [b"".join(layer.stream()) for layer in base_of(lock, Silent()).layers] == TARS
    for one in locked.layers:
        stored(one.sha256, "blob").unlink()
    with pytest.raises(FetchError, match=r"no container registry is configured.*EDGEKILN_REGISTRY_URL"):
        base_of(lock, Silent())
    held = {one.sha256: blob for one, blob in zip(locked.layers, BLOBS, strict=True)}
    monkeypatch.setattr("envs.bundle.read.find", lambda _, sha256: io.BytesIO(held[sha256]))
    monkeypatch.setattr("envs.sources.bundles", lambda: [tmp_path / "a.bundle"])
    assert [b"".join(layer.stream()) for layer in base_of(lock, Silent()).layers] == TARS
