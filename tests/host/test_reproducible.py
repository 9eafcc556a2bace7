"""Two machines, one image: the things in which they may differ are made to differ, a few at a time and all at once.

What is compared are the digests of layers, configuration and manifest; that the two really differed is asserted too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from making import small_lock
from serving import make_wheel
from test_debian import entry, make_deb

from envs import interpreter

CHILD = Path(__file__).with_name("reproduced.py")
PLAIN = {"LC_ALL": "C", "LANG": "C", "TZ": "UTC"}
ELSEWHERE = {"LC_ALL": "C.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "Pacific/Chatham"}
START = "import os, socket, sys; os.umask(0o{mask:o}); {more}; os.execvp(sys.argv[1], sys.argv[1:])"

Words = list[str]
Result = dict[str, dict[str, Any]]


def umask() -> Words:
    return [sys.executable, "-c", START.format(mask=0o077, more="pass")]


def user() -> Words:
    return ["unshare", "--user", "--map-user=54321", "--map-group=54321"]


def host() -> Words:
    return ["unshare", "--uts", sys.executable, "-c", START.format(mask=0o022, more="socket.sethostname('elsewhere')")]


def cores() -> Words:
    return ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]


def day() -> Words:
    return ["faketime", "2031-02-03 04:05:06"]


# what differs -> how the command begins; what needs root comes before `user`, after which there is none
WRAPPED: dict[str, Callable[[], Words]] = {"host": host, "umask": umask, "cores": cores, "user": user, "year": day}
NEEDS = {"host": "unshare", "cores": "taskset", "user": "unshare", "year": "faketime", "order": "disorderfs"}
CIRCUMSTANCES = ("path", "language", "zone", "order", *WRAPPED)
TOGETHER = (("path", "language", "zone", "umask"), ("host", "user"), ("order",), ("cores", "year"), CIRCUMSTANCES)


def require(names: tuple[str, ...]) -> None:
    """Skip where a program or root is missing; where CI=true the test fails by itself."""
    missing = [NEEDS[name] for name in names if name in NEEDS and not shutil.which(NEEDS[name])]
    if os.environ.get("CI") == "true":
        return
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")
    if {"host", "user"} & set(names) and os.geteuid() != 0:
        pytest.skip("another host name or user needs root")
    if "cores" in names and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one core")


@contextlib.contextmanager
def shuffled(folder: Path) -> Iterator[Path]:
    """The folder seen through a file system that lists its entries in another order each time."""
    below = folder.with_name(f"{folder.name}-below")
    folder.mkdir()
    below.mkdir(mode=0o777)
    below.chmod(0o777)
    multi = f"--multi-user={'yes' if os.geteuid() == 0 else 'no'}"
    subprocess.run(["disorderfs", "--quiet", "--shuffle-dirents=yes", multi, below, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["fusermount3", "-u", "-z", folder], check=True)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lock.json and, in `files`, all that the lock names."""
    folder = tmp_path_factory.mktemp("sources")
    files = folder / "files"
    lock = small_lock(files)
    content = {
        f"big/{name}.py": os.urandom(4_000) for name in ("a", "B", "Ä", "ß", "_", "z-1", "z.1", "sub/x", "sub_x")
    }
    big = make_wheel(files, "big", "2.0", {**content, "big/__init__.py": b""})
    debs = [
        make_deb(
            files, "base-passwd", [entry("./usr/share/base-passwd/passwd.master", b"root:*:0:0::/root:/bin/sh\n")]
        ),
        make_deb(
            files, "dash", [entry("./bin/dash", b"shell", mode=0o755), entry("./etc/Ä", b"1"), entry("./etc/b", b"2")]
        ),
    ]
    base = tuple(locked for locked, _ in debs)
    whole = msgspec.structs.replace(lock, package=(*lock.package, big), base=base)
    (folder / "lock.json").write_bytes(msgspec.json.encode(whole))
    for path in (folder, files):
        path.chmod(0o755)
    return folder


def built(sources: Path, cache: Path, wrapped: Words, variables: dict[str, str]) -> Result:
    command = [*wrapped, sys.executable, str(CHILD), str(sources / "lock.json"), str(sources / "files")]
    # the home is another, and a pyenv in it would not be found
    python = Path(interpreter.installed("3.10")[0].executable).parent
    own = {
        "PATH": f"{os.environ['PATH']}:{python}",
        "EDGEKILN_CACHE": str(cache),
        "HOME": str(cache.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(command, env={**own, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result: Result = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("here") / "cache"


@pytest.fixture(scope="module")
def first(sources: Path, here: Path) -> Result:
    return built(sources, here, [], PLAIN)


@pytest.mark.parametrize("differing", TOGETHER, ids="+".join)
def test_the_image_is_the_same_on_a_machine_that_differs_in(
    differing: tuple[str, ...], sources: Path, first: Result, tmp_path_factory: pytest.TempPathFactory
) -> None:
    require(differing)
    folder = tmp_path_factory.mktemp("elsewhere")
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o777)  # for the other user
    cache = folder / ("Ein anderer Ort, länger" if "path" in differing else "cache")
    variables = {
        **PLAIN,
        **({name: ELSEWHERE[name] for name in ("LC_ALL", "LANG")} if "language" in differing else {}),
        **({"TZ": ELSEWHERE["TZ"]} if "zone" in differing else {}),
    }
    wrapped = [word for name, words in WRAPPED.items() if name in differing for word in words()]
    with shuffled(cache) if "order" in differing else contextlib.nullcontext(cache) as place:
        second = built(sources, place, wrapped, variables)
    same = {name for name in CIRCUMSTANCES if second["there"][name] == first["there"][name]}
    assert not same & set(differing), "it did not differ as it should have"
    assert second["bytes"] == first["bytes"]


def test_the_comparison_sees_another_epoch(sources: Path, here: Path, first: Result, tmp_path: Path) -> None:
    """What is compared above can differ: one second more gives another of each, from the same tree."""
    lock = json.loads((sources / "lock.json").read_bytes())
    shutil.copytree(sources / "files", tmp_path / "files")
    (tmp_path / "lock.json").write_text(json.dumps({**lock, "source_date_epoch": lock["source_date_epoch"] + 1}))
    second = built(tmp_path, here, [], PLAIN)
    for part, digest in first["bytes"]["layers"].items():
        assert second["bytes"]["layers"][part] != digest
    assert second["bytes"]["manifest"] != first["bytes"]["manifest"]
