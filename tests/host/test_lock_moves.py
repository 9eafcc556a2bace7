"""`invoke lock`, whole and in part, against a mirror and an index that move on; with real uv and real gpgv."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from moving import DAY, World

from envs import lock as locks
from envs import toml
from envs.build import base_of
from envs.errors import EdgekilnError, FetchError, LockError, SpecError, WrongUse
from envs.image_tar import Entry, tar_stream
from envs.lock import EnvLock
from envs.lock_check import lock_states
from envs.lock_diff import moves, touched
from envs.progress import Silent
from envs.resolve import make_lock, refresh_lock
from envs.spec import PARTS, load_spec, spec_sha256
from envs.verbs import locks as verbs

LATER = DAY.replace(year=2027)


KNOWN: dict[str, EnvLock] = {}  # by spec: a lock holds no host, so that of one test's server is that of the next


def made(world: World) -> EnvLock:
    text = world.spec_text()
    lock = KNOWN.get(text) or make_lock(load_spec("small"), DAY, Silent())
    if not lock.base_archive:
        KNOWN[text] = lock
    locks.write_lock(lock)
    return lock


def everything_moves(world: World) -> None:
    world.publish_deb("liba", "2")
    world.publish_wheel("helper", "2.0", {"helper.py": b"y = 2\n"}, day="2026-06-01")


def blocks(lock: EnvLock) -> dict[str, Any]:
    tables = toml.tomllib.loads(locks.to_text(lock))
    return {name: tables[name] for name in tables if name not in ("digest", "spec_sha256", "spec_parts")}


OF_PART = {
    "base": {"base", "base_date"},
    "packages": {"package", "exclude_newer"},
    "python": set[str](),
    "data": set[str](),
}


def test_a_lock_says_where_everything_came_from(world: World) -> None:
    lock = made(world)
    assert [(one.name, one.version) for one in lock.base] == [("liba", "1")]
    assert lock.base_date == "20260101T100100Z"
    assert [one.name for one in lock.package] == ["helper", "thing"]
    assert set(lock.spec_parts) == set(PARTS)
    assert locks.read_lock("small") == lock


@pytest.mark.parametrize("part", PARTS)
def test_a_refresh_of_one_part_leaves_the_others_byte_for_byte(world: World, part: str) -> None:
    before = made(world)
    everything_moves(world)
    after = refresh_lock(load_spec("small"), before, part, LATER, Silent())
    moved = {name for name, said in blocks(after).items() if said != blocks(before)[name]}
    assert moved == OF_PART[part]
    assert after.source_date_epoch == before.source_date_epoch


def test_a_whole_lock_moves_everything_and_the_epoch(world: World) -> None:
    before = made(world)
    everything_moves(world)
    after = make_lock(load_spec("small"), LATER, Silent())
    moved = {name for name, said in blocks(after).items() if said != blocks(before)[name]}
    assert moved == {"base", "base_date", "package", "exclude_newer", "source_date_epoch"}


def test_the_same_sources_give_the_same_lock_wherever_they_are(world: World) -> None:
    assert make_lock(load_spec("small"), DAY, Silent()) == made(world)


def test_a_refresh_is_refused_where_the_spec_moved_on_elsewhere_and_says_in_what(world: World) -> None:
    before = made(world)
    world.publish_wheel("checker", "2.0", {})
    world.write_spec(world.spec_text().replace('checker = "1.0"', 'checker = "2.0"'))
    with pytest.raises(LockError, match=r"small can't be refreshed in base alone: .* moved on in packages too"):
        refresh_lock(load_spec("small"), before, "base", LATER, Silent())
    after = refresh_lock(load_spec("small"), before, "packages", DAY, Silent())
    assert [(one.name, one.version) for one in after.test] == [("checker", "2.0")]
    old = msgspec.structs.replace(before, spec_parts={})
    with pytest.raises(LockError, match="does not say in what"):
        refresh_lock(load_spec("small"), old, "packages", DAY, Silent())
    with pytest.raises(LockError, match=r"older than envs/specs/small.toml \(packages\)"):
        locks.read_lock("small")


def test_a_part_that_is_none_is_wrong_use(world: World) -> None:
    with pytest.raises(WrongUse, match=r"'wheels' is no part of a lock; it is one of base, python, packages, data"):
        refresh_lock(load_spec("small"), made(world), "wheels", DAY, Silent())


def test_another_platform_s_lock_lies_beside_and_is_read_by_its_name(world: World) -> None:
    own = made(world)
    with pytest.raises(SpecError, match=r"sources for linux/arm64 name 0 versions"):
        make_lock(load_spec("small"), DAY, Silent(), platform="linux/arm64")
    other = '[[interpreter]]\nsource = "python-build-standalone"\nplatform = "linux/arm64"\n'
    other += f'version = "{own.python}"\nfile = "1/a.tar.gz"\nsha256 = "{"0" * 64}"\n'
    world.write_spec(world.spec_text().replace("[export]", f"{other}\n[export]"))
    arm = make_lock(load_spec("small"), DAY, Silent(), platform="linux/arm64")
    assert locks.write_lock(arm).name == "small.linux-arm64.lock.toml"
    assert locks.read_lock("small", "linux/arm64") == arm
    assert [one.source for one in arm.interpreter] == ["python-build-standalone"]
    assert arm.base[0].architecture == "arm64"
    assert arm.data == own.data
    assert locks.read_lock("small") == own  # what only another platform uses does not age it
    assert locks.locked_platforms("small") == ["linux/amd64", "linux/arm64"]
    locks.lock_path("small").write_text(locks.to_text(arm))
    with pytest.raises(LockError, match="it is the lock of small on linux/arm64"):
        locks.read_lock("small")


def test_a_lock_of_a_newer_tool_is_known_before_its_fields(world: World) -> None:
    made(world)
    path = locks.lock_path("small")
    path.write_text(path.read_text().replace("version = 1\n", "version = 9\nunheard_of = 1\n", 1))
    with pytest.raises(LockError, match=r"format 9 of a newer edgekiln, this one reads 1; bring this checkout up"):
        locks.read_lock("small")


def test_diff_writes_nothing_and_names_moves_tags_and_layers(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    before = made(world)
    text = locks.lock_path("small").read_text()
    everything_moves(world)
    assert verbs.lock("small", "2026-12-31", "", "", "", False, True) == 0
    said = json.loads(capsys.readouterr().out)
    assert locks.lock_path("small").read_text() == text
    assert said["path"] is None
    found = {(one["part"], one["name"]): (one["from"], one["to"]) for one in said["moved"]}
    assert found["base", "liba"] == ("1", "2")
    assert found["packages", "helper"] == ("1.0", "2.0")
    assert said["image"]["layers"] == ["base", "interpreter", "packages"]  # the epoch moved
    assert said["image"]["tag_before"] == f"edgekiln/small:{before.digest[7:19]}"
    assert verbs.lock("small", "", "base", "", "", False, True) == 0
    assert json.loads(capsys.readouterr().out)["image"]["layers"] == ["base"]


def test_a_day_with_a_part_that_no_day_decides_is_wrong_use(world: World) -> None:
    made(world)
    with pytest.raises(WrongUse, match="--newest says nothing about base"):
        verbs.lock("small", "2026-12-31", "base", "", "", True, True)


def test_what_moved_is_named_by_version_by_bytes_or_as_a_setting(world: World) -> None:
    old = made(world)
    one = msgspec.structs.replace(old.package[0], version="9.9")
    assert [str(m) for m in moves(old, msgspec.structs.replace(old, package=(one, *old.package[1:])))] == [
        "packages: helper 1.0 -> 9.9"
    ]
    rebuilt = msgspec.structs.replace(old.package[0], sha256="ab" * 32)
    (move,) = moves(old, msgspec.structs.replace(old, package=(rebuilt, *old.package[1:])))
    assert (move.what, move.after) == ("sha256", "1.0 (abababababab)")
    assert [str(m) for m in moves(old, msgspec.structs.replace(old, omit=("x",)))] == ["settings: omit none -> x"]
    assert [str(m) for m in moves(old, msgspec.structs.replace(old, base=()))] == ["base: liba 1 -> absent"]
    assert moves(old, old) == ()


def test_a_big_package_touches_its_own_layer_and_data_none(world: World) -> None:
    old = made(world)
    other = msgspec.structs.replace(old.package[1], sha256="cd" * 32)
    new = msgspec.structs.replace(old, package=(old.package[0], other), data=())
    image = touched(old, new, lambda _, wheel: (100 << 20) if wheel.name == "thing" else 1)
    assert (image.layers, image.mounted) == (("thing",), ("data",))
    assert touched(old, new, lambda _, wheel: 1).layers == ("packages",)


def test_check_of_all_names_each_lock_and_its_state(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    good = made(world)
    text = world.spec_text()
    for name in ("edited", "later", "never", "stale", "torn"):
        more = "locked = false\n" if name == "later" else ""
        its = text.replace('name = "small"\n', f'name = "{name}"\n{more}')
        (world.folder / "specs" / f"{name}.toml").write_text(its)
    for name in ("edited", "stale", "torn"):
        its = spec_sha256(load_spec(name))
        locks.write_lock(msgspec.structs.replace(good, name=name, spec_sha256=its))
    edited = locks.lock_path("edited")
    edited.write_text(edited.read_text().replace('version = "1.0"', 'version = "1.1"'))
    stale = world.folder / "specs" / "stale.toml"
    stale.write_text(stale.read_text().replace("opset = 13", "opset = 12"))
    torn = locks.lock_path("torn")
    torn.write_text(torn.read_text()[:500])
    states = {one.env: one for one in lock_states()}
    assert {env: one.state for env, one in states.items()} == {
        "edited": "unusable",
        "later": "not locked",
        "never": "unusable",
        "small": "up to date",
        "stale": "unusable",
        "torn": "unusable",
    }
    assert "was edited" in states["edited"].problem
    assert "has no lock" in states["never"].problem
    assert "older than envs/specs/stale.toml" in states["stale"].problem
    assert verbs.check("all", "", False) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    with pytest.raises(LockError, match="on a machine that reaches its sources"):
        locks.read_lock("later")


def test_a_changed_image_archive_is_refused(world: World, cache: Path) -> None:
    archive = world.folder / "specs" / "base.tar"
    image_id, diff_id = save_image(archive, b"one")
    world.write_spec(world.spec_text().replace('packages = ["liba"]', 'archive = "base.tar"'))
    lock = made(world)
    assert lock.base_archive is not None
    assert (lock.base_archive.image_id, lock.base_archive.diff_ids) == (image_id, (diff_id,))
    shutil.rmtree(cache / "store" / lock.base_archive.sha256)
    assert [layer.diff_id for layer in base_of(lock, Silent()).layers] == [diff_id]  # taken from beside the spec
    shutil.rmtree(cache / "store" / lock.base_archive.sha256)
    save_image(archive, b"two")
    with pytest.raises(FetchError, match=rf"base.tar: sha256 is .*, the lock says {lock.base_archive.sha256}"):
        base_of(lock, Silent())
    archive.unlink()
    with pytest.raises(FetchError, match=r"base.tar: not in the store of this machine, and not at .*specs/base.tar"):
        base_of(lock, Silent())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"architecture": "arm64"}, "base.tar: an image for linux/arm64, not for linux/amd64"),
        ({"diff_ids": ("sha256:" + "0" * 64,)}, "layer base-1: .*no longer holds"),
        ({"diff_ids": ()}, "1 layers, but its configuration names 0"),
    ],
)
def test_an_archive_that_contradicts_itself_is_not_locked(world: World, fault: dict[str, Any], said: str) -> None:
    save_image(world.folder / "specs" / "base.tar", b"one", **fault)
    world.write_spec(world.spec_text().replace('packages = ["liba"]', 'archive = "base.tar"'))
    with pytest.raises(EdgekilnError, match=said):
        made(world)


def save_image(path: Path, content: bytes, architecture: str = "amd64", diff_ids: Any = None) -> tuple[str, str]:
    """An image of one layer as `docker save` writes it: image id and the layer's diff_id."""
    layer = b"".join(tar_stream([Entry("file", "file", 0o644, len(content))], 0, lambda _: io.BytesIO(content)))
    diff_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    rootfs = {"type": "layers", "diff_ids": [diff_id] if diff_ids is None else diff_ids}
    config = msgspec.json.encode({"os": "linux", "architecture": architecture, "rootfs": rootfs})
    manifest = msgspec.json.encode([{"Config": "config.json", "RepoTags": [], "Layers": ["layer.tar"]}])
    parts = {"config.json": config, "manifest.json": manifest, "layer.tar": layer}
    entries = [Entry(name, "file", 0o644, len(part)) for name, part in parts.items()]
    path.write_bytes(b"".join(tar_stream(entries, 0, lambda entry: io.BytesIO(parts[entry.path]))))
    return f"sha256:{hashlib.sha256(config).hexdigest()}", diff_id
