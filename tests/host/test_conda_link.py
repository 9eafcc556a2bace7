"""Conda packages become a tree without conda: the locked bytes, the image's prefix, and nothing outside."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from channel import CHANNEL, PLACEHOLDER, Member, add_python, make_package, python_package
from hypothesis import given
from hypothesis import strategies as st
from making import small_lock
from serving import make_wheel, serving

from envs import layers, sources, tree
from envs.conda import link
from envs.conda.package import unpack
from envs.errors import BuildError, FetchError
from envs.interpreter import PREFIX, tree_sha256
from envs.lock import EnvLock, LockedConda
from envs.progress import Silent
from envs.verify import verify

SITE = "lib/python3.10/site-packages"
METADATA = b"Metadata-Version: 2.1\nName: graphs\nVersion: 2.0\n"


def packages(channel: Path) -> tuple[LockedConda, ...]:
    """A library with placeholders, a noarch package with an entry point, and the interpreter."""
    library = make_package(
        channel,
        "libedge",
        "1.2",
        {
            "lib/libedge.so.1": Member(b"\x7fELF" + PLACEHOLDER.encode() + b"/share/edge\0rest\0", mode="binary"),
            "lib/libedge.so": Member(link="libedge.so.1"),
            "bin/edge-config": Member(
                f"#!{PLACEHOLDER}/bin/python\nprefix={PLACEHOLDER}\n".encode(), mode="text", executable=True
            ),
            "share/edge/note.txt": Member(b"a note\n"),
        },
        old_format=True,
    )
    graphs = make_package(
        channel,
        "graphs",
        "2.0",
        {
            "site-packages/graphs/__init__.py": Member(b"def main():\n    print('graphs')\n"),
            "site-packages/graphs/__pycache__/__init__.cpython-310.pyc": Member(b"stale"),
            "site-packages/graphs/where.py": Member(f"PREFIX = '{PLACEHOLDER}'\n".encode(), mode="text"),
            "site-packages/graphs-2.0.dist-info/METADATA": Member(METADATA),
            "site-packages/graphs-2.0.dist-info/RECORD": Member(
                b"graphs/__init__.py,sha256=untrue,1\ngraphs/where.py,,\ngraphs-2.0.dist-info/METADATA,,\n"
                b"graphs-2.0.dist-info/RECORD,,\n"
            ),
            "site-packages/graphs-2.0.dist-info/direct_url.json": Member(b"{}"),
            "python-scripts/graph-tool": Member(b"#!/bin/sh\n", executable=True),
        },
        noarch="python",
        entry_points=("graphs = graphs:main",),
        depends=("libedge",),
    )
    return (graphs, library, add_python(channel))


@pytest.fixture
def conda_lock(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EnvLock]:
    sources.index_url.cache_clear()
    version = python_package()[1]
    locked = packages(tmp_path / "channels" / CHANNEL)
    wheel = make_wheel(tmp_path / "wheels", "small", "1.0", {"small/__init__.py": b"x = 1\n"})
    monkeypatch.setenv("EDGEKILN_CONDA_URL", (tmp_path / "channels").as_uri())
    with serving() as server:
        server.add_wheels(tmp_path / "wheels")
        monkeypatch.setenv("EDGEKILN_INDEX_URL", f"{server.url}/simple")
        yield small_lock(
            tmp_path / "unused",
            installer="conda",
            interpreter=(),
            conda=locked,
            package=(wheel,),
            trim={},
            python=version,
        )
    sources.index_url.cache_clear()


def test_a_conda_tree_runs_and_imports_from_conda_and_from_pip(conda_lock: EnvLock) -> None:
    made = tree.ensure_tree(conda_lock, Silent())
    ask = "import graphs, graphs.where, small, sys, ssl, ctypes; print(graphs.where.PREFIX, sys.prefix)"
    done = subprocess.run([made / "bin/python3", "-c", ask], env={}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [PREFIX, str(made)]
    assert tree.read_record(made).interpreter.source == "conda"
    assert tree.existing_tree(conda_lock) == made


def test_a_tree_of_conda_packages_alone_is_a_tree(conda_lock: EnvLock) -> None:
    made = tree.ensure_tree(msgspec.structs.replace(conda_lock, package=()), Silent())
    subprocess.run([made / "bin/python3", "-c", "import graphs"], env={}, check=True)


def test_placeholders_become_the_prefix_of_the_image(conda_lock: EnvLock) -> None:
    made = tree.ensure_tree(conda_lock, Silent())
    binary = (made / "lib/libedge.so").read_bytes()
    assert binary.startswith(b"\x7fELF" + PREFIX.encode() + b"/share/edge\0")
    assert binary.endswith(b"\0rest\0")
    assert len(binary) == 4 + len(PLACEHOLDER) + len("/share/edge\0rest\0")
    assert (made / "bin/edge-config").read_text() == f"#!{PREFIX}/bin/python\nprefix={PREFIX}\n"
    assert os.access(made / "bin/edge-config", os.X_OK)
    assert os.access(made / "bin/graph-tool", os.X_OK)
    assert (made / "bin/graphs").read_text().startswith(f"#!{PREFIX}/bin/python3.10\n")
    for file in made.rglob("*"):
        assert file.is_symlink() or not file.is_file() or PLACEHOLDER.encode() not in file.read_bytes()


def test_the_same_conda_lock_gives_the_same_bytes_elsewhere(
    conda_lock: EnvLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tree.ensure_tree(conda_lock, Silent())
    digests = [_digests(first)]
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "a longer name of another cache"))
    old = os.umask(0o077)
    try:
        second = tree.ensure_tree(conda_lock, Silent())
    finally:
        os.umask(old)
    digests.append(_digests(second))
    assert digests[0] == digests[1]
    for made in (first, second):
        (made / tree.RECORD).unlink()  # says how long it took
    assert first != second
    assert tree_sha256(first) == tree_sha256(second)


def _digests(made: Path) -> list[str | None]:
    found = layers.tree_layers(made, 1767225600)
    for layer in found:
        for _ in layer.stream():
            pass
    return [layer.diff_id for layer in found]


def test_conda_meta_and_records_say_what_is_there_and_nothing_of_this_machine(conda_lock: EnvLock) -> None:
    made = tree.ensure_tree(conda_lock, Silent())
    listed: set[str] = set()
    for file in (made / "conda-meta").glob("*.json"):
        text = file.read_text()
        assert str(made.parents[2]) not in text
        assert "://" not in text
        record = json.loads(text)
        for entry in record["paths_data"]["paths"]:
            there = made / entry["_path"]
            assert there.is_symlink() or link.sha256_file(there) == entry["sha256_in_prefix"]
        assert not listed & set(record["files"])
        listed |= set(record["files"])
    there = {p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_symlink() or p.is_file()}
    beside = {p for p in there if p.startswith(("conda-meta/", ".edgekiln/", f"{SITE}/small"))}
    assert there - beside == listed
    assert f"{SITE}/graphs-2.0.dist-info/direct_url.json" not in there
    record_text = (made / SITE / "graphs-2.0.dist-info/RECORD").read_text()
    assert "untrue" not in record_text
    assert record_text.count("sha256=") == 3


def test_verify_finds_a_changed_file_of_a_conda_package(conda_lock: EnvLock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "read_lock", lambda *asked: conda_lock)
    made = tree.ensure_tree(conda_lock, Silent())
    request = verify.Request(env="small", engine="local")
    assert [report.equal for report in verify.verify(request, Silent())] == [True]
    (made / "share/edge/note.txt").write_bytes(b"another note\n")
    (report,) = verify.verify(request, Silent())
    assert [one.path for one in report.differences] == ["share/edge/note.txt"]


def test_a_conda_package_with_another_hash_stops_the_build_and_leaves_nothing(conda_lock: EnvLock) -> None:
    broken = (msgspec.structs.replace(conda_lock.conda[0], sha256="f" * 64), *conda_lock.conda[1:])
    with pytest.raises(FetchError, match=r"graphs-2.0-h0_0.conda: sha256 is"):
        tree.ensure_tree(msgspec.structs.replace(conda_lock, conda=broken), Silent())
    assert list(tree.trees_root().glob("*")) == []


def test_a_missing_conda_package_names_its_host_and_what_to_set(
    conda_lock: EnvLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKILN_CONDA_URL", "http://127.0.0.1:9/{channel}")
    with pytest.raises(FetchError, match=r"127.0.0.1 can't be reached.*EDGEKILN_CONDA_URL"):
        tree.ensure_tree(conda_lock, Silent())


def test_trim_reaches_conda_packages_too(conda_lock: EnvLock) -> None:
    trimmed = msgspec.structs.replace(conda_lock, trim={"graphs": ("graphs/where.py",)})
    made = tree.ensure_tree(trimmed, Silent())
    assert not (made / SITE / "graphs/where.py").exists()
    assert "where.py" not in (made / "conda-meta/graphs-2.0-h0_0.json").read_text()


def test_a_package_from_conda_and_from_pip_is_refused(conda_lock: EnvLock, tmp_path: Path) -> None:
    twin = make_wheel(tmp_path / "wheels", "graphs", "2.0", {"graphs/__init__.py": b""})
    with pytest.raises(BuildError, match=r"graphs comes from conda and from pip"):
        tree.ensure_tree(msgspec.structs.replace(conda_lock, package=(twin,)), Silent())


def linked(tmp_path: Path, *made: LockedConda, root: str = "prefix") -> link.Prefix:
    channel = tmp_path / CHANNEL
    files = [(one, channel / one.subdir / one.file) for one in made]
    return link.link_all(files, tmp_path / root, "3.10", Silent())


def info(name: str, kind: bytes, points_to: str = "", size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, points_to, size
    return made


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (info("../out", tarfile.REGTYPE), "would leave its folder"),
        (info("a/../../out", tarfile.REGTYPE), "would leave its folder"),
        (info("/etc/out", tarfile.REGTYPE), "would leave its folder"),
        (info("a", tarfile.SYMTYPE, "/etc/passwd"), "would leave its folder"),
        (info("a/b", tarfile.SYMTYPE, "../../out"), "would leave its folder"),
        (info("a", tarfile.LNKTYPE, "../../etc/passwd"), "would leave its folder"),
        (info("a", tarfile.LNKTYPE, "not/there"), "hard link to no file"),
        (info("a", tarfile.CHRTYPE), "neither file, folder nor link"),
        (info("a", tarfile.FIFOTYPE), "neither file, folder nor link"),
        (info("lib/note.txt", tarfile.REGTYPE), "is there twice"),
        (info("lib/extra.txt", tarfile.REGTYPE), "not listed in info/paths.json"),
    ],
    ids=lambda one: one.name if isinstance(one, tarfile.TarInfo) else "",
)
@pytest.mark.parametrize("old_format", [False, True])
def test_a_hostile_member_is_refused(tmp_path: Path, member: tarfile.TarInfo, said: str, old_format: bool) -> None:
    members = {"lib/note.txt": Member(b"x")}
    made = make_package(tmp_path / CHANNEL, "bad", "1.0", members, raw=(member,), old_format=old_format)
    with pytest.raises(BuildError, match=rf"^bad-1.0-h0_0\S+: .*{said}"):
        linked(tmp_path, made)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "prefix.unpacked").exists()


def test_nothing_is_written_through_a_link_of_the_package(tmp_path: Path) -> None:
    members = {"sub/there": Member(b"x"), "here": Member(link="sub"), "here/file": Member(b"x")}
    with pytest.raises(BuildError, match=r"'here/file' lies behind a link"):
        linked(tmp_path, make_package(tmp_path / CHANNEL, "bad", "1.0", members))


def test_links_that_leave_the_prefix_only_together_are_refused(tmp_path: Path) -> None:
    members = {"a/b/c": Member(link="../.."), "z": Member(link="a/b/c/../../x"), "a/x": Member(b"x")}
    with pytest.raises(BuildError, match=r"link 'z' leaves the prefix by way of other links"):
        linked(tmp_path, make_package(tmp_path / CHANNEL, "bad", "1.0", members))


def test_a_tampered_member_is_named(tmp_path: Path) -> None:
    members = {"lib/note.txt": Member(b"changed", sha256="0" * 64)}
    with pytest.raises(BuildError, match=r"lib/note.txt is not what info/paths.json says"):
        linked(tmp_path, make_package(tmp_path / CHANNEL, "bad", "1.0", members))


def test_a_package_under_another_name_is_refused(tmp_path: Path) -> None:
    made = make_package(tmp_path / CHANNEL, "bad", "1.0", {"lib/note.txt": Member(b"x")})
    with pytest.raises(BuildError, match=r"says it is bad 1.0 h0_0, the lock says otherwise"):
        linked(tmp_path, msgspec.structs.replace(made, version="2.0"))


def test_packages_that_clobber_each_other_are_refused_and_equal_files_are_not(tmp_path: Path) -> None:
    channel = tmp_path / CHANNEL
    one = make_package(channel, "one", "1.0", {"share/note": Member(b"x"), "share/same": Member(b"same")})
    two = make_package(channel, "two", "1.0", {"share/note": Member(b"y")})
    same = make_package(channel, "same", "1.0", {"share/same": Member(b"same")})
    folder = make_package(channel, "via", "1.0", {"share": Member(link="lib")})
    behind = make_package(channel, "zed", "1.0", {"share/note/deep": Member(b"y")})
    with pytest.raises(BuildError, match=r"two-1.0-h0_0.conda: share/note is also in one-1.0-h0_0.conda"):
        linked(tmp_path, one, two, root="a")
    with pytest.raises(BuildError, match=r"via-1.0-h0_0.conda: share is a folder of another package"):
        linked(tmp_path, one, folder, root="b")
    with pytest.raises(BuildError, match=r"zed-1.0-h0_0.conda: share/note/deep lies behind share/note, a file or link"):
        linked(tmp_path, one, behind, root="c")
    assert set(linked(tmp_path, one, same, root="d").linked) == {"share/note", "share/same"}


def test_a_decompression_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.conda.package.ALLOWED_BYTES", 1 << 20)
    made = make_package(tmp_path / CHANNEL, "bomb", "1.0", {"zeros": Member(bytes(8 << 20))})
    with pytest.raises(BuildError, match=r"bomb-1.0-h0_0.conda: unpacks to far more than a package does"):
        unpack(tmp_path / CHANNEL / made.subdir / made.file, tmp_path / "folder")


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("part", [0.5, 0.98])
def test_a_truncated_package_is_named(tmp_path: Path, old_format: bool, part: float) -> None:
    made = make_package(tmp_path / CHANNEL, "cut", "1.0", {"a": Member(os.urandom(5000))}, old_format=old_format)
    path = tmp_path / CHANNEL / made.subdir / made.file
    path.write_bytes(path.read_bytes()[: int(made.bytes * part)])
    with pytest.raises(BuildError, match=r"^cut-1.0-h0_0"):
        unpack(path, tmp_path / "folder")


@given(st.lists(st.sampled_from([b"/old/prefix", b"\0", b"x", b":", b"/old/pre"]), max_size=12).map(b"".join))
def test_a_binary_keeps_its_length_and_all_its_strings(content: bytes) -> None:
    done = link.in_binary(content, b"/old/prefix", b"/new")
    assert done is not None
    assert len(done) == len(content)
    for before, after in zip(content.split(b"\0")[:-1], _strings(content, done), strict=True):
        assert after.rstrip(b"\0") == before.replace(b"/old/prefix", b"/new")


def _strings(content: bytes, done: bytes) -> list[bytes]:
    parts, place = [], 0
    for before in content.split(b"\0")[:-1]:
        parts.append(done[place : place + len(before)])
        place += len(before) + 1
    return parts


def test_a_prefix_longer_than_the_placeholder_is_refused() -> None:
    assert link.in_binary(b"/old\0", b"/old", b"/longer") is None
