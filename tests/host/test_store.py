"""The cache: what may be pruned and what may not, writes that are killed, disks that are full, small or others'."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import small_lock
from serving import Server, make_wheel

from envs import sources, tree
from envs.engines.base import Container, Environment, Task
from envs.engines.local import LocalEngine
from envs.fetch import fetch, stored, wheel
from envs.lock import EnvLock, to_text
from envs.progress import Silent
from envs.store import prune, shared
from envs.store.items import Item, Ledger
from envs.store.needs import Uses
from envs.store.prune import Limits, Pruned, doomed

ROOT = Path(__file__).resolve().parents[2]
ALL = Limits(older_than_s=0)
CHILD = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests/host')!r}]\n"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    sources.index_url.cache_clear()
    shared._is_whole.cache_clear()
    yield
    sources.index_url.cache_clear()


@pytest.fixture
def using(monkeypatch: pytest.MonkeyPatch) -> Callable[[Uses], None]:
    """Says who uses the cache; nobody until it is called."""

    def say(uses: Uses) -> None:
        monkeypatch.setattr(prune, "uses", lambda: uses)

    say(Uses())
    return say


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of locks, empty."""
    folder = tmp_path / "locks"
    folder.mkdir()
    monkeypatch.setattr(prune, "LOCKS", folder)
    return folder


@dataclasses.dataclass
class Built:
    lock: EnvLock
    tree: Path
    server: Server


@pytest.fixture
def built(server: Server, tmp_path: Path) -> Built:
    lock = small_lock(tmp_path / "wheels")
    server.add_wheels(tmp_path / "wheels")
    return Built(lock, tree.ensure_tree(lock, Silent()), server)


def run(limits: Limits, **how: bool) -> Pruned:
    return prune.prune(limits, Silent(), **how)


def left(cache: Path) -> set[str]:
    """Names of what is in the cache's folders, lock files apart."""
    folders = ("store", "trees", "layers", "data", "unpacked")
    return {f"{f}/{path.name}" for f in folders for path in (cache / f).glob("*") if path.suffix != ".lock"}


# --- what may go


def test_what_a_lock_names_stays_whatever_its_age(
    built: Built, cache: Path, locks: Path, using: Callable[[Uses], None]
) -> None:
    (locks / "small.lock.toml").write_text(to_text(built.lock))
    run(ALL)
    assert built.tree.exists()
    assert stored(built.lock.package[0].sha256, built.lock.package[0].file).exists()
    assert not (cache / "unpacked").exists()  # it only saves time
    assert tree.ensure_tree(built.lock, Silent()) == built.tree


def test_what_no_lock_names_goes_and_is_made_again(
    built: Built, cache: Path, locks: Path, using: Callable[[Uses], None]
) -> None:
    done = run(ALL)
    assert left(cache) == set()
    assert {one.kind for one in done.removed} == {"source", "tree", "unpacked"}
    assert done.freed_bytes > 0
    assert done.kept_bytes == 0
    assert tree.ensure_tree(built.lock, Silent()) == built.tree


def test_a_dry_run_removes_nothing_and_says_the_same(
    built: Built, cache: Path, locks: Path, using: Callable[[Uses], None]
) -> None:
    before = left(cache)
    told = run(ALL, dry_run=True)
    assert left(cache) == before
    done = run(ALL)
    assert [(one.kind, one.name) for one in told.removed] == [(one.kind, one.name) for one in done.removed]
    assert told.freed_bytes == done.freed_bytes


def test_what_was_used_lately_stays(built: Built, cache: Path, locks: Path, using: Callable[[Uses], None]) -> None:
    before = left(cache)
    done = run(Limits(older_than_s=3600))
    assert left(cache) == before
    assert not done.removed
    assert done.spare_bytes > 0


def test_a_lock_in_another_format_keeps_the_sources_it_names_and_all_trees(
    built: Built, locks: Path, using: Callable[[Uses], None]
) -> None:
    newer = to_text(built.lock).replace("version = 1", "version = 99\nunheard_of = true", 1)
    (locks / "small.lock.toml").write_text(newer)
    done = run(ALL)
    assert built.tree.exists()
    assert stored(built.lock.package[0].sha256, built.lock.package[0].file).exists()
    assert any("can't be read" in note for note in done.notes)


def test_a_kept_container_keeps_its_tree_until_it_is_removed(built: Built, tmp_path: Path, locks: Path) -> None:
    engine = LocalEngine()
    environment = Environment("small", built.lock.digest, built.tree)
    task = Task(environment=environment, command=("sleep", "100"), mounts=[], workdir=str(tmp_path), name="kept")
    engine.start(task)
    engine.stop("kept")
    run(ALL)
    assert built.tree.exists()
    engine.start(task)
    engine.remove("kept", force=True)
    run(ALL)
    assert not built.tree.exists()


