"""An image for the stand-in SDK: an environment's Python with onnxruntime, a shell, and nothing of ours."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = ROOT / "tests" / "stand_in_sdk" / "SGS_IPU_Stand_In_0.1"
PROGRAMS = ("bash", "timeout", "dirname", "env", "cat", "id", "touch")
PACKAGES = ("numpy", "numpy.libs", "onnx", "onnxruntime", "google", "PIL", "pillow.libs", "flatbuffers")
WITHOUT = {"test", "tests", "idlelib", "tkinter", "lib2to3", "ensurepip", "site-packages", "__pycache__"}


def save_stand_in_image(tree: Path, archive: Path) -> str:
    """Write an archive as `docker save` does; the image is not in the engine afterwards. Its id."""
    import docker

    client = docker.from_env()
    answer = client.api.import_image_from_data(_content(tree), repository="edgekiln-stand-in", tag=str(os.getpid()))
    image = client.images.get(str(json.loads(answer.strip().splitlines()[-1])["status"]))
    with archive.open("wb") as file:
        for block in image.save(named=True):
            file.write(block)
    client.images.remove(str(image.id), force=True)
    return str(image.id)


def _content(tree: Path) -> bytes:
    files = dict(_python(tree))
    for program in PROGRAMS:
        files[f"usr/bin/{program}"] = Path(str(shutil.which(program, path="/usr/bin:/bin")))
    for library in _libraries(
        [path for path in files.values() if ".so" in path.name or path.parent.name == "bin"], tree
    ):
        files[str(library).lstrip("/")] = library
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w") as tar:
        for name in sorted(files):
            tar.add(files[name].resolve(), f"usr/{name}" if name.startswith("lib") else name, recursive=False)
        for name, target in (("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")):
            _link(tar, name, target)
        _link(tar, "usr/bin/python3", "/opt/python/bin/python3")
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(temporary)
    return blob.getvalue()


def _python(tree: Path) -> Iterator[tuple[str, Path]]:
    yield "opt/python/bin/python3", tree / "bin" / "python3"
    library = next((tree / "lib").glob("python3.*"))
    roots = [one for one in library.iterdir() if one.name not in WITHOUT]
    for root in [*roots, *(library / "site-packages" / name for name in PACKAGES), *(tree / "lib").glob("*.so*")]:
        for path in [root] if root.is_file() else sorted(root.rglob("*")):
            if path.is_file() and not WITHOUT & set(path.relative_to(root).parts):
                yield f"opt/python/{path.relative_to(tree).as_posix()}", path


def _libraries(programs: list[Path], tree: Path) -> set[Path]:
    """What they link to outside the tree."""
    found = set()
    for program in programs:
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        words = (word for word in listed.split() if word.startswith("/"))
        found |= {Path(word) for word in words if not Path(word).resolve().is_relative_to(tree.resolve())}
    return found


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    link = tarfile.TarInfo(name)
    link.type, link.linkname = tarfile.SYMTYPE, target
    tar.addfile(link)
