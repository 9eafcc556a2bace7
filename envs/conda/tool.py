"""The real conda-lock, in an environment of its own below the cache, and the conda program that it drives."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import sys
from pathlib import Path

from envs import process, sources
from envs.files import exclusive, write_atomic
from envs.paths import LOCKS, cache_root
from envs.progress import Progress

CONDAS = ("micromamba", "mamba", "conda")  # of this machine, the quickest first
SHIM = Path(__file__).with_name("shim.py")


def conda_home() -> Path:
    """Where everything about conda lies in the cache, but for packages, which are in the store."""
    return cache_root() / "conda"


def ensure_tool(progress: Progress) -> Path:
    """The folder of an environment with conda-lock and py-rattler, from hashed requirements, made once."""
    wanted = LOCKS / "conda-tool.txt"
    made_from = f"{sys.version_info[:2]}\n".encode() + wanted.read_bytes()
    folder = conda_home() / f"tool-{hashlib.sha256(made_from).hexdigest()[:16]}"
    stamp = folder / "made-from.txt"
    with exclusive(cache_root() / "locks" / "conda-tool", lambda: progress.say("another process installs conda-lock")):
        if not stamp.exists():
            progress.say("installing conda-lock and py-rattler into the cache (once, about 170 MB)")
            shutil.rmtree(folder, ignore_errors=True)
            process.run([sources.uv(), "venv", "--quiet", "--no-project", "--python", sys.executable, folder])
            command: list[str | Path] = [sources.uv(), "pip", "install", "--quiet", "--python", folder / "bin/python"]
            process.run([*command, "--require-hashes", "-r", wanted])
            write_atomic(stamp, made_from)
    return folder


def choose_conda(tool: Path, progress: Progress) -> Path:
    """The program that solves: the user's own, else the stand-in over py-rattler. Says which."""
    for name in CONDAS:
        if found := shutil.which(name):
            progress.say(f"conda: solving with {found}, which knows no --newest: the newest builds of today count")
            return Path(found)
    progress.say("conda: no micromamba, mamba or conda on the PATH; solving with py-rattler")
    shim = tool / "bin" / "edgekiln-conda"
    text = f'#!/bin/sh\nexec {shlex.quote(str(tool / "bin" / "python"))} -I {shlex.quote(str(SHIM))} "$@"\n'
    if not shim.exists() or shim.read_text("utf-8") != text:
        write_atomic(shim, text.encode())
        shim.chmod(0o755)
    return shim
