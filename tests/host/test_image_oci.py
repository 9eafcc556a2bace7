"""An image as files: what other tools read is what was planned, and half a write is never taken for a whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_trees import EPOCH, make_tree

import docker
from envs import layers
from envs.errors import WrongUse
from envs.image import ImagePlan
from envs.image_oci import parse_output, write_output
from envs.layers import Layer, tree_layers
from envs.progress import Silent

LOCK = "sha256:" + "cd" * 32


@pytest.fixture
def plan(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImagePlan:
    monkeypatch.setattr(layers, "BIG_BYTES", 10_000)
    return plan_of(make_tree(tmp_path / "tree"))


def plan_of(tree: Path) -> ImagePlan:
    return ImagePlan("output-test", LOCK, "linux/amd64", EPOCH, "a test", tree_layers(tree, EPOCH))


def written(plan: ImagePlan, text: str) -> None:
    write_output(plan, parse_output(text), Silent())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def skopeo(*words: str) -> str:
    if shutil.which("skopeo") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("skopeo is not installed")
        pytest.skip("skopeo is not installed")
    done = subprocess.run(["skopeo", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_blob_of_a_layout_has_the_name_of_its_bytes(plan: ImagePlan, tmp_path: Path) -> None:
    written(plan, f"oci:{tmp_path}/layout")
    blobs = contents(tmp_path / "layout/blobs/sha256")
    assert len(blobs) == len(plan.layers) + 2
    assert all(hashlib.sha256(content).hexdigest() == name for name, content in blobs.items())
    index = json.loads((tmp_path / "layout/index.json").read_bytes())
    assert [one["digest"] for one in index["manifests"]] == [plan.manifest_digest]


def test_a_layout_is_the_same_twice_and_over_itself(plan: ImagePlan, tmp_path: Path) -> None:
    for name in ("a", "b", "b"):
        written(plan, f"oci:{tmp_path / name}")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_damaged_blob_is_written_again(plan: ImagePlan, tmp_path: Path) -> None:
    written(plan, f"oci:{tmp_path}/layout")
    whole = contents(tmp_path / "layout")
    blob = tmp_path / "layout/blobs/sha256" / str(plan.layers[0].diff_id).removeprefix("sha256:")
    blob.write_bytes(bytes(blob.stat().st_size))
    written(plan, f"oci:{tmp_path}/layout")
    assert contents(tmp_path / "layout") == whole


def test_skopeo_reads_the_layout_and_keeps_its_digests(plan: ImagePlan, tmp_path: Path) -> None:
    written(plan, f"oci:{tmp_path}/layout")
    seen = json.loads(skopeo("inspect", f"oci:{tmp_path}/layout"))
    assert seen["Digest"] == plan.manifest_digest
    assert seen["Layers"] == [layer.diff_id for layer in plan.layers]
    skopeo("copy", "--preserve-digests", f"oci:{tmp_path}/layout", f"oci:{tmp_path}/copy")
    copied = json.loads((tmp_path / "copy/index.json").read_bytes())
    assert copied["manifests"][0]["digest"] == plan.manifest_digest


def test_skopeo_reads_the_archive_as_the_same_image(plan: ImagePlan, tmp_path: Path) -> None:
    written(plan, f"docker-archive:{tmp_path}/image.tar")
    config = skopeo("inspect", "--raw", "--config", f"docker-archive:{tmp_path}/image.tar")
    assert config.encode() == plan.config()


@pytest.mark.engine
def test_the_engine_takes_the_archive_under_the_planned_id(plan: ImagePlan, tmp_path: Path) -> None:
    written(plan, f"docker-archive:{tmp_path}/image.tar")
    client = docker.from_env()
    with (tmp_path / "image.tar").open("rb") as file:
        loaded = client.images.load(file)  # type: ignore[arg-type]
    try:
        assert {image.id for image in loaded} == {plan.image_id}  # one entry a tag
    finally:
        client.images.remove(plan.image_id, force=True)


def broken_stream() -> Iterator[bytes]:
    yield b"half"
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["oci", "docker-archive"])
def test_an_interrupted_write_leaves_the_old_image(plan: ImagePlan, tmp_path: Path, kind: str) -> None:
    written(plan, f"{kind}:{tmp_path}/out/image")
    before = contents(tmp_path / "out")
    broken = Layer("broken", "", 1 << 20, tmp_path, broken_stream)
    other = ImagePlan("output-test", LOCK, "linux/amd64", EPOCH, "a test", (*plan.layers, broken))
    with pytest.raises(KeyboardInterrupt):
        written(other, f"{kind}:{tmp_path}/out/image")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("text", ["", "oci", "oci:", "tar:x", "x.tar"])
def test_an_output_that_is_neither_kind_is_refused(text: str) -> None:
    with pytest.raises(WrongUse, match="oci:DIR or docker-archive:FILE"):
        parse_output(text)


def test_a_folder_of_something_else_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(WrongUse, match="no OCI layout"):
        parse_output(f"oci:{tmp_path}/mine")
    with pytest.raises(WrongUse, match="it is a folder"):
        parse_output(f"docker-archive:{tmp_path}/mine")