def test_a_tree_that_a_process_runs_from_stays(built: Built, locks: Path) -> None:
    child = subprocess.Popen([built.tree / "bin/python3", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        run(ALL)
        assert built.tree.exists()
    finally:
        child.communicate(b"\n")
    run(ALL)
    assert not built.tree.exists()


def test_what_only_saves_time_goes_with_age(cache: Path, locks: Path, using: Callable[[Uses], None]) -> None:
    names = ["bundle/wheels-1.json", "registry/uploads/1", "registry/pushed/host/r.json", "conda/tool-1/bin/python"]
    names += [f"locks-json/{'1' * 64}/lock.json", f"interpreters/{'2' * 64}.tar", f"interpreters/{'3' * 64}.tar"]
    for name in names:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(b"x")
    (locks / "a.lock.toml").write_text(f'sha256 = "{"3" * 64}"')
    run(ALL)
    assert [name for name in names if (cache / name).exists()] == names[-1:]


@pytest.mark.parametrize(("of_lock", "stays"), [("sha256:" + "9" * 64, True), (None, False)])
def test_data_stays_while_a_container_may_have_it_mounted(
    cache: Path, locks: Path, using: Callable[[Uses], None], of_lock: str | None, stays: bool
) -> None:
    (cache / "data" / "x").mkdir(parents=True)
    (cache / "data" / "x" / "picture").write_bytes(b"x")
    facts = dict.fromkeys(("id", "name", "env", "image", "created", "command"), "x")
    if of_lock:
        using(Uses(containers=(Container(**facts, state="stopped", engine="docker", lock_digest=of_lock),)))
    run(ALL)
    assert (cache / "data" / "x").exists() == stays


def test_containers_that_could_not_be_asked_keep_the_data(
    cache: Path, locks: Path, using: Callable[[Uses], None]
) -> None:
    (cache / "data" / "x").mkdir(parents=True)
    using(Uses(unasked="no engine answers"))
    assert run(ALL).notes == ("no engine answers",)
    assert (cache / "data" / "x").exists()


def test_a_download_that_goes_on_is_not_touched(cache: Path, locks: Path, using: Callable[[Uses], None]) -> None:
    (cache / "store").mkdir(parents=True)
    part, lock = cache / "store" / f"{'a' * 64}.part", cache / "store" / f"{'a' * 64}.lock"
    part.write_bytes(b"half")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert any("in use" in note for note in run(ALL).notes)
        assert part.exists()
    run(Limits())  # it is young: the next fetch goes on from it
    assert part.exists()
    run(ALL)
    assert not part.exists()
    assert not lock.exists()


def test_leftovers_of_killed_processes_always_go(cache: Path, locks: Path, using: Callable[[Uses], None]) -> None:
    dead = int(subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True).stdout)
    abandoned = [f"trees/.small-{dead}", f"trees/.small-{dead}.unpacked", f"data/.{'b' * 64}-{dead}"]
    abandoned.append(f".verify-{dead}-q1w2")
    alive = [f"trees/.small-{os.getpid()}", "layers/.base.q1w2", f".verify-{os.getpid()}-1"]
    old = "layers/.base.old"
    for name in [*abandoned, *alive, old]:
        (cache / name).mkdir(parents=True)
    (cache / "store" / ("c" * 64)).mkdir(parents=True)
    (cache / "store" / ("c" * 64) / f".x.whl.{dead}").write_bytes(b"half")
    long_ago = time.time() - 2 * 86_400
    os.utime(cache / old, (long_ago, long_ago))
    run(Limits())
    assert not any((cache / name).exists() for name in [*abandoned, old])
    assert all((cache / name).exists() for name in alive)
    assert not list(cache.glob("store/*/.*"))


def test_a_file_with_two_names_is_freed_with_the_last(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"x" * 40_000)
    os.link(tmp_path / "a" / "x", tmp_path / "b" / "x")
    ledger = Ledger()
    items = [
        Item(kind="tree", name=name, paths=(tmp_path / name,), used_at=ledger.enter((tmp_path / name,)))
        for name in "ab"
    ]
    whole = ledger.total_bytes
    assert whole >= 40_000
    assert [ledger.remove(item) for item in items] == [0, whole]
    assert ledger.total_bytes == 0


@given(
    st.lists(st.tuples(st.integers(0, 50), st.booleans(), st.integers(1, 9)), max_size=12),
    st.none() | st.integers(0, 60),
    st.none() | st.integers(0, 60),
)
def test_the_oldest_go_first_and_no_more_than_must(
    drawn: list[tuple[int, bool, int]], age: int | None, most: int | None
) -> None:
    now = 50.0
    size = {str(n): count for n, (_, _, count) in enumerate(drawn)}
    items = [
        Item(kind="tree", name=str(n), paths=(), used_at=float(used), needed_by="a lock" if needed else "")
        for n, (used, needed, _) in enumerate(drawn)
    ]
    there = dict(size)
    gone = []
    for item in doomed(items, Limits(older_than_s=age, max_bytes=most), now, lambda: sum(there.values())):
        gone.append(item)
        del there[item.name]
    assert not any(item.needed_by for item in gone)
    assert [item.used_at for item in gone] == sorted(item.used_at for item in gone)
    stay = [item for item in items if item.name in there and not item.needed_by]
    if gone and stay:
        assert max(item.used_at for item in gone) <= min(item.used_at for item in stay)
    if age is not None:
        assert all(now - item.used_at < age for item in stay)
    if most is not None and stay:
        assert sum(there.values()) <= most
    last = gone[-1] if gone else None
    if last and most is not None and not (age is not None and now - last.used_at >= age):
        assert sum(there.values()) + size[last.name] > most


def test_stage_results_go_only_when_asked_and_not_when_fresh(
    cache: Path, workspace: Path, locks: Path, using: Callable[[Uses], None]
) -> None:
    fresh, stale = workspace / ".cache/objects/aa/aa1", workspace / ".cache/objects/bb/bb1"
    for path in (fresh, stale):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 5000)
    os.utime(stale, (1, 1))
    run(ALL)
    assert stale.exists()
    run(ALL, with_results=True)
    assert fresh.exists()
    assert not stale.exists()


