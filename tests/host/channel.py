"""A conda channel made in the test: packages in both formats, repodata.json, and the CPython of this machine in it."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from envs import interpreter
from envs.files import sha256_file
from envs.lock import LockedConda

PLACEHOLDER = "/placeholder" + "_p" * 100
CHANNEL = "edge-forge"


class Member:
    """One path of a package: bytes, a link's text, or the path of a file on this machine."""

    def __init__(
        self,
        content: bytes | None = None,
        *,
        link: str = "",
        source: Path | None = None,
        executable: bool = False,
        mode: str = "",
        sha256: str = "",
    ) -> None:
        self.link = link
        self.content = source.read_bytes() if source else (content or b"")
        self.executable = executable
        self.mode = mode  # text or binary, where it holds PLACEHOLDER
        self.sha256 = sha256  # what paths.json says, where that is a lie

    def listed(self, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "_path": path,
            "path_type": "softlink" if self.link else "hardlink",
            "sha256": self.sha256 or hashlib.sha256(self.content).hexdigest(),
            "size_in_bytes": len(self.content),
        }
        if self.mode:
            entry |= {"prefix_placeholder": PLACEHOLDER, "file_mode": self.mode}
        return entry

    def add_to(self, tar: tarfile.TarFile, path: str) -> None:
        info = tarfile.TarInfo(path)
        if self.link:
            info.type, info.linkname = tarfile.SYMTYPE, self.link
            tar.addfile(info)
        else:
            info.size, info.mode = len(self.content), 0o755 if self.executable else 0o644
            tar.addfile(info, io.BytesIO(self.content))


def make_package(
    channel: Path,
    name: str,
    version: str,
    members: dict[str, Member],
    *,
    depends: tuple[str, ...] = (),
    noarch: str = "",
    entry_points: tuple[str, ...] = (),
    old_format: bool = False,
    subdir: str = "linux-64",
    unlisted: dict[str, Member] | None = None,
    raw: tuple[tarfile.TarInfo, ...] = (),
) -> LockedConda:
    """Write a package into `channel/SUBDIR` and list it in repodata.json; its lock entry."""
    subdir = "noarch" if noarch else subdir
    index: dict[str, Any] = {
        "name": name, "version": version, "build": "h0_0", "build_number": 0, "depends": list(depends),
        "subdir": subdir, "timestamp": 1767225600000, "license": "MIT",
    }  # fmt: skip
    paths = {"paths_version": 1, "paths": [member.listed(path) for path, member in members.items()]}
    info = {"info/index.json": index, "info/paths.json": paths}
    if noarch:
        index["noarch"] = noarch
        info["info/link.json"] = {
            "noarch": {"type": noarch, "entry_points": list(entry_points)},
            "package_metadata_version": 1,
        }
    stem = f"{name}-{version}-h0_0"
    about = _tar({path: Member(json.dumps(body).encode()) for path, body in info.items()})
    content = _tar({**members, **(unlisted or {})}, raw)
    (channel / subdir).mkdir(parents=True, exist_ok=True)
    if old_format:
        target = channel / subdir / f"{stem}.tar.bz2"
        with tarfile.open(target, "w:bz2") as tar:
            for part in (about, content):
                with tarfile.open(fileobj=io.BytesIO(part)) as its:
                    for member in its:
                        tar.addfile(member, its.extractfile(member) if member.isfile() else None)
    else:
        target = channel / subdir / f"{stem}.conda"
        pack = zstandard.ZstdCompressor(level=1).compress
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as whole:
            whole.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
            whole.writestr(f"info-{stem}.tar.zst", pack(about))
            whole.writestr(f"pkg-{stem}.tar.zst", pack(content))
    return _list(channel, index, target)


def _tar(members: dict[str, Member], raw: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, member in members.items():
            member.add_to(tar, path)
        for info in raw:
            tar.addfile(info, io.BytesIO(bytes(info.size)) if info.isreg() else None)
    return out.getvalue()


def _list(channel: Path, index: dict[str, Any], target: Path) -> LockedConda:
    locked = LockedConda(
        name=index["name"],
        version=index["version"],
        build=index["build"],
        channel=channel.name,
        subdir=index["subdir"],
        file=target.name,
        sha256=sha256_file(target),
        bytes=target.stat().st_size,
    )
    for subdir in ("linux-64", "noarch"):
        path = channel / subdir / "repodata.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = (
            json.loads(path.read_text())
            if path.exists()
            else {"info": {"subdir": subdir}, "packages": {}, "packages.conda": {}, "repodata_version": 1}
        )
        if subdir == locked.subdir:
            kind = "packages.conda" if target.suffix == ".conda" else "packages"
            md5 = hashlib.md5(target.read_bytes()).hexdigest()
            data[kind][target.name] = {**index, "sha256": locked.sha256, "md5": md5, "size": locked.bytes}
        path.write_text(json.dumps(data, sort_keys=True))
    return locked


@functools.cache
def python_package() -> tuple[bytes, str, dict[str, Any]]:
    """The CPython 3.10 of this machine as a conda package: bytes, version, repodata entry; made once a session."""
    found = interpreter.installed("3.10")
    if not found:
        pytest.skip("no CPython 3.10 is installed here")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        interpreter.carry_installed(found[0], tree)
        members = {
            path.relative_to(tree).as_posix(): Member(link=str(path.readlink()))
            if path.is_symlink()
            else Member(source=path, executable=os.access(path, os.X_OK))
            for path in sorted(tree.rglob("*"))
            if path.is_symlink() or path.is_file()
        }
        members["lib/python3.1"] = Member(link="python3.10")  # as conda-forge's has it
        channel = Path(folder, CHANNEL)
        locked = make_package(channel, "python", found[0].version, members)
        data = json.loads((channel / "linux-64/repodata.json").read_text())
        return (channel / "linux-64" / locked.file).read_bytes(), found[0].version, data["packages.conda"][locked.file]


def add_python(channel: Path) -> LockedConda:
    """Put that package into a channel."""
    content, _, index = python_package()
    target = channel / "linux-64" / f"python-{index['version']}-h0_0.conda"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    bare = {key: value for key, value in index.items() if key not in ("sha256", "md5", "size")}
    return _list(channel, bare, target)
