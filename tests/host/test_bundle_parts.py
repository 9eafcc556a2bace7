"""What a bundle is made of: the tool's files and wheels, the image's layers; and how much memory a big one takes."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zstandard
from bundling import Made, a_bundle, sha256
from driven import ROOT
from image_trees import EPOCH, make_tree
from making import installed_python
from test_bootstrap import base_python, inv, path_with

from envs import interpreter
from envs.bundle import tool, wheels
from envs.bundle.layers import bundled_plan, pack_layers, unpacked
from envs.bundle.manifest import BundledImage, Member
from envs.bundle.read import open_bundle
from envs.bundle.wheels import choose, pinned
from envs.errors import BuildError, CheckFailed
from envs.fetch import fetch, wheel
from envs.image import ImagePlan
from envs.image_tar import Entry, tar_size, tar_stream
from envs.layers import Layer, tree_layers, walk
from envs.lock import LockedInterpreter, LockedWheel
from envs.platforms import host_platform
from envs.progress import Silent

SILENT = Silent()

# --- the tool


def test_the_tool_is_the_same_files_with_git_and_without(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this checkout has no git")
    names = tool.tool_files(ROOT)
    assert {"inv", "tasks.py", "envs/contract.py"} <= set(names)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name, follow_symlinks=False)
    left_by_use = (".venv/bin/python", ".venv.lock", ".venv.uv", "runs/m/1/report.json", "wheels/a.whl", ".coverage")
    for name in (*left_by_use, "envs/__pycache__/cli.pyc", ".pytest_cache/x", ".mypy_cache/x", ".ruff_cache/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("left by use")
    assert tool.tool_files(tmp_path) == names


def test_what_git_does_not_track_stays_behind_and_is_told(tmp_path: Path) -> None:
    git = ("git", "-C", str(tmp_path))
    if shutil.which("git") is None or subprocess.run([*git, "init", "-q"], capture_output=True).returncode:
        pytest.skip("no git here")
    for name in ("kept.py", "notes.txt", "ignored.log", "gone.py"):
        (tmp_path / name).write_text(name)
    (tmp_path / ".gitignore").write_text("*.log\n")
    subprocess.run([*git, "add", "kept.py", "gone.py", ".gitignore"], check=True)
    (tmp_path / "gone.py").unlink()
    assert tool.tool_files(tmp_path) == [".gitignore", "kept.py"]
    assert tool.untracked(tmp_path) == ["notes.txt"]


# --- its wheels


def a_wheel(name: str, version: str, tags: str) -> LockedWheel:
    file = f"{name}-{version}-{tags}.whl"
    return LockedWheel(name=name, version=version, file=file, sha256=sha256(file.encode()), bytes=1)


def requirement(name: str, version: str, *found: LockedWheel, marker: str = "") -> str:
    hashes = " \\\n".join(f"    --hash=sha256:{one.sha256}" for one in found)
    return f"{name}=={version}{f' ; {marker}' if marker else ''} \\\n{hashes}\n"


def test_each_python_gets_a_wheel_of_its_own_and_a_pure_one_comes_once() -> None:
    built = [a_wheel("built", "1", f"cp3{n}-cp3{n}-manylinux_2_17_x86_64") for n in range(10, 15)]
    other = a_wheel("built", "1", "cp311-cp311-win_amd64")
    pure = a_wheel("pure", "2", "py3-none-any")
    old = a_wheel("old", "3", "py3-none-any")
    text = requirement("built", "1", *built, other) + requirement("pure", "2", pure)
    text += requirement("old", "3", old, marker="python_full_version < '3.11'")
    text += requirement("windows", "4", other, marker="sys_platform == 'win32'")
    chosen = choose(pinned(text), {"built": [other, *built], "pure": [pure], "old": [old]}, "linux/amd64", SILENT)
    assert chosen.pythons == wheels.PYTHONS
    assert sorted(one.file for one in chosen.wheels) == sorted(one.file for one in (*built, pure, old))


def test_a_wheel_that_is_not_pinned_by_hash_is_never_taken() -> None:
    good, bad = a_wheel("p", "1", "py3-none-any"), a_wheel("p", "1", "py3-none-manylinux_2_17_x86_64")
    chosen = choose(pinned(requirement("p", "1", good)), {"p": [bad, good]}, "linux/amd64", SILENT)
    assert chosen.wheels == (good,)
    with pytest.raises(BuildError, match="p 1 has no wheel"):
        choose(pinned(requirement("p", "1", good)), {"p": [bad]}, "linux/amd64", SILENT)


def test_a_python_that_a_package_does_not_support_is_left_out() -> None:
    only = a_wheel("p", "1", "cp311-cp311-manylinux_2_17_x86_64")
    chosen = choose(pinned(requirement("p", "1", only)), {"p": [only]}, "linux/amd64", SILENT)
    assert chosen.pythons == ("3.11",)


def test_a_wheel_for_older_machines_goes_before_one_for_newer() -> None:
    older, newer = (a_wheel("p", "1", f"py3-none-manylinux_2_{level}_x86_64") for level in (28, 34))
    chosen = choose(pinned(requirement("p", "1", older, newer)), {"p": [older, newer]}, "linux/amd64", SILENT)
    assert chosen.wheels == (older,)


def test_every_pin_of_the_tool_is_read() -> None:
    for name in ("tool.txt", "dev.txt"):
        text = (ROOT / "envs/locks" / name).read_text()
        found = pinned(text)
        assert len(found) == sum(line[:1].isalnum() for line in text.splitlines())
        assert sum(len(one.hashes) for one in found) == text.count("--hash=sha256:")


@pytest.fixture(scope="module")
def two_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of `invoke` and `uv`: those beside this tool, or from the index this machine is set up with."""
    folder = tmp_path_factory.mktemp("wheels")
    text = "".join(pinned_lines("invoke", "uv"))
    (folder / "requirements.txt").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKILN_CACHE", str(folder / "cache"))
        chosen = wheels.tool_wheels([folder / "requirements.txt"], host_platform(), SILENT)
        for path in fetch([wheel(one) for one in chosen.wheels], "wheels", SILENT):
            shutil.copy(path, folder)
    shutil.rmtree(folder / "cache")
    return folder


