"""Images: the plan is pure, the archive is what engines read, and a load ends well or says one clear line."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import json
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from image_trees import EPOCH, SITE, make_tree

import docker
from envs import layers, resolve
from envs.build import base_of
from envs.engines import load_parts
from envs.engines.base import PART_LABEL
from envs.engines.load import ensure_image
from envs.errors import BuildError, EngineError, FetchError
from envs.fetch import stored
from envs.files import sha256_file
from envs.image import ImagePlan
from envs.image_archive import archive_base
from envs.image_context import dockerfile, write_context
from envs.layers import Layer, tree_layers
from envs.lock import read_lock
from envs.progress import Silent
from envs.spec import load_spec

LOCK_DIGEST = "sha256:" + "ab" * 32


@pytest.fixture(autouse=True)
def small_counts_as_big(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "BIG_BYTES", 10_000)


def plan_of(tree: Path, name: str = "test-image", lock_digest: str = LOCK_DIGEST) -> ImagePlan:
    return ImagePlan(name, lock_digest, "linux/amd64", EPOCH, "a test", tree_layers(tree, EPOCH))


def opened(plan: ImagePlan, skip: int = 0) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(plan.archive(skip)))) as tar:
        return {info.name: file.read() for info in tar if (file := tar.extractfile(info))}


class Said(Silent):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


# --- the plan and its archive


def test_the_archive_holds_what_its_manifest_names(tmp_path: Path) -> None:
    plan = plan_of(make_tree(tmp_path / "t"))
    members = opened(plan)
    manifest = json.loads(members["manifest.json"])[0]
    config = json.loads(members[manifest["Config"]])
    assert manifest["RepoTags"] == ["edgekiln/test-image:latest", "edgekiln/test-image:abababababab"]
    assert plan.image_id == f"sha256:{hashlib.sha256(members[manifest['Config']]).hexdigest()}"
    digests = [f"sha256:{hashlib.sha256(members[name]).hexdigest()}" for name in manifest["Layers"]]
    assert config["rootfs"]["diff_ids"] == digests
    assert len(config["history"]) == len(digests)


def test_the_configuration_says_who_runs_where_and_what_it_is(tmp_path: Path) -> None:
    plan = plan_of(make_tree(tmp_path / "t"))
    opened(plan)
    config = json.loads(plan.config())
    assert config["created"] == "2023-11-14T22:13:20Z"
    assert config["config"]["User"] == "10001:10001"
    assert config["config"]["WorkingDir"] == "/workspace"
    assert "PATH=/opt/edgekiln/bin:/usr/local/bin:/usr/bin:/bin" in config["config"]["Env"]
    assert config["config"]["Labels"]["io.edgekiln.lock-digest"] == LOCK_DIGEST


def test_the_same_lock_gives_the_same_id_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for place in ("here", "there"):
        monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / place / "cache"))
        plan = plan_of(make_tree(tmp_path / place / "tree"))
        opened(plan)
        ids.append(plan.image_id)
    assert ids[0] == ids[1]


def test_the_id_is_not_guessed_before_the_layers_are_known(tmp_path: Path) -> None:
    plan = plan_of(make_tree(tmp_path / "t"))
    assert not plan.is_known
    with pytest.raises(BuildError, match="not known"):
        _ = plan.image_id


def test_skipped_layers_stay_in_the_manifest_only(tmp_path: Path) -> None:
    plan = plan_of(make_tree(tmp_path / "t"))
    opened(plan)
    members = opened(plan, skip=2)
    named = json.loads(members["manifest.json"])[0]["Layers"]
    assert [name in members for name in named] == [False, False, True, True]


# --- a base out of an archive


def saved(tmp_path: Path, change: Callable[[str, bytes], bytes] = lambda name, content: content) -> Path:
    path = tmp_path / "saved.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in opened(plan_of(make_tree(tmp_path / "saved"))).items():
            info = tarfile.TarInfo(name)
            changed = change(name, content)
            info.size = len(changed)
            tar.addfile(info, io.BytesIO(changed))
    return path


def test_layers_of_an_archive_are_taken_as_they_are(tmp_path: Path) -> None:
    path = saved(tmp_path)
    base = archive_base(path, sha256_file(path))
    plan = plan_of(tmp_path / "saved")
    assert [layer.diff_id for layer in base.layers] == [layer.diff_id for layer in plan.layers]
    assert [b"".join(layer.stream()) for layer in base.layers] == [b"".join(layer.stream()) for layer in plan.layers]


def test_another_archive_than_the_named_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"saved.tar: not the archive that was named"):
        archive_base(saved(tmp_path), "0" * 64)


def test_a_layer_that_is_not_what_the_configuration_says_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, lambda name, content: gzip.compress(content) if name.endswith("layer.tar") else content)
    with pytest.raises(BuildError, match="layer base-1: .*no longer holds"):
        for layer in archive_base(path, sha256_file(path)).layers:
            b"".join(layer.stream())


@pytest.mark.parametrize("content", [b"", b"no tar" * 1000])
def test_what_is_no_image_archive_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(BuildError, match=r"x.tar: no image archive"):
        archive_base(path, sha256_file(path))


# --- a build context


def test_the_docker_file_gets_the_plan_as_defaults(tmp_path: Path) -> None:
    plan = plan_of(make_tree(tmp_path / "t"))
    text = dockerfile(plan, f"/opt/edgekiln/{SITE}")
    assert f"ARG LOCK_DIGEST={LOCK_DIGEST}\n" in text
    assert 'ARG DESCRIPTION="a test"\n' in text
    assert "unknown" not in text


def test_a_folder_that_holds_something_is_no_build_context(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(BuildError, match="not empty"):
        write_context(None, None, tmp_path, tmp_path, tmp_path)  # type: ignore[arg-type]


# --- loading, against an engine that behaves as told


class FakeEngine:
    """Speaks as much of the Engine API as a load needs."""

    def __init__(self) -> None:
        self.images: dict[str, list[str]] = {}
        self.labels: dict[str, dict[str, str]] = {}
        self.refusals: list[str] = []  # what the next loads answer
        self.dies = False
        self.received: list[bytes] = []
        engine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def answer(self, document: object, status: int = 200) -> None:
                data = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                if found := re.search(r"/images/(sha256:\w+)/json", self.path):
                    known = found[1] in engine.images
                    self.answer(
                        engine.inspect(found[1]) if known else {"message": "No such image"}, 200 if known else 404
                    )
                else:
                    label = json.loads(parse_qs(urlsplit(self.path).query)["filters"][0])["label"][0]
                    self.answer([engine.inspect(image) for image in engine.images if engine.has(image, label)])

            def do_DELETE(self) -> None:
                del engine.images[self.path.split("/images/")[1].split("?")[0]]
                self.answer([])

            def do_POST(self) -> None:
                if "/tag?" in self.path:
                    self.answer({}, 201)
                    return
                if engine.dies:
                    self.rfile.read(100)
                    self.connection.close()
                    return
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                engine.received.append(body)
                self.answer({"error": engine.refusals.pop(0)} if engine.refusals else engine.take(body))

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.client = docker.DockerClient(f"tcp://127.0.0.1:{self.server.server_address[1]}", version="1.41")

    def inspect(self, image: str) -> dict[str, object]:
        return {"Id": image, "RepoTags": [], "RootFS": {"Layers": self.images[image]}}

    def take(self, body: bytes) -> dict[str, str]:
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            config = next(
                file.read()
                for info in tar
                if re.fullmatch(r"\w{64}.json", info.name) and (file := tar.extractfile(info))
            )
        image = f"sha256:{hashlib.sha256(config).hexdigest()}"
        self.images[image] = json.loads(config)["rootfs"]["diff_ids"]
        self.labels[image] = json.loads(config)["config"]["Labels"]
        return {"stream": "Loaded image"}

    def has(self, image: str, label: str) -> bool:
        name, _, value = label.partition("=")
        return name in self.labels[image] and value in ("", self.labels[image][name])


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine()
    yield made
    made.client.close()
    made.server.shutdown()
    made.server.server_close()


def test_an_image_that_is_there_is_not_sent(engine: FakeEngine, tmp_path: Path) -> None:
    plan = plan_of(make_tree(tmp_path / "t"))
    first = ensure_image(engine.client, plan, Silent())
    assert ensure_image(engine.client, plan_of(tmp_path / "t"), Silent()) == first
    assert len(engine.received) == 1


def test_only_what_follows_the_common_layers_is_sent(engine: FakeEngine, tmp_path: Path) -> None:
    ensure_image(engine.client, plan_of(make_tree(tmp_path / "a")), Silent())
    ensure_image(engine.client, plan_of(make_tree(tmp_path / "b", small=b"2")), Silent())
    assert len(engine.received[1]) < len(engine.received[0]) / 2


def test_an_engine_that_wants_all_layers_gets_them(engine: FakeEngine, tmp_path: Path) -> None:
    ensure_image(engine.client, plan_of(make_tree(tmp_path / "a")), Silent())
    engine.refusals = ["layer.tar: no such file or directory"]
    said = Said()
    image = ensure_image(engine.client, plan_of(make_tree(tmp_path / "b", small=b"2")), said)
    assert image in engine.images
    assert any("wants all layers" in line for line in said.lines)
    assert len(engine.received) == 3


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_parts, "PIECE_BYTES", 1_000)


def test_a_large_image_goes_in_pieces_and_leaves_nothing_else(
    engine: FakeEngine, tmp_path: Path, small_pieces: None
) -> None:
    plan = plan_of(make_tree(tmp_path / "t"))
    image = ensure_image(engine.client, plan, Silent())
    assert len(engine.received) == len(plan.layers)
    assert list(engine.images) == [image]


def test_each_piece_follows_the_one_before_it(engine: FakeEngine, tmp_path: Path, small_pieces: None) -> None:
    seen: list[list[str]] = []
    take = engine.take

    def watched(body: bytes) -> dict[str, str]:
        answer = take(body)
        seen.append(list(engine.images.values())[-1])
        return answer

    engine.take = watched  # type: ignore[method-assign]
    plan = plan_of(make_tree(tmp_path / "t"))
    ensure_image(engine.client, plan, Silent())
    assert seen == [[layer.diff_id for layer in plan.layers[:count]] for count in range(1, len(plan.layers) + 1)]


def test_an_engine_that_takes_no_pieces_gets_the_whole(engine: FakeEngine, tmp_path: Path, small_pieces: None) -> None:
    engine.refusals = ["unexpected archive"]
    said = Said()
    image = ensure_image(engine.client, plan_of(make_tree(tmp_path / "t")), said)
    assert list(engine.images) == [image]
    assert any("at once (unexpected archive)" in line for line in said.lines)


def test_a_piece_that_can_not_be_read_ends_the_load(engine: FakeEngine, tmp_path: Path, small_pieces: None) -> None:
    tree = make_tree(tmp_path / "t")
    opened(plan_of(tree))
    (tree / SITE / "torch" / "lib.so").write_bytes(b"9")
    with pytest.raises(BuildError, match="layer torch"):
        ensure_image(engine.client, plan_of(tree), Silent())
    assert engine.images == {}


def test_no_space_is_one_clear_line(engine: FakeEngine, tmp_path: Path) -> None:
    engine.refusals = ["write /var/lib/docker/tmp/x: no space left on device"]
    with pytest.raises(EngineError, match=r"no space left where the engine keeps its images.*docker system df"):
        ensure_image(engine.client, plan_of(make_tree(tmp_path / "t")), Silent())


def test_an_engine_that_refuses_is_quoted(engine: FakeEngine, tmp_path: Path) -> None:
    engine.refusals = ["archive/tar:\n invalid tar header"]
    with pytest.raises(EngineError, match="refused image test-image: archive/tar: invalid tar header"):
        ensure_image(engine.client, plan_of(make_tree(tmp_path / "t")), Silent())


def test_an_engine_that_dies_in_the_middle_is_one_clear_line(engine: FakeEngine, tmp_path: Path) -> None:
    engine.dies = True
    with pytest.raises(EngineError, match=r"the engine went away while image test-image was loaded.*run the same"):
        ensure_image(engine.client, plan_of(make_tree(tmp_path / "t")), Silent())


def test_an_image_under_another_id_is_not_accepted(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "take", lambda body: {"stream": "Loaded image"})
    with pytest.raises(EngineError, match="not as the planned"):
        ensure_image(engine.client, plan_of(make_tree(tmp_path / "t")), Silent())


def test_a_tree_that_changed_is_named_and_not_the_engine_blamed(engine: FakeEngine, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    opened(plan_of(tree))
    (tree / SITE / "small.py").write_bytes(b"9")
    with pytest.raises(BuildError, match="layer packages"):
        ensure_image(engine.client, plan_of(tree), Silent())


# --- loading, for real


@pytest.fixture(params=[1_000, 1 << 20], ids=["in pieces", "whole"])
def real(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[docker.DockerClient]:
    monkeypatch.setattr(load_parts, "PIECE_BYTES", request.param)
    client = docker.from_env()
    yield client
    for tag in {tag for image in client.images.list("edgekiln/test-image") for tag in image.tags}:
        client.images.remove(tag, force=True)
    left = client.images.list(filters={"label": f"{PART_LABEL}=test-image"})
    client.close()
    assert not left


@pytest.mark.engine
def test_a_real_engine_gives_the_planned_id_and_tags(real: docker.DockerClient, tmp_path: Path) -> None:
    plan = plan_of(make_tree(tmp_path / "t"))
    image = ensure_image(real, plan, Silent())
    assert set(real.images.get(image).tags) == set(plan.tags)
    real.images.remove("edgekiln/test-image:latest")
    assert ensure_image(real, plan_of(tmp_path / "t"), Silent()) == image
    assert set(real.images.get(image).tags) == set(plan.tags)  # what was untagged by hand is tagged again


@pytest.mark.engine
def test_a_real_engine_takes_the_changed_layer_alone(real: docker.DockerClient, tmp_path: Path) -> None:
    ensure_image(real, plan_of(make_tree(tmp_path / "a")), Silent())
    said = Said()
    other = plan_of(make_tree(tmp_path / "b", small=b"2"), lock_digest="sha256:" + "cd" * 32)
    image = ensure_image(real, other, said)
    assert "3 of 4 layers are there" in said.lines[0]
    assert len(said.lines) == 1  # it did not ask for the rest
    assert real.images.get("edgekiln/test-image:latest").id == image


@pytest.mark.engine
def test_a_real_engine_that_has_all_layers_gets_the_configuration(real: docker.DockerClient, tmp_path: Path) -> None:
    first = ensure_image(real, plan_of(make_tree(tmp_path / "a")), Silent())
    said = Said()
    second = ensure_image(real, plan_of(tmp_path / "a", lock_digest="sha256:" + "cd" * 32), said)
    assert first != second
    assert "4 of 4 layers are there" in said.lines[0]


@pytest.mark.engine
def test_an_interrupted_load_leaves_the_old_image(real: docker.DockerClient, tmp_path: Path) -> None:
    old = ensure_image(real, plan_of(make_tree(tmp_path / "a")), Silent())
    plan = plan_of(make_tree(tmp_path / "b", small=b"2"), lock_digest="sha256:" + "cd" * 32)

    def interrupted(layer: Layer) -> Iterator[bytes]:
        yield next(layer.stream())
        raise KeyboardInterrupt

    last = plan.layers[-1]
    broken = Layer(last.name, last.comment, last.bytes, tmp_path, functools.partial(interrupted, last))
    with pytest.raises(KeyboardInterrupt):
        ensure_image(real, msgspec.structs.replace(plan, layers=(*plan.layers[:-1], broken)), Silent())
    assert real.images.get("edgekiln/test-image:latest").id == old
    assert ensure_image(real, plan, Silent()) != old  # and the next try succeeds


def test_an_image_archive_named_by_the_spec_is_locked_and_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = saved(tmp_path)
    monkeypatch.setattr(resolve, "spec_path", lambda name: tmp_path / f"{name}.toml")
    wanted = load_spec("light")
    base = msgspec.structs.replace(wanted.base, packages=(), archive=archive.name)
    locked = resolve._archive(msgspec.structs.replace(wanted, base=base))
    assert stored(locked.sha256, archive.name).read_bytes() == archive.read_bytes()
    made = msgspec.structs.replace(read_lock("light"), base=(), base_archive=locked)
    assert [layer.diff_id for layer in base_of(made, Silent()).layers]
    stored(locked.sha256, archive.name).unlink()
    with pytest.raises(FetchError, match=r"saved.tar: .*not in the store.*invoke lock"):
        base_of(made, Silent())
