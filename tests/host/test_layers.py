"""Layers: bytes and size follow from the entries alone; what is remembered of a tree holds, or goes."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_trees import EPOCH, SITE, make_tree

from envs import layers
from envs.errors import BuildError
from envs.image_tar import Entry, tar_header, tar_size, tar_stream
from envs.layers import Layer, split, tree_layers

GOLDEN = "a132590205fec1d8a8915ff28be6c5de6cf9b40f1b09354b09788e27e3a7d3ac"

# --- the tar format

_names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=120)
_paths = st.lists(_names.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4).map("/".join)


@st.composite
def archives(draw: st.DrawFn) -> dict[Entry, bytes]:
    found: dict[Entry, bytes] = {}
    for path in draw(st.lists(_paths, max_size=6, unique=True)):
        match draw(st.sampled_from(["file", "dir", "symlink"])):
            case "file":
                content = draw(st.binary(max_size=1500))
                found[Entry(path, "file", draw(st.sampled_from([0o644, 0o755, 0o4755])), len(content))] = content
            case "dir":
                found[Entry(path, "dir", 0o755)] = b""
            case _:
                found[Entry(path, "symlink", 0o777, link=draw(_paths))] = b""
    return found


def packed(contents: dict[Entry, bytes]) -> bytes:
    return b"".join(tar_stream(contents, EPOCH, lambda entry: io.BytesIO(contents[entry])))


@given(archives())
@settings(deadline=None)
def test_the_predicted_size_is_the_written_one(contents: dict[Entry, bytes]) -> None:
    assert tar_size(contents) == len(packed(contents))


@given(archives(), st.randoms())
@settings(deadline=None)
def test_the_order_of_entries_does_not_matter(contents: dict[Entry, bytes], rng: random.Random) -> None:
    items = list(contents.items())
    rng.shuffle(items)
    assert packed(dict(items)) == packed(contents)


@given(archives())
@settings(deadline=None)
def test_a_tar_reader_finds_what_was_packed(contents: dict[Entry, bytes]) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(contents))) as tar:
        assert len(tar.getnames()) == len(contents)
        for entry, content in contents.items():
            info = tar.getmember(entry.path)
            assert (info.uid, info.gid, info.mtime, info.mode) == (0, 0, EPOCH, entry.mode)
            assert (info.isdir(), info.issym()) == (entry.kind == "dir", entry.kind == "symlink")
            assert info.linkname == entry.link
            if entry.kind == "file":
                file = tar.extractfile(info)
                assert file is not None
                assert file.read() == content


def test_the_format_is_the_same_on_every_python() -> None:
    contents = {
        Entry("a", "dir", 0o755): b"",
        Entry("a/" + "n" * 150, "file", 0o644, 3): b"abc",
        Entry("a/" + "d" * 90 + "/" + "f" * 90, "file", 0o755, 1): b"x",
        Entry("b", "symlink", 0o777, link="t" * 130): b"",
    }
    assert hashlib.sha256(packed(contents)).hexdigest() == GOLDEN


def test_a_size_beyond_the_header_field_is_kept() -> None:
    header = tar_header(Entry("big", "file", 0o644, 9 << 30), EPOCH)
    with tarfile.open(fileobj=io.BytesIO(header + bytes(1024)), mode="r|") as tar:
        info = tar.next()
    assert info is not None
    assert info.size == 9 << 30


def test_a_file_that_shrinks_while_it_is_packed_is_named() -> None:
    with pytest.raises(BuildError, match="x: became shorter"):
        b"".join(tar_stream([Entry("x", "file", 0o644, 5)], EPOCH, lambda _: io.BytesIO(b"abc")))


def test_a_file_that_is_gone_is_named_as_our_error(tmp_path: Path) -> None:
    # an OSError would look like a broken connection to the client that sends the stream
    with pytest.raises(BuildError, match="x: can't be read: No such file"):
        b"".join(tar_stream([Entry("x", "file", 0o644, 5)], EPOCH, lambda _: (tmp_path / "x").open("rb")))


# --- trees


@pytest.fixture(autouse=True)
def small_counts_as_big(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "BIG_BYTES", 10_000)


def digests(made: tuple[Layer, ...]) -> dict[str, str | None]:
    for layer in made:
        assert sum(len(chunk) for chunk in layer.stream()) == layer.bytes
    return {layer.name: layer.diff_id for layer in made}


def test_what_is_big_comes_before_what_is_small(tmp_path: Path) -> None:
    assert [layer.name for layer in tree_layers(make_tree(tmp_path / "t"), EPOCH)] == [
        "interpreter",
        "torch",
        "nvidia",
        "packages",
    ]


def test_every_file_is_in_exactly_one_layer_and_our_record_in_none(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    packed_files = [entry.path for part in split(tree) for entry in part.files if entry.kind != "dir"]
    on_disk = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_symlink() or path.is_file()}
    kept_out = {path for path in on_disk if path.startswith(".edgekiln/") or "__pycache__" in path}
    assert len(packed_files) == len(set(packed_files))
    assert set(packed_files) == on_disk - kept_out


def test_each_layer_names_the_folders_above_its_files(tmp_path: Path) -> None:
    for layer in tree_layers(make_tree(tmp_path / "t"), EPOCH):
        with tarfile.open(fileobj=io.BytesIO(b"".join(layer.stream()))) as tar:
            names = [info.name for info in tar]
        assert names == sorted(names, key=os.fsencode)
        for name in names:
            assert str(Path(name).parent) in (*names, "."), (layer.name, name)


def test_the_interpreter_layer_has_the_mount_points(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(b"".join(tree_layers(make_tree(tmp_path / "t"), EPOCH)[0].stream()))) as tar:
        assert all(tar.getmember(name).isdir() for name in ("workspace", "data", "app"))


def test_place_umask_owner_bits_and_times_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for mask in (0o022, 0o077):
        monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / f"cache{mask}"))
        before = os.umask(mask)
        try:
            tree = make_tree(tmp_path / f"tree{mask}")
        finally:
            os.umask(before)
        os.utime(tree / "bin" / "python3.10", (mask, mask))
        made.append(digests(tree_layers(tree, EPOCH)))
    assert made[0] == made[1]


def test_one_changed_package_moves_one_small_layer(tmp_path: Path) -> None:
    before = digests(tree_layers(make_tree(tmp_path / "a"), EPOCH))
    after = digests(tree_layers(make_tree(tmp_path / "b", small=b"2"), EPOCH))
    assert {name for name in before if before[name] != after[name]} == {"packages"}


def test_layers_seen_in_another_tree_are_known_without_reading_them(tmp_path: Path) -> None:
    digests(tree_layers(make_tree(tmp_path / "a"), EPOCH))
    known = [layer.name for layer in tree_layers(make_tree(tmp_path / "b", small=b"2"), EPOCH) if layer.diff_id]
    assert known == ["interpreter", "torch", "nvidia"]


def test_a_remembered_tree_is_not_looked_at(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    first = digests(tree_layers(tree, EPOCH))
    shutil.rmtree(tree)
    assert {layer.name: layer.diff_id for layer in tree_layers(tree, EPOCH)} == first


def test_another_epoch_is_not_answered_from_memory(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    first = digests(tree_layers(tree, EPOCH))
    second = digests(tree_layers(tree, EPOCH + 1))
    assert all(first[name] != second[name] for name in first)


def test_a_half_written_memory_is_ignored(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    first = digests(tree_layers(tree, EPOCH))
    (tmp_path / "t.layers.json").write_text('{"layout": 1, "ep')
    assert digests(tree_layers(tree, EPOCH)) == first


def test_a_tree_that_was_changed_is_named_and_forgotten(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    digests(tree_layers(tree, EPOCH))
    (tree / SITE / "small.py").write_bytes(b"9")
    with pytest.raises(BuildError, match=r"layer packages: .*/t no longer holds .*; remove it and build again"):
        digests(tree_layers(tree, EPOCH))
    assert not (tmp_path / "t.layers.json").exists()


def test_a_folder_that_is_no_tree_says_so(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no environment tree"):
        tree_layers(tmp_path, EPOCH)


def test_a_pipe_in_a_tree_is_refused(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    os.mkfifo(tree / "bin" / "pipe")

    with pytest.raises(BuildError, match="neither file, folder nor link"):
        tree_layers(tree, EPOCH)