def pinned_lines(*names: str) -> list[str]:
    """Their part of the tool's requirements."""
    lines = (ROOT / "envs/locks/tool.txt").read_text().splitlines(keepends=True)
    kept = []
    for name in names:
        start = next(i for i, line in enumerate(lines) if line.startswith(f"{name}=="))
        end = next(i for i in range(start + 1, len(lines)) if not lines[i].startswith(" "))
        kept += lines[start:end]
    return kept


@pytest.fixture
def extracted(tmp_path: Path, two_wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tool as it comes out of a bundle: its wheels beside it; the index it would ask does not answer."""
    folder = tmp_path / "tool"
    (folder / "envs/locks").mkdir(parents=True)
    shutil.copy(ROOT / "inv", folder)
    shutil.copytree(two_wheels, folder / "wheels")
    (folder / "envs/locks/tool.txt").write_text("".join(pinned_lines("invoke", "uv")))
    (folder / "tasks.py").write_text("from invoke import task\n@task\ndef hello(c):\n    print('hello')\n")
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_INDEX_URL", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    for name in ("PIP_FIND_LINKS", "EDGEKILN_WHEELS"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.mark.parametrize("uv", [True, False])
def test_inv_needs_no_index_where_wheels_lie_beside_it(extracted: Path, tmp_path: Path, uv: bool) -> None:
    path = path_with(tmp_path, python=base_python())
    if not uv:
        next(extracted.glob("wheels/uv-*.whl")).rename(tmp_path / "uv.whl")
        requirements = extracted / "envs/locks/tool.txt"
        text = requirements.read_text()
        requirements.write_text(text[: text.index("uv==")])
    done = inv(extracted, "hello", path=path)
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    assert bool(list(extracted.glob(".venv/lib/*/site-packages/pip"))) is not uv  # pip is only there where it was used
    assert not (extracted / ".venv.uv").exists()


def test_inv_refuses_a_uv_that_is_not_the_pinned_one(extracted: Path, tmp_path: Path) -> None:
    next(extracted.glob("wheels/uv-*.whl")).write_bytes(b"changed")
    done = inv(extracted, "hello", path=path_with(tmp_path, python=base_python()))
    assert done.returncode == 3
    assert not (extracted / ".venv/made-from.txt").exists()


def test_inv_says_so_where_the_named_wheels_are_not_there(extracted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKILN_WHEELS", "/nowhere")
    done = inv(extracted, "hello")
    assert done.returncode == 2
    assert "/nowhere, which is no folder" in done.stderr


# --- the interpreter


def test_the_tree_out_of_a_bundle_is_taken_for_the_installed_interpreter(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, digest = installed_python()
    locked = LockedInterpreter(source="installed", version=version, sha256=digest)
    interpreter.obtain(locked, tmp_path / "made", SILENT)
    kept = interpreter.kept_tree(locked)
    kept.parent.mkdir(parents=True)
    made = tmp_path / "made"
    kept.write_bytes(b"".join(tar_stream(walk(made), EPOCH, lambda entry: (made / entry.path).open("rb"))))
    monkeypatch.setattr(interpreter, "installed", lambda minor: [])
    interpreter.obtain(locked, tmp_path / "again", SILENT)
    assert interpreter.tree_sha256(tmp_path / "again") == digest
    standalone = LockedInterpreter(
        source="python-build-standalone", version=version, sha256="0" * 64, file="1/archive.tar.gz"
    )
    taken, tried = interpreter.first_of((standalone, locked), tmp_path / "third", SILENT)
    assert (taken, tried) == (locked, [])  # what is here goes first: nothing was asked for the other
    other = LockedInterpreter(source="installed", version=version, sha256="1" * 64)
    kept.rename(interpreter.kept_tree(other))
    with pytest.raises(BuildError, match="not the locked interpreter"):
        interpreter.obtain(other, tmp_path / "fourth", SILENT)
    assert not (tmp_path / "fourth").exists()


# --- the layers


def a_plan(tree: Path) -> ImagePlan:
    content = b"base" * 1000
    entry = Entry("etc/base", "file", 0o644, len(content))

    def chunks() -> Iterator[bytes]:
        return tar_stream([entry], EPOCH, lambda _: io.BytesIO(content))

    base = Layer("base", "a file", tar_size([entry]), tree, chunks)
    return ImagePlan(
        name="tiny",
        lock_digest="sha256:" + "1" * 64,
        platform="linux/amd64",
        epoch=EPOCH,
        description="a test's",
        layers=(base, *tree_layers(tree, EPOCH)),
    )


@pytest.fixture
def with_layers(tmp_path: Path, cache: Path) -> tuple[Made, ImagePlan]:
    """A bundle with an image, and the plan that its layers were packed from."""
    made = a_bundle(tmp_path / "made")
    plan = msgspec.structs.replace(a_plan(make_tree(tmp_path / "tree")), lock_digest=made.lock.digest)
    image, pieces = pack_layers(plan, tmp_path / "tree", tmp_path / "work", SILENT)
    plan_now = msgspec.structs.replace(plan, epoch=made.lock.source_date_epoch)
    for member, path in pieces:
        made = made.replaced(None, member, path.read_bytes())
    image = msgspec.structs.replace(image, image_id=plan_now.image_id)
    return Made(msgspec.structs.replace(made.manifest, image=image), made.files, made.lock), plan_now


def image_of(made: Made) -> BundledImage:
    assert made.manifest.image is not None
    return made.manifest.image


def test_the_image_out_of_a_bundle_is_the_one_that_went_in(with_layers: tuple[Made, ImagePlan], tmp_path: Path) -> None:
    made, plan = with_layers
    bundle = open_bundle(made.write(tmp_path / "tiny.tar"))
    out = bundled_plan(bundle, image_of(made), made.lock)
    assert out.image_id == plan.image_id
    assert b"".join(out.archive()) == b"".join(plan.archive())


def test_layers_are_the_same_bytes_again_and_are_not_packed_twice(tmp_path: Path, cache: Path) -> None:
    plan = a_plan(make_tree(tmp_path / "tree"))
    first = pack_layers(plan, tmp_path / "tree", tmp_path / "work", SILENT)
    again = pack_layers(a_plan(tmp_path / "tree"), tmp_path / "tree", tmp_path / "other", SILENT)
    assert [member for member, _ in first[1]] == [member for member, _ in again[1]]
    before = {path: path.stat().st_ino for path in (tmp_path / "work").iterdir()}
    pack_layers(plan, tmp_path / "tree", tmp_path / "work", SILENT)
    assert before == {path: path.stat().st_ino for path in (tmp_path / "work").iterdir()}


def test_a_layer_that_is_not_what_its_name_says_is_refused(with_layers: tuple[Made, ImagePlan], tmp_path: Path) -> None:
    made, _ = with_layers
    layer = image_of(made).layers[0]
    plain = b"x" * layer.bytes
    bundle = open_bundle(swapped(made, layer.member, zstandard.compress(plain)).write(tmp_path / "b.tar"))
    plan = bundled_plan(bundle, image_of(made), made.lock)
    with pytest.raises(BuildError, match="layer base"):
        list(plan.layers[0].stream())


def swapped(made: Made, path: str, content: bytes) -> Made:
    old = next(member for member in made.manifest.members if member.path == path)
    return made.replaced(old, Member(path=path, kind="layer", sha256=sha256(content), bytes=len(content)), content)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (zstandard.compress(b"\0" * (64 << 20)), "holds more than its manifest says"),
        (zstandard.compress(b"\0" * (64 << 20))[:-9], "holds more than its manifest says"),
        (b"no zstd at all", "can't be unpacked"),
        (
            zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=27)).compress(
                os.urandom(1000) * 2 + bytes(200 << 20)
            ),
            "can't be unpacked",
        ),
    ],
    ids=["bomb", "cut bomb", "other", "window"],
)
def test_a_bomb_in_place_of_a_layer_is_refused(
    with_layers: tuple[Made, ImagePlan], tmp_path: Path, content: bytes, why: str
) -> None:
    made, _ = with_layers
    layer = image_of(made).layers[0]
    bundle = open_bundle(swapped(made, layer.member, content).write(tmp_path / "b.tar"))
    with pytest.raises(CheckFailed, match=why):
        for block in unpacked(bundle, layer):
            assert len(block) <= 1 << 20


# --- memory


def test_a_big_bundle_takes_little_memory(tmp_path: Path) -> None:
    """500 MiB through writing, checking, loading and finding, each in less than 300 MiB of memory."""
    body = """
import hashlib, resource, sys
from pathlib import Path
import msgspec, pytest
from bundling import a_bundle, empty_checkout, sha256
from envs.bundle.load import load_bundle
from envs.bundle.manifest import Member
from envs.bundle.read import find
from envs.lock import LockedInterpreter, to_text
from envs.progress import Silent

folder = Path(sys.argv[1])
made = a_bundle(folder / "made")
big = folder / "big"
with big.open("wb") as file:
    file.truncate(500 << 20)
digest = hashlib.sha256()
for _ in range(500):
    digest.update(bytes(1 << 20))
hash_ = digest.hexdigest()
locked = LockedInterpreter(source="python-build-standalone", version="3.10.13", sha256=hash_, file="1/big")
lock = msgspec.structs.replace(made.lock, interpreter=(locked,))
text = to_text(lock).encode()
old_lock, old_source = made.member("lock"), next(m for m in made.manifest.members if m.path.endswith("cpython.tar.gz"))
made = made.replaced(old_lock, msgspec.structs.replace(old_lock, sha256=sha256(text), bytes=len(text)), text)
made = made.replaced(old_source, Member(path=f"sources/{hash_}/big", kind="source", sha256=hash_, bytes=500 << 20))
made.files[f"sources/{hash_}/big"] = big
made = msgspec.structs.replace(made, manifest=msgspec.structs.replace(made.manifest, lock_digest=lock.digest))
bundle = made.write(folder / "big.tar")
patch = pytest.MonkeyPatch()
empty_checkout(folder / "checkout", patch)
load_bundle(bundle, "local", Silent())
with find(bundle, hash_) as found:
    while found.read(1 << 20):
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/host'}", "EDGEKILN_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", body, tmp_path], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) / 1024 < 300
    for path in tmp_path.rglob("big*"):
        path.unlink()