@pytest.mark.parametrize("words", [["--older-than", "soon"], ["--max-size", "-1"], ["--max-size", "nan"]])
def test_a_limit_that_is_no_number_is_wrong_use(cache: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "invoke", "prune-store", "--json", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert words[0] in json.loads(done.stdout)["error"]["message"]


# --- two at once, and killed in the middle


def child(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD + code])


def kill_when(process: subprocess.Popen[bytes], seen: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not seen():
        assert process.poll() is None, "it ended before it was seen at work"
        assert time.monotonic() < ends
        time.sleep(0.0005)
    process.kill()
    process.wait()


def building(lock: EnvLock) -> str:
    return f"""
import msgspec
from envs import tree
from envs.lock import EnvLock
from envs.progress import Silent
print(tree.ensure_tree(msgspec.json.decode({msgspec.json.encode(lock)!r}, type=EnvLock), Silent()))
"""


def test_two_processes_that_build_at_once_share_the_work(server: Server, cache: Path, tmp_path: Path) -> None:
    lock = small_lock(tmp_path / "wheels")
    server.add_wheels(tmp_path / "wheels")
    both = [child(building(lock)) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    assert len([path for path, _ in server.requests if path.endswith(".whl")]) == 1
    assert [path.name for path in (cache / "trees").iterdir()] == [tree.tree_key(lock, lock.interpreter[0])]


def test_a_build_killed_in_the_middle_leaves_nothing_half_made(
    server: Server, cache: Path, tmp_path: Path, locks: Path, using: Callable[[Uses], None]
) -> None:
    lock = small_lock(tmp_path / "wheels")
    server.add_wheels(tmp_path / "wheels")
    kill_when(child(building(lock)), lambda: any((cache / "trees").glob(".small-*/lib/*/json")))
    assert tree.existing_tree(lock) is None
    run(Limits())
    assert not list((cache / "trees").glob(".*"))
    made = tree.ensure_tree(lock, Silent())
    assert subprocess.run([made / "bin/python3", "-c", "import small"], env={}).returncode == 0


def test_a_download_killed_in_the_middle_goes_on(
    server: Server, cache: Path, tmp_path: Path, locks: Path, using: Callable[[Uses], None]
) -> None:
    big = make_wheel(tmp_path / "wheels", "big", "1.0", {"big.py": os.urandom(3 << 20)})
    server.add_wheels(tmp_path / "wheels")
    server.block_s = 0.02
    code = f"""
from envs.fetch import fetch, wheel
from envs.lock import LockedWheel
from envs.progress import Silent
fetch([wheel(LockedWheel(**{msgspec.to_builtins(big)!r}))], "big", Silent())
"""
    part = cache / "store" / f"{big.sha256}.part"
    kill_when(child(code), lambda: part.exists() and part.stat().st_size > 1 << 20)
    assert not stored(big.sha256, big.file).exists()
    server.block_s = 0.0
    fetch([wheel(big)], "big", Silent())
    assert server.requests[-1][1]
    assert left(cache) == {f"store/{big.sha256}"}


def test_a_copy_into_the_store_killed_in_the_middle_is_no_file(
    cache: Path, tmp_path: Path, locks: Path, using: Callable[[Uses], None]
) -> None:
    archive = tmp_path / "base.tar"
    with archive.open("wb") as file:
        file.truncate(400 << 20)
    code = f"from pathlib import Path\nfrom envs.fetch import keep\nkeep(Path({str(archive)!r}), 'd' * 64)\n"
    kill_when(child(code), lambda: any(cache.glob("store/*/.*")))
    assert not stored("d" * 64, "base.tar").exists()
    (locks / "x.lock.toml").write_text(f'sha256 = "{"d" * 64}"')
    run(Limits())
    assert not list(cache.glob("store/*/.*"))
