"""Reading archives: facts follow from the bytes, whiteouts hide, damage is one clear line, memory stays bounded."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from verify_images import image

from envs.errors import CheckFailed, WrongUse
from envs.verify.compare import compare_files, compare_order
from envs.verify.flat import as_exported, flatten
from envs.verify.images import read_layout, read_saved
from envs.verify.records import FileFact
from envs.verify.tars import ReadLayer, read_layer, readable

NAMES = st.lists(st.sampled_from(["a", "b", "c", "dé", "x" * 120]), min_size=1, max_size=3).map("/".join)
FILES = st.dictionaries(NAMES, st.binary(max_size=2000), max_size=8)


def tar(members: list[tuple[str, bytes | tuple[bytes, str]]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A file for bytes; for a tuple a member of that type with that link."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for name, what in members:
            info = tarfile.TarInfo(name)
            if isinstance(what, tuple):
                info.type, info.linkname = what
                archive.addfile(info)
            else:
                info.size = len(what)
                archive.addfile(info, io.BytesIO(what))
    return made.getvalue()


def read(data: bytes, facts: bool = True) -> ReadLayer:
    return read_layer(readable(iter([data[:700], data[700:]])), "layer x", facts=facts)


@given(FILES)
@settings(max_examples=40, deadline=None)
def test_facts_are_what_was_packed(files: dict[str, bytes]) -> None:
    data = tar(list(files.items()))
    layer = read(data)
    assert layer.diff_id == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert {one.path: (one.size, one.sha256) for one in layer.members} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()
    }
    assert list(compare_files(flatten([layer.members]), flatten([read(data).members]))) == []


@given(FILES, FILES)
@settings(max_examples=40, deadline=None)
def test_every_path_that_differs_is_named_and_no_other(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    sides = [
        {name: FileFact(name, "file", 0o644, sha256=data.hex()) for name, data in side.items()} for side in (one, other)
    ]
    named = {found.path for found in compare_files(*sides)}
    assert named == {name for name in {*one, *other} if one.get(name) != other.get(name)}


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress], ids=["gzip", "zstd"])
def test_a_packed_layer_has_the_digest_of_its_tar(pack: object) -> None:
    data = tar([("a", b"1" * 5000)])
    assert read(pack(data)).diff_id == read(data, facts=False).diff_id  # type: ignore[operator]
    assert read(pack(data)).members == read(data).members  # type: ignore[operator]


def test_two_gzip_members_are_one_layer() -> None:
    data = tar([("a", b"1" * 5000)])
    assert read(gzip.compress(data[:3000]) + gzip.compress(data[3000:])).members == read(data).members


@pytest.mark.parametrize(
    "data", [b"no tar at all" * 100, gzip.compress(tar([("a", b"1" * 5000)]))[:60]], ids=["junk", "cut"]
)
def test_a_damaged_layer_is_one_clear_line(data: bytes) -> None:
    with pytest.raises(CheckFailed, match=r"layer x can't be read: .*build, pull or write it again"):
        read(data)


def test_a_whiteout_hides_what_lies_below_and_nothing_else() -> None:
    low = read(tar([("d/a", b"1"), ("d/b", b"1"), ("e/f", b"1"), ("e/g", b"1"), ("k/x", b"1")])).members
    high = read(tar([("d/.wh.a", b""), ("e/.wh..wh..opq", b""), ("e/new", b"2"), (".wh.k", b"")])).members
    assert sorted(flatten([low, high])) == ["d/b", "e/new"]


def test_a_file_in_place_of_a_folder_takes_what_was_in_it() -> None:
    low, high = read(tar([("d/a", b"1"), ("d2", b"1")])).members, read(tar([("d", (tarfile.SYMTYPE, "d2"))])).members
    low = (FileFact("d", "dir", 0o755), *low)
    assert sorted(flatten([low, high])) == ["d", "d2"]


def test_a_hard_link_has_its_files_content() -> None:
    members = read(tar([("a", b"1"), ("b", (tarfile.LNKTYPE, "a"))])).members
    files = as_exported(flatten([members]))
    assert files["b"].sha256 == files["a"].sha256
    assert files["b"].kind == "file"


def test_devices_and_pipes_are_told_apart() -> None:
    members = read(tar([("p", (tarfile.FIFOTYPE, "")), ("c", (tarfile.CHRTYPE, "")), ("f", b"")])).members
    assert [one.kind for one in members] == ["fifo", "device", "file"]
    found = list(compare_files({"p": members[0]}, {"p": FileFact("p", "file", 0o644)}))
    assert [(one.what, one.ours, one.theirs) for one in found] == [("kind", "fifo", "file")]


def test_members_in_another_order_are_said_so() -> None:
    one, other = read(tar([("a", b"1"), ("b", b"2")])), read(tar([("b", b"2"), ("a", b"1")]))
    assert [(found.what, found.ours, found.theirs) for found in compare_order(one, other, "base")] == [
        ("order", "a", "b")
    ]


def test_the_same_members_in_another_form_are_said_so() -> None:
    one, other = read(tar([("a", b"1")])), read(tar([("a", b"1")], tarfile.GNU_FORMAT))
    assert [found.what for found in compare_order(one, other, "base")] == ["form"]


def test_a_name_that_is_no_text_can_be_printed() -> None:
    files = flatten([read(tar([("caf\udce9", b"1")])).members])
    assert [one.path for one in compare_files({}, files)] == ["caf\\xe9"]


def test_a_layer_that_an_engine_saved_as_a_link_is_found() -> None:
    layer = tar([("a", b"1" * 900)])
    config = json.dumps({"rootfs": {}}).encode()
    manifest = json.dumps([{"Config": "c.json", "Layers": ["1/layer.tar", "2/layer.tar"]}]).encode()
    saved = tar(
        [
            ("1/layer.tar", layer),
            ("2/layer.tar", (tarfile.SYMTYPE, "../1/layer.tar")),
            ("c.json", config),
            ("manifest.json", manifest),
        ]
    )
    found = read_saved([saved], facts=True)
    assert [len(one.members) for one in found.layers] == [1, 1]
    assert found.config == config


@pytest.mark.parametrize("data", [b"", b"x" * 4000, tar([("a", b"1")])], ids=["empty", "junk", "another tar"])
def test_what_is_no_image_archive_is_one_clear_line(data: bytes) -> None:
    with pytest.raises(CheckFailed, match="image archive"):
        read_saved([data], facts=False)


def test_a_layout_without_its_blobs_is_one_clear_line(tmp_path: Path) -> None:
    entry = {"digest": "sha256:" + "a" * 64}
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [entry]}))
    with pytest.raises(CheckFailed, match="the blob 'sha256:a+' is missing"):
        read_layout(tmp_path, "", facts=False)
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [{"digest": "sha256:../../etc/passwd"}]}))
    with pytest.raises(CheckFailed, match="is missing"):
        read_layout(tmp_path, "", facts=False)
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [entry, {"digest": "sha256:" + "b" * 64}]}))
    with pytest.raises(WrongUse, match="several images"):
        read_layout(tmp_path, "", facts=False)


def test_memory_does_not_grow_with_the_image() -> None:
    big = 48 << 20

    def stream() -> Iterator[bytes]:
        info = tarfile.TarInfo("big")
        info.size = big
        yield info.tobuf()
        for _ in range(big >> 20):
            yield bytes(1 << 20)
        yield bytes(1024)

    tracemalloc.start()
    try:
        layer = read_layer(readable(stream()), "big", facts=True, keep=lambda _: True)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert layer.members[0].size == big
    assert layer.contents == {}


def test_an_image_made_for_tests_is_one(tmp_path: Path) -> None:
    found = read_saved([image([{"a": b"1"}, {"b": b"2"}])], facts=True)
    assert sorted(flatten(one.members for one in found.layers)) == ["a", "b"]
