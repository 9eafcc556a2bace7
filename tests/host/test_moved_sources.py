"""Sources that drop what was locked: store, bundle, snapshot are asked; then it stops, or drifts where it may."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from fake_engine import FakeEngine
from moving import DAY, World, installed

from envs import lock as locks
from envs import process
from envs.build import base_of
from envs.bundle.manifest import FORMAT, Manifest, Member
from envs.bundle.write import write_bundle
from envs.drift import drifted, environment
from envs.engines.choose import Chosen, choose
from envs.errors import FetchError
from envs.fetch import Gone, fetch, refreshing, stored, wheel
from envs.lock import EnvLock
from envs.progress import Silent
from envs.resolve import make_lock
from envs.spec import load_spec

CHOSEN = Chosen(FakeEngine(name="local"), "engine: fake")  # type: ignore[arg-type]


KNOWN: list[EnvLock] = []  # a lock holds no host, so that of one test's server is that of the next


@pytest.fixture
def lock(world: World) -> EnvLock:
    KNOWN[:] = KNOWN or [make_lock(load_spec("small"), DAY, Silent())]
    locks.write_lock(KNOWN[0])
    return KNOWN[0]


def build_base(lock: EnvLock) -> None:
    for layer in base_of(lock, Silent()).layers:
        for _ in layer.stream():
            pass


def test_what_the_store_has_is_not_asked_for(world: World, lock: EnvLock, cache: Path) -> None:
    build_base(lock)
    shutil.rmtree(cache / "layers")
    world.publish_deb("liba", "2")
    world.server.requests.clear()
    build_base(lock)
    assert world.server.requests == []


def test_what_the_mirror_dropped_comes_from_the_snapshot_of_the_lock_s_day(
    world: World, lock: EnvLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = lock.base
    kept = world.server.files[f"/debian/{one.file}"]
    world.publish_deb("liba", "2")
    world.server.files[f"/snap/{lock.base_date}/{one.file}"] = kept
    monkeypatch.setenv(
        "EDGEKILN_SNAPSHOT_URL", f"http://127.0.0.1:9/{{file}} {world.server.url}/snap/{{date}}/{{file}}"
    )
    build_base(lock)
    assert stored(one.sha256, Path(one.file).name).exists()


def test_a_snapshot_that_serves_other_bytes_is_refused(
    world: World, lock: EnvLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish_deb("liba", "2")
    world.server.files["/snap/liba"] = ("application/octet-stream", b"other")
    monkeypatch.setenv("EDGEKILN_SNAPSHOT_URL", f"{world.server.url}/snap/{{name}}")
    said = r"liba_1_amd64.deb: 127.0.0.1 answers 404, sha256 is .*, the lock says"
    with pytest.raises(FetchError, match=said) as caught:
        build_base(lock)
    assert not isinstance(caught.value, Gone)


@pytest.mark.parametrize("damaged", [False, True])
def test_what_the_mirror_dropped_comes_from_a_bundle(
    world: World, lock: EnvLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    (one,) = lock.base
    content = tmp_path / "content"
    content.write_bytes(world.server.files[f"/debian/{one.file}"][1])
    path = f"sources/{one.sha256}/{Path(one.file).name}"
    member = Member(path=path, kind="source", sha256=one.sha256, bytes=one.bytes)
    facts = {"format": FORMAT, "env": "small", "platform": "linux/amd64", "epoch": 0, "pythons": ()}
    manifest = Manifest(**facts, lock_digest=lock.digest, members=(member,))
    bundle = tmp_path / "small.tar"
    write_bundle(manifest, {path: content}, bundle, Silent())
    if damaged:
        raw = bundle.read_bytes()
        place = raw.index(content.read_bytes())
        bundle.write_bytes(raw[:place] + b"?" + raw[place + 1 :])
    world.publish_deb("liba", "2")
    monkeypatch.setenv("EDGEKILN_BUNDLE", str(bundle))
    world.server.requests.clear()
    if damaged:
        with pytest.raises(Gone, match=r"liba_1_amd64.deb: small.tar is damaged, 127.0.0.1 answers 404"):
            build_base(lock)
    else:
        build_base(lock)
        assert world.server.requests == []


def test_without_any_place_it_stops_with_every_file_every_place_and_the_command(world: World, lock: EnvLock) -> None:
    world.drop_wheels("helper")
    world.drop_wheels("thing")
    with pytest.raises(Gone) as caught, refreshing("small"):
        fetch([wheel(one) for one in lock.package], "packages", Silent())
    said = str(caught.value)
    gone = "the package index does not list it"
    assert said.startswith(f"2 locked files can't be had: helper-1.0-py3-none-any.whl ({gone}); thing-1.0-")
    assert "EDGEKILN_INDEX_URL, EDGEKILN_SNAPSHOT_URL, EDGEKILN_BUNDLE" in said
    assert said.endswith("or refresh the lock: `invoke lock --env small --only packages`")
    assert "\n" not in said


def test_a_base_whose_packages_are_gone_drifts_to_what_the_mirror_has(world: World, lock: EnvLock) -> None:
    world.publish_deb("liba", "2")
    with pytest.raises(Gone) as caught:
        build_base(lock)
    after = drifted(lock, load_spec("small"), caught.value, Silent())
    assert after.drift == ("base: liba 1 -> 2",)
    assert (after.package, after.source_date_epoch) == (lock.package, lock.source_date_epoch)
    assert after.digest != lock.digest
    build_base(after)


def test_what_nothing_can_replace_is_an_error_with_drift_as_well(world: World, lock: EnvLock) -> None:
    del world.server.files[f"/debian/{lock.base[0].file}"]  # the index still names it
    with pytest.raises(Gone) as caught:
        build_base(lock)
    with pytest.raises(Gone, match=r"liba_1_amd64.deb: 127.0.0.1 answers 404"):
        drifted(lock, load_spec("small"), caught.value, Silent())


def test_other_bytes_are_never_drifted_from(world: World, lock: EnvLock) -> None:
    world.server.files[f"/files/{lock.package[0].file}"] = ("application/zip", b"other")
    with pytest.raises(FetchError, match=r"helper-1.0-.*sha256 is .*, the lock says"):
        fetch([wheel(one) for one in lock.package], "packages", Silent())


def test_with_drift_allowed_a_run_goes_on_and_says_what_moved(world: World) -> None:
    world.write_spec(world.spec_text().replace(world.spec_text().split("\n\n")[2], installed().rstrip()))
    made = make_lock(load_spec("small"), DAY, Silent())
    (python,) = made.interpreter
    other = msgspec.structs.replace(python, sha256="0" * 64)  # as locked on a machine with another build of it
    text = locks.to_text(msgspec.structs.replace(made, interpreter=(other,)))
    locks.lock_path("small").write_text(text)
    world.drop_wheels("helper")
    world.publish_wheel("helper", "1.1", {"helper.py": b"y = 'drifted'\n"}, day="2025-07-01")
    with pytest.raises(Gone, match=r"`invoke lock --env small --only python`, or go on without them: --allow-drift"):
        environment("small", CHOSEN, Silent(), allow_drift=False)
    built, data = environment("small", CHOSEN, Silent(), allow_drift=True)
    version = python.version
    assert built.lock.drift == (
        f"python: installed {version} (000000000000) -> {version} ({python.sha256[:12]})",
        "packages: helper 1.0 -> 1.1",
    )
    python3 = built.environment.tree / "bin" / "python3"
    assert process.run([python3, "-c", "import helper; print(helper.y)"]) == b"drifted\n"
    assert (data / "pics" / "pics" / "a.png").read_bytes() == b"a picture"
    assert locks.lock_path("small").read_text() == text


@pytest.mark.engine
def test_an_image_that_drifted_says_so_in_its_label(world: World) -> None:
    chosen = choose("docker")
    assert chosen.docker is not None
    world.write_spec(world.spec_text().replace(world.spec_text().split("\n\n")[2], installed().rstrip()))
    locks.write_lock(make_lock(load_spec("small"), DAY, Silent()))
    world.publish_deb("liba", "2")
    built, _ = environment("small", chosen, Silent(), allow_drift=True)
    images = chosen.docker.client.images
    try:
        labels = images.get(str(built.environment.image)).labels
    finally:
        images.remove(str(built.environment.image), force=True)
    assert labels["io.edgekiln.drift"] == "base: liba 1 -> 2"
    assert labels["io.edgekiln.lock-digest"] == built.lock.digest != locks.read_lock("small").digest
