"""Pulled by digest: the bytes that were pushed or one clear line, and whose bytes they are."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registries import Answer, Registry, plan_of, push, registry, scripted

from envs.errors import FetchError, RegistryError
from envs.fetch import stored
from envs.image import ImagePlan
from envs.lock import read_lock
from envs.progress import Silent, SilentBar
from envs.registry import blobs, recognise
from envs.registry.client import Client, digest_of
from envs.registry.pull import fetch_image, own_tags, pulled_plan
from envs.registry.upload import bytes_blob, push_blob

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Said(Silent):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def plain(cache: Path, tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "registry") as made:
        yield made


def publish(server: Registry, repository: str, packed: list[bytes], diff_ids: list[str]) -> str:
    """An image whose blobs are not plain tars; its reference."""
    client = Client.of_host(server.host, repository, "pull,push")
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    ).encode()
    for content in (*packed, config):
        push_blob(client, bytes_blob(content, "blob"), SilentBar())
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": "c", "digest": digest_of(config), "size": len(config)},
            "layers": [{"mediaType": "l", "digest": digest_of(one), "size": len(one)} for one in packed],
        }
    ).encode()
    client.put_manifest(digest_of(manifest), MANIFEST, manifest)
    return f"{server.host}/{repository}@{digest_of(manifest)}"


def test_what_is_pulled_is_what_was_pushed(plain: Registry) -> None:
    plan = plan_of(b"one", b"two" * 100_000)
    said = Said()
    image = fetch_image(push(plan, f"{plain.host}/env").reference, said)
    assert (image.config, image.manifest, image.image_id) == (plan.config(), plan.manifest(), plan.image_id)
    assert [b"".join(layer.stream()) for layer in image.layers] == [b"one", b"two" * 100_000]
    assert said.lines == []


def test_an_image_that_is_given_on_is_not_made_anew(plain: Registry) -> None:
    plan = plan_of(b"one", name="other", lock_digest="sha256:" + "2" * 64)
    image = fetch_image(push(plan, f"{plain.host}/env:v1").reference, Silent())
    again = pulled_plan(image, own_tags(image))
    assert (again.image_id, again.manifest_digest) == (plan.image_id, plan.manifest_digest)
    assert (again.name, again.lock_digest, again.platform) == ("other", plan.lock_digest, "linux/amd64")
    assert again.tags == (f"{plain.host}/env:{plan.manifest_digest[7:19]}",)


def test_a_tag_is_taken_with_a_warning_and_gives_the_digest(plain: Registry) -> None:
    pushed = push(plan_of(b"one"), f"{plain.host}/env:v1")
    said = Said()
    image = fetch_image(f"{plain.host}/env:v1", said)
    assert said.lines == [f"{plain.host}/env:v1: a tag can be moved, so this is whatever it names now"]
    assert image.reference == pushed.reference


def test_what_is_in_the_store_is_not_fetched_again(plain: Registry) -> None:
    pushed = push(plan_of(b"one"), f"{plain.host}/env")
    fetch_image(pushed.reference, Silent())
    plain.blob_path(digest_of(b"one")).unlink()
    assert len(fetch_image(pushed.reference, Silent()).layers) == 1


def test_a_broken_download_goes_on(plain: Registry, cache: Path) -> None:
    content = bytes(100_000)
    pushed = push(plan_of(content), f"{plain.host}/env")
    hexadecimal = digest_of(content).removeprefix("sha256:")
    (cache / "store").mkdir(parents=True)
    (cache / "store" / f"{hexadecimal}.part").write_bytes(content[:60_000])
    plain.blob_path(digest_of(content)).write_bytes(b"x" * 60_000 + content[60_000:])  # never asked for
    fetch_image(pushed.reference, Silent())
    assert stored(hexadecimal, "blob").read_bytes() == content


def test_a_blob_with_other_bytes_is_refused(plain: Registry) -> None:
    pushed = push(plan_of(b"one"), f"{plain.host}/env")
    plain.blob_path(digest_of(b"one")).write_bytes(b"two")
    with pytest.raises(RegistryError, match=rf"^{plain.host}/env: .*the manifest says .*do not use it"):
        fetch_image(pushed.reference, Silent())
    assert not stored(digest_of(b"one").removeprefix("sha256:"), "blob").exists()


def test_a_configuration_with_other_bytes_is_refused(plain: Registry) -> None:
    pushed = push(plan_of(b"one"), f"{plain.host}/env")
    plain.blob_path(pushed.image_id).write_bytes(b"{}")
    with pytest.raises(RegistryError, match="serves other bytes than sha256:"):
        fetch_image(pushed.reference, Silent())


def test_a_manifest_with_other_bytes_is_refused(cache: Path) -> None:
    manifest = plan_of()
    refused = pytest.raises(RegistryError, match="serves other bytes than sha256:")
    with scripted(lambda *_: (200, {}, manifest.manifest() + b" ")) as server, refused:
        fetch_image(f"{server.host}/env@{manifest.manifest_digest}", Silent())


def test_a_manifest_without_an_end_is_not_read_to_it(cache: Path) -> None:
    refused = pytest.raises(RegistryError, match="a document above 4 MiB")
    with scripted(lambda *_: (200, {}, bytes(5 << 20))) as server, refused:
        fetch_image(f"{server.host}/env:v1", Silent())


@pytest.mark.parametrize(
    "digest", ["sha256:../../../../tmp/evil", "sha256:" + "0" * 63, "sha256:" + "0" * 64 + "\n", ""]
)
def test_a_digest_that_is_none_never_becomes_a_path(cache: Path, digest: str) -> None:
    config = {"digest": "sha256:" + "0" * 64, "size": 1}
    body = json.dumps({"config": config, "layers": [{"digest": digest, "size": 1}]}).encode()
    refused = pytest.raises(RegistryError, match="is no manifest")
    with scripted(lambda *_: (200, {}, body)) as server, refused:
        fetch_image(f"{server.host}/env:v1", Silent())
    assert not cache.exists()


@pytest.mark.parametrize(
    ("named", "line"),
    [
        ("env:v2", "HOST/env has no tag 'v2'; check the tag, or name a digest"),
        ("none:v1", "HOST has no repository none with a tag in it; check its name"),
        (f"env@sha256:{'0' * 64}", f"HOST/env has no image sha256:{'0' * 64}; check the name and the digest"),
    ],
)
def test_what_is_not_there_is_named(plain: Registry, named: str, line: str) -> None:
    push(plan_of(b"one"), f"{plain.host}/env:v1")
    with pytest.raises(RegistryError) as told:
        fetch_image(f"{plain.host}/{named}", Silent())
    assert str(told.value) == line.replace("HOST", plain.host)


def test_a_registry_that_is_not_there_is_one_line(plain: Registry) -> None:
    plain.stop()
    with pytest.raises(RegistryError, match="no registry can be reached there; check the address"):
        fetch_image(f"{plain.host}/env:v1", Silent())


def test_a_registry_that_dies_in_a_blob_is_one_line_and_the_rest_is_kept(cache: Path) -> None:
    plan = plan_of(bytes(3 << 20))
    list(plan.layers[0].stream())

    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if "/manifests/" in path:
            return 200, {}, plan.manifest()
        if path.endswith(plan.image_id):
            return 200, {}, plan.config()
        if "/blobs/" in path:
            return 200, {"Content-Length": str(3 << 20), "Connection": "close"}, bytes(2 << 20)
        return 404, {}, b""

    with scripted(answer) as server, pytest.raises(FetchError) as told:
        fetch_image(f"{server.host}/env@{plan.manifest_digest}", Silent())
    assert re.fullmatch(rf"{server.host}/env: .* run the same command again: what has arrived stays", str(told.value))
    assert next((cache / "store").glob("*.part")).stat().st_size == 2 << 20


def test_of_an_index_the_platform_is_taken(plain: Registry) -> None:
    pushed = push(plan_of(b"one"), f"{plain.host}/env")
    client = Client.of_host(plain.host, "env", "pull,push")
    entry: dict[str, Any] = {
        "mediaType": MANIFEST,
        "digest": pushed.digest,
        "size": len(client.manifest(pushed.digest)[0]),
    }
    entry["platform"] = {"os": "linux", "architecture": "riscv64"}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    client.put_manifest("all", INDEX, index)
    assert fetch_image(f"{plain.host}/env:all", Silent(), "linux/riscv64").reference == pushed.reference
    with pytest.raises(RegistryError, match="nothing for linux/s390x in it"):
        fetch_image(f"{plain.host}/env:all", Silent(), "linux/s390x")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=5000), min_size=1, max_size=4), st.sampled_from(["gzip", "zstd", "tar"]))
def test_packed_layers_are_unpacked_whatever_their_members(tmp_path: Path, parts: list[bytes], how: str) -> None:
    pack = {"gzip": gzip.compress, "zstd": zstandard.compress, "tar": lambda part: b"ustar" + part}[how]
    path = tmp_path / "blob"
    path.write_bytes(b"".join(pack(part) for part in parts) + (bytes(512) if how == "gzip" else b""))
    whole = b"".join(parts) if how != "tar" else path.read_bytes()
    pieces = list(blobs.unpacked(path))
    assert b"".join(pieces) == whole
    assert all(pieces), "an empty piece would end a chunked transfer"
    assert blobs.measured(path).diff_id == digest_of(whole)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_packed_layers_are_pulled_by_the_tar_inside(plain: Registry, pack: Any) -> None:
    reference = publish(plain, "packed", [pack(b"a tar")], [digest_of(b"a tar")])
    image = fetch_image(reference, Silent())
    assert [(layer.bytes, b"".join(layer.stream())) for layer in image.layers] == [(5, b"a tar")]


def test_a_layer_that_is_not_what_the_configuration_says_is_refused(plain: Registry) -> None:
    reference = publish(plain, "packed", [gzip.compress(b"evil")], [digest_of(b"a tar")])
    with pytest.raises(RegistryError, match="layer-1 is not what its configuration says"):
        fetch_image(reference, Silent())


def test_a_configuration_with_another_number_of_layers_is_refused(plain: Registry) -> None:
    with pytest.raises(RegistryError, match="differ in their number of layers"):
        fetch_image(publish(plain, "packed", [b"a tar"], []), Silent())


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_damaged_layer_is_one_line(plain: Registry, pack: Any) -> None:
    content = bytes(range(256)) * 100
    whole = pack(content)
    reference = publish(plain, "packed", [whole[: len(whole) // 2]], [digest_of(content)])
    with pytest.raises(RegistryError, match=r"damaged|is not what its configuration says"):
        fetch_image(reference, Silent())


def test_a_layer_that_swells_is_refused(plain: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "BOMB_BYTES", 1 << 20)
    bomb = bytes(8 << 20)
    reference = publish(plain, "packed", [gzip.compress(bomb)], [digest_of(bomb)])
    with pytest.raises(RegistryError, match="swells to more than 1 MiB"):
        fetch_image(reference, Silent())


@pytest.fixture
def of_light(monkeypatch: pytest.MonkeyPatch) -> ImagePlan:
    """The plan of a small image that says it is made from the lock `light`, which gives just that."""
    plan = plan_of(b"one", name="light", lock_digest=read_lock("light").digest)
    list(plan.layers[0].stream())
    monkeypatch.setattr(recognise, "_plan_of", lambda lock: plan if lock.name == "light" else None)
    return plan


def test_the_bytes_of_a_lock_are_recognised(plain: Registry, of_light: ImagePlan) -> None:
    image = fetch_image(push(of_light, f"{plain.host}/env").reference, Silent())
    verdict = recognise.recognise(image)
    assert (verdict.state, verdict.env, verdict.plan) == ("same", "light", of_light)


def test_a_label_is_not_believed(plain: Registry, of_light: ImagePlan) -> None:
    forged = plan_of(b"other", name="light", lock_digest=of_light.lock_digest)
    verdict = recognise.recognise(fetch_image(push(forged, f"{plain.host}/env").reference, Silent()))
    assert (verdict.state, verdict.plan) == ("differs", None)


def test_a_lock_that_is_not_built_here_proves_nothing(cache: Path, plain: Registry) -> None:
    plan = plan_of(b"one", name="light", lock_digest=read_lock("light").digest)
    verdict = recognise.recognise(fetch_image(push(plan, f"{plain.host}/env").reference, Silent()))
    assert (verdict.state, verdict.env) == ("unproven", "light")


def test_an_image_of_another_checkout_is_foreign(plain: Registry) -> None:
    image = fetch_image(push(plan_of(b"one"), f"{plain.host}/env").reference, Silent())
    assert recognise.recognise(image).state == "foreign"
    bare = msgspec.structs.replace(image, config=b'{"config":{}}')
    assert recognise.recognise(bare).state == "foreign"


@pytest.mark.engine
def test_a_pulled_image_is_in_the_engine_with_the_same_id(plain: Registry) -> None:
    from test_registry_push import layer_tar

    from envs.engines.choose import choose
    from envs.engines.load import ensure_image

    docker = choose("docker").docker
    assert docker is not None
    plan = plan_of(layer_tar("pulled"), name="registry-pull-test")
    image = fetch_image(push(plan, f"{plain.host}/team/env:v1").reference, Silent())
    pulled = pulled_plan(image, own_tags(image))
    assert ensure_image(docker.client, pulled, Silent()) == plan.image_id
    try:
        tags = docker.client.images.get(plan.image_id).tags
        assert tags == list(pulled.tags)
    finally:
        docker.client.images.remove(plan.image_id, force=True)
