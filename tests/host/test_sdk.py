"""`invoke sdk`: what is recorded of an SDK, what is refused, and what a run finds of it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.engines.choose import Chosen, choose
from envs.errors import BuildError, CheckFailed, EngineError, WrongUse
from envs.platforms import host_platform
from envs.progress import Silent
from envs.sdk import keep, record, use
from envs.sdk.folder import folder_version, hash_folder, tools_folder
from envs.sdk.keep import Sdk, add, check_archive, check_folder, find, lacking, remove
from envs.sdk.record import SdkFolder, SdkImage, SdkRecord, read_record, record_path, write_record
from envs.sdk.use import sdk_of
from envs.spec import load_spec
from envs.verbs.sdk import sdk as verb

STAND_IN = Path(__file__).resolve().parents[1] / "stand_in_sdk" / "SGS_IPU_Stand_In_0.1"


@pytest.fixture(autouse=True)
def apart(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No record and no copy of the machine's own."""
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr(record, "LOCKS", tmp_path / "locks")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the stand-in, to be changed."""
    return Path(shutil.copytree(STAND_IN, tmp_path / "given" / STAND_IN.name))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return image_archive(tmp_path / "sgs_docker.tar")


def image_archive(path: Path, platform: str = "", content: bytes = b"layer") -> Path:
    """An image of one empty layer, as `docker save` writes it."""
    import hashlib

    os_name, architecture = (platform or host_platform()).split("/")
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        _put(tar, "file", content)
    diff_id = "sha256:" + hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps({"os": os_name, "architecture": architecture, "rootfs": {"diff_ids": [diff_id]}}).encode()
    name = hashlib.sha256(config).hexdigest() + ".json"
    with tarfile.open(path, mode="w") as tar:
        _put(tar, name, config)
        _put(tar, "layer.tar", layer.getvalue())
        _put(tar, "manifest.json", json.dumps([{"Config": name, "Layers": ["layer.tar"]}]).encode())
    return path


def _put(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def whole(archive: Path, folder: Path) -> Sdk:
    add("sigmastar", archive, Silent())
    add("sigmastar", folder, Silent())
    found = find("sigmastar")
    assert found is not None
    return found


def test_both_parts_make_an_sdk(archive: Path, folder: Path) -> None:
    first = add("sigmastar", archive, Silent())
    assert (lacking(first), first.identity, find("sigmastar")) == ("its folder was never added", "", None)
    second = add("sigmastar", folder, Silent())
    assert second.image == first.image
    assert second.folder is not None
    assert (second.folder.name, second.folder.version, second.folder.files) == (STAND_IN.name, "0.1", 5)
    found = find("sigmastar")
    assert found is not None
    assert found.record == second == read_record("sigmastar")
    assert (found.folder / "Scripts/calibrator/simulator.py").is_file()
    check_folder(found)
    check_archive(found)


def test_the_order_of_the_parts_says_nothing(archive: Path, folder: Path) -> None:
    one = whole(archive, folder).record
    assert remove("sigmastar", Silent())
    add("sigmastar", folder, Silent())
    assert add("sigmastar", archive, Silent()) == one


def test_a_record_has_no_path_and_no_clock_and_is_written_the_same_way(archive: Path, folder: Path) -> None:
    made = whole(archive, folder).record
    text = record_path("sigmastar").read_text()
    assert "/" not in text
    os.utime(folder / "cfg_env.sh", (1, 1))
    add("sigmastar", folder, Silent())
    write_record(made)
    assert record_path("sigmastar").read_text() == text


def test_the_release_that_holds_the_folder_will_do(folder: Path) -> None:
    (folder.parent / "docker_v1.8").mkdir()
    assert tools_folder("sigmastar", folder.parent) == folder
    shutil.copytree(folder, folder.parent / "another")
    with pytest.raises(WrongUse, match=r"2 folders with cfg_env\.sh"):
        tools_folder("sigmastar", folder.parent)


@pytest.mark.parametrize("missing", ["Scripts/ConvertTool/SGS_converter.py", "Scripts/calibrator/simulator.py"])
def test_a_folder_without_a_tool_is_told_which(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(WrongUse, match=f"not a sigmastar SDK: {missing} is missing"):
        add("sigmastar", folder, Silent())
    assert not record_path("sigmastar").exists()


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "Scripts/../../.."])
def test_a_link_that_leaves_the_folder_is_refused(folder: Path, target: str) -> None:
    (folder / "link").symlink_to(target)
    with pytest.raises(WrongUse, match="outside the SDK"):
        add("sigmastar", folder, Silent())


def test_a_link_through_a_linked_folder_is_followed_to_its_end(folder: Path) -> None:
    (folder / "deep/er").mkdir(parents=True)
    (folder / "short").symlink_to("deep/er")
    (folder / "inner").symlink_to("short/../../cfg_env.sh")  # deep/er/../../cfg_env.sh: inside
    assert hash_folder(folder).files == 5
    (folder / "outer").symlink_to("short/../../../given")  # by its text alone it would stay inside
    with pytest.raises(WrongUse, match="outer links to"):
        hash_folder(folder)


def test_what_is_no_file_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(WrongUse, match="pipe in .* neither file, folder nor link"):
        add("sigmastar", folder, Silent())


@pytest.mark.parametrize("change", ["content", "name", "executable", "link", "more", "fewer"])
def test_every_change_of_a_folder_changes_its_hash(folder: Path, change: str) -> None:
    (folder / "a").write_text("a")
    (folder / "link").symlink_to("a")
    before = hash_folder(folder).sha256
    if change == "content":
        (folder / "a").write_text("b")
    elif change == "name":
        (folder / "a").rename(folder / "b")
    elif change == "executable":
        (folder / "a").chmod(0o755)
    elif change == "link":
        (folder / "link").unlink()
        (folder / "link").symlink_to("cfg_env.sh")
    elif change == "more":
        (folder / "c").write_text("")
    else:
        (folder / "a").unlink()
    assert hash_folder(folder).sha256 != before


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(st.sampled_from(["a", "b", "c/a", "c/b", "c/d/e"]), st.binary(max_size=8), min_size=1))
def test_a_hash_depends_on_names_and_contents_alone(tree: dict[str, bytes]) -> None:
    import tempfile

    seen = set()
    for order in (list(tree), list(reversed(tree))):
        with tempfile.TemporaryDirectory() as place:
            for name in order:
                path = Path(place, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tree[name])
                os.utime(path, (len(seen), len(seen)))
            found = hash_folder(Path(place))
            assert (found.files, found.bytes) == (len(tree), sum(map(len, tree.values())))
            seen.add(found.sha256)
    assert len(seen) == 1


def test_another_sdk_is_refused_until_the_recorded_one_is_forgotten(archive: Path, folder: Path) -> None:
    before = whole(archive, folder).record
    (folder / "cfg_env.sh").write_text("export SGS_IPU_DIR=/elsewhere\n")
    other = image_archive(archive.with_name("other.tar"), content=b"another layer")
    for path in (folder, other):
        with pytest.raises(CheckFailed, match="its sha256 is not the recorded one") as caught:
            add("sigmastar", path, Silent())
        assert "invoke sdk rm sigmastar" in caught.value.remedy
    assert read_record("sigmastar") == before
    remove("sigmastar", Silent())
    assert add("sigmastar", other, Silent()).image != before.image


def test_a_kept_copy_that_changed_is_refused_and_added_again(archive: Path, folder: Path) -> None:
    found = whole(archive, folder)
    (found.folder / "cfg_env.sh").write_text("rm -rf /\n")
    found.archive.write_bytes(found.archive.read_bytes() + b"x")
    for check in (check_folder, check_archive):
        with pytest.raises(CheckFailed, match="its sha256 is not the recorded one") as caught:
            check(found)
        assert caught.value.remedy == "`invoke sdk add sigmastar PATH` again"
    again = whole(archive, folder)
    check_folder(again)
    check_archive(again)


def test_a_record_without_its_copies_is_said_and_filled(archive: Path, folder: Path) -> None:
    made = whole(archive, folder).record
    shutil.rmtree(keep.cache_root() / "sdk")
    assert lacking(made) == "its image sgs_docker.tar is recorded, and not on this machine"
    assert find("sigmastar") is None
    renamed = archive.rename(archive.with_name("under another name.tar"))
    assert whole(renamed, folder).record == made


def test_forgetting_removes_record_and_copies(archive: Path, folder: Path) -> None:
    whole(archive, folder)
    assert remove("sigmastar", Silent())
    assert not record_path("sigmastar").exists()
    assert not (keep.cache_root() / "sdk/sigmastar").exists()
    assert not remove("sigmastar", Silent())


def test_what_a_killed_process_left_is_gone_with_the_next(folder: Path) -> None:
    left = keep.cache_root() / "sdk/sigmastar/.incoming/half"
    left.mkdir(parents=True)
    add("sigmastar", folder, Silent())
    assert not left.parent.exists()


def test_an_image_for_another_machine_is_refused(tmp_path: Path) -> None:
    other = "linux/arm64" if host_platform() == "linux/amd64" else "linux/amd64"
    with pytest.raises(WrongUse, match=f"an image for {other}"):
        add("sigmastar", image_archive(tmp_path / "a.tar", other), Silent())


def test_a_file_that_is_no_image_archive_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "sdk.tar.xz").write_bytes(b"\xfd7zXZ\0")
    with pytest.raises(BuildError, match="no image archive"):
        add("sigmastar", tmp_path / "sdk.tar.xz", Silent())


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("SGS_IPU_Toolchain_25121210", "25121210"),
        ("SGS_IPU_SDK_vS1.0.9", "S1.0.9"),
        ("SGS_IPU_SDK_vQ_0.1.0", "0.1.0"),
        ("SGS_IPU_SDK", ""),
        ("sdk", ""),
    ],
)
def test_a_version_is_what_the_folder_s_name_ends_with(name: str, version: str) -> None:
    assert folder_version(name) == version


@settings(deadline=None)
@given(st.booleans(), st.booleans(), st.text("0123456789abcdef", min_size=64, max_size=64))
def test_a_record_reads_back_as_it_was_written(image: bool, folder: bool, sha256: str) -> None:
    made = SdkRecord(
        vendor="sigmastar",
        image=SdkImage(file="a.tar", sha256=sha256, bytes=1, image_id=f"sha256:{sha256}") if image else None,
        folder=SdkFolder(name="a b", version="", sha256=sha256, files=1, bytes=2) if folder else None,
    )
    write_record(made)
    assert read_record("sigmastar") == made
    assert bool(made.identity) == (image and folder)


def test_only_an_environment_whose_converter_is_elsewhere_asks_for_an_sdk(archive: Path, folder: Path) -> None:
    made = whole(archive, folder)
    assert sdk_of(load_spec("sigmastar"), Silent()) == made
    assert sdk_of(load_spec("light"), Silent()) is None


def test_without_docker_an_sdk_is_of_no_use_and_the_line_says_what_is(
    archive: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_docker(kind: str) -> Chosen:
        raise EngineError("no Docker Engine answers at x")

    monkeypatch.setattr(use, "choose", no_docker)
    with pytest.raises(
        EngineError, match="the tools of sigmastar run in their vendor's image, and no Docker"
    ) as caught:
        use.outside_run(whole(archive, folder), choose("local"), Silent(), use_cache=True)
    assert "invoke sdk rm sigmastar" in caught.value.remedy


WRONG = [
    (("add", "sigmastar", ""), "sdk add sigmastar: not understood"),
    (("add", "sigmstar", "/tmp"), "did you mean sigmastar?"),
    (("add", "sigmastar", "/no/such"), "/no/such: not there"),
    (("frob", "", ""), "sdk frob: not understood"),
    (("rm", "", ""), "sdk rm: not understood"),
    (("list", "nobody", ""), "no SDK of 'nobody' is known here"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_wrong_words_are_one_line(words: tuple[str, str, str], said: str) -> None:
    with pytest.raises(WrongUse) as caught:
        verb(*words, as_json=False)
    assert said in str(caught.value)


def test_list_is_a_document(archive: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb("add", "sigmastar", str(archive), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert msgspec.convert(told, SdkRecord) == read_record("sigmastar")
    verb("", "", "", as_json=True)
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["vendor"], one["usable"], one["reason"]) == ("sigmastar", False, "its folder was never added")
    verb("add", "sigmastar", str(folder), as_json=True)
    capsys.readouterr()
    verb("list", "sigmastar", "", as_json=False)
    assert "usable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"), [((), 0), (("list",), 0), (("list", "sigmastar", "--json"), 0), (("add", "sigmastar"), 2)]
)
def test_words_of_the_command_line_may_be_left_out(words: tuple[str, ...], code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "invoke", "sdk", *words]
    env = {**os.environ, "EDGEKILN_CACHE": str(tmp_path)}
    done = subprocess.run(command, cwd=STAND_IN.parents[2], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
