"""A small bundle made by hand: a lock of two wheels, their sources, a tool of a few files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
import tomli_w
from serving import make_wheel

import envs.bundle.load
from envs.bundle.manifest import FORMAT, Manifest, Member, in_order
from envs.bundle.write import write_bundle
from envs.lock import LOCK_VERSION, EnvLock, LockedHubWeights, LockedInterpreter, to_text
from envs.progress import Silent
from envs.spec import BaseSpec, EnvSpec, ExportSpec, spec_sha256

EPOCH = 1767225600
ARCHIVE = b"an interpreter" * 100
WEIGHTS = b"weights" * 300


class Made(msgspec.Struct, frozen=True):
    """A bundle's parts before they are written."""

    manifest: Manifest
    files: dict[str, Path]
    lock: EnvLock

    def write(self, path: Path) -> Path:
        write_bundle(self.manifest, self.files, path, Silent())
        return path

    def replaced(self, old: Member | None, new: Member | None, content: bytes = b"") -> Made:
        """The same with a member put in place of another: what somebody would make who changes manifests too."""
        members = [member for member in self.manifest.members if member != old] + ([new] if new else [])
        files = dict(self.files)
        if new and not new.link:
            folder = next(iter(self.files.values())).parent
            files[new.path] = folder / f"replaced-{new.sha256[:8]}"
            files[new.path].write_bytes(content)
        return Made(msgspec.structs.replace(self.manifest, members=in_order(members)), files, self.lock)

    def member(self, kind: str) -> Member:
        return next(member for member in self.manifest.members if member.kind == kind)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def a_spec(name: str) -> EnvSpec:
    return EnvSpec(
        name=name,
        summary="a test's",
        python="3.10",
        base=BaseSpec(suite="bookworm", packages=("bash",)),
        export=ExportSpec(opset=13, ir_version=7, simplifier="onnxsim"),
    )


def spec_text(spec: EnvSpec) -> str:
    return tomli_w.dumps(msgspec.to_builtins(spec))


def a_lock(folder: Path, name: str = "tiny") -> EnvLock:
    archive = LockedInterpreter(
        source="python-build-standalone", version="3.10.13", sha256=sha256(ARCHIVE), file="20240224/cpython.tar.gz"
    )
    weights = LockedHubWeights(
        model="m", name="V1", file=f"m-{sha256(WEIGHTS)[:8]}.pth", sha256_prefix=sha256(WEIGHTS)[:8]
    )
    return EnvLock(
        version=LOCK_VERSION,
        name=name,
        spec_sha256=spec_sha256(a_spec(name)),
        platform="linux/amd64",
        exclude_newer="2026-01-01T00:00:00Z",
        source_date_epoch=EPOCH,
        python="3.10.13",
        suite="bookworm",
        omit=(),
        trim={},
        interpreter=(archive,),
        package=(make_wheel(folder, "one", "1.0", {"one.py": b"1" * 3000}),),
        test=(make_wheel(folder, "two", "1.0", {"two.py": b"2"}),),
        data=(),
        hub=(weights,),
    )


def a_bundle(folder: Path) -> Made:
    folder.mkdir(parents=True, exist_ok=True)
    lock = a_lock(folder)
    contents = {
        "tool/inv": b"#!/bin/sh\n",
        "tool/pipelines/contract.py": b"x = 1\n",
        "tool/wheels/a-1-py3-none-any.whl": b"wheel",
        "tool/envs/specs/tiny.toml": spec_text(a_spec("tiny")).encode(),
        "tool/envs/locks/tiny.lock.toml": to_text(lock).encode(),
        **{f"sources/{one.sha256}/{one.file}": (folder / one.file).read_bytes() for one in (*lock.package, *lock.test)},
        f"sources/{sha256(ARCHIVE)}/cpython.tar.gz": ARCHIVE,
        f"weights/{lock.hub[0].file}": WEIGHTS,
    }
    kinds = {"tool/inv": "tool", "tool/pipelines/contract.py": "tool", "tool/envs/specs/tiny.toml": "spec"}
    kinds |= {"tool/wheels/a-1-py3-none-any.whl": "wheel", "tool/envs/locks/tiny.lock.toml": "lock"}
    members = [Member(path="tool/envs/contract.py", kind="tool", link="../pipelines/contract.py")]
    files = {}
    for number, (path, content) in enumerate(contents.items()):
        files[path] = folder / f"content-{number}"
        files[path].write_bytes(content)
        kind = kinds.get(path) or ("weights" if path.startswith("weights") else "source")
        members.append(
            Member(
                path=path,
                kind=kind,  # type: ignore[arg-type]
                sha256=sha256(content),
                bytes=len(content),
                executable=path == "tool/inv",
            )
        )
    manifest = Manifest(
        format=FORMAT,
        env="tiny",
        lock_digest=lock.digest,
        platform=lock.platform,
        epoch=EPOCH,
        pythons=("3.11",),
        members=in_order(members),
    )
    return Made(manifest, files, lock)


def empty_checkout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without specs and locks, as far as loading goes."""
    (folder / "locks").mkdir(parents=True)
    (folder / "specs").mkdir()
    monkeypatch.setattr(envs.bundle.load, "LOCKS", folder / "locks")
    monkeypatch.setattr(envs.bundle.load, "SPECS", folder / "specs")
    return folder
