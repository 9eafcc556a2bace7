"""For the tests of engines: small environments, an image of this machine's programs, and child processes."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

from envs.engines.base import ENV_LABEL, LOCK_LABEL, PROJECT_LABEL, Environment, Mount, Task

ROOT = Path(__file__).resolve().parents[2]
LOCK = "sha256:" + "1" * 64
ENV = f"enginetest-{os.getpid()}"  # of this test run alone: another may be at work in the same engine
PROGRAMS = (
    "bash",
    "sh",
    "echo",
    "true",
    "sleep",
    "cat",
    "id",
    "tr",
    "grep",
    "ls",
    "head",
    "env",
    "touch",
    "stty",
    "yes",
    "sha256sum",
)
PRELUDE = """
import json, os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from envs.engines.base import Environment, Mount, Task
from envs.engines.choose import choose
environment = Environment({env!r}, {lock!r}, Path({tree!r}), {image!r})
def task(*command, **more):
    return Task(environment=environment, command=command, mounts=[], workdir="/tmp", **more)
def out(block): os.write(1, block)
def err(block): os.write(2, block)
engine = choose({kind!r}).engine
"""


@functools.cache
def tiny_image() -> str:
    """The id of an image with a shell and a few programs, and the libraries they link to."""
    import docker

    files: dict[str, Path] = {}
    for program in PROGRAMS:
        found = Path(str(shutil.which(program, path="/usr/bin:/bin")))
        files[f"usr/bin/{program}"] = found
        listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
        for word in listed.split():
            if word.startswith("/"):
                files[word.lstrip("/")] = Path(word)
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w") as tar:
        for name in sorted(files):
            tar.add(files[name].resolve(), f"usr/{name}" if name.startswith("lib") else name, recursive=False)
        for name, target in (("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        temporary = tarfile.TarInfo("tmp")  # engines give the tmpfs at /tmp the mode of the folder under it
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(temporary)
    labels = {PROJECT_LABEL: "edgekiln", ENV_LABEL: ENV, LOCK_LABEL: LOCK}
    client = docker.from_env()
    answer = client.api.import_image_from_data(
        blob.getvalue(),
        repository=f"edgekiln/{ENV}",
        tag="latest",
        changes=[f'LABEL {key}="{value}"' for key, value in labels.items()],
    )
    return str(json.loads(answer.strip().splitlines()[-1])["status"])


def forget_image() -> None:
    """Remove the tiny image and whatever container of it is left."""
    if not tiny_image.cache_info().currsize:
        return
    import docker

    client = docker.from_env()
    for container in client.containers.list(all=True, filters={"label": f"{ENV_LABEL}={ENV}"}):
        container.remove(force=True)
    client.images.remove(tiny_image(), force=True)
    tiny_image.cache_clear()


def environment(kind: str, folder: Path) -> Environment:
    """A built environment of that engine; its tree holds one program that tells whose PATH it was found on."""
    program = folder / "tree" / "bin" / "of-the-tree"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    return Environment(ENV, LOCK, folder / "tree", tiny_image() if kind == "docker" else None)


def task(env: Environment, *command: str, mounts: tuple[Mount, ...] = (), **more: object) -> Task:
    """A task in /tmp, which is there under both engines."""
    return Task(environment=env, command=command, mounts=mounts, **{"workdir": "/tmp", **more})  # type: ignore[arg-type]


def drive(kind: str, env: Environment, body: str, **popen: object) -> subprocess.Popen[bytes]:
    """`body` in a process of its own, with `engine`, `task`, `out` and `err` at hand."""
    head = PRELUDE.format(
        root=str(ROOT), env=env.name, lock=env.lock_digest, tree=str(env.tree), image=env.image, kind=kind
    )
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", head + body], **{**streams, **popen})  # type: ignore[call-overload, no-any-return]


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether it holds at some moment of that time."""
    ends = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > ends:
            return False
        time.sleep(0.02)
    return True


def lives(mark: str) -> bool:
    """Whether a process of this machine has that word on its command line (containers' processes are such too)."""
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in line.read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False
