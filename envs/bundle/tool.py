"""The files of this checkout that make the tool: what git tracks, or the same set where there is no git."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

from envs import process
from envs.errors import BuildError

NEVER = (".git", "/wheels/", "/.venv.uv")  # beside what .gitignore names; wheels/ is what a bundle adds


def tool_files(root: Path) -> list[str]:
    """Paths relative to `root`, sorted. Files that git does not track stay behind: they may be anything."""
    if (root / ".git").exists():
        return sorted(name for name in _git_files(root) if os.path.lexists(root / name))
    ignored = (root / ".gitignore").read_text("utf-8").split() if (root / ".gitignore").exists() else []
    return sorted(_walk(root, "", (*NEVER, *ignored)))


def untracked(root: Path) -> list[str]:
    """What git neither tracks nor ignores; nothing where there is no git."""
    return sorted(_git_files(root, "--others", "--exclude-standard")) if (root / ".git").exists() else []


def _git_files(root: Path, *which: str) -> set[str]:
    try:
        listed = process.run(["git", "-C", root, "ls-files", "-z", *which]).split(b"\0")
    except BuildError as error:
        raise BuildError(f"{root}: {error.message}", "install git, or bundle from a copy without .git") from error
    return {os.fsdecode(name) for name in listed if name}


def _walk(root: Path, folder: str, ignored: tuple[str, ...]) -> Iterator[str]:
    with os.scandir(root / folder) as found:
        for item in found:
            path = f"{folder}{item.name}"
            is_folder = item.is_dir(follow_symlinks=False)
            if any(_matches(pattern, path, is_folder) for pattern in ignored):
                continue
            if is_folder:
                yield from _walk(root, f"{path}/", ignored)
            else:
                yield path


def _matches(pattern: str, path: str, is_folder: bool) -> bool:
    """The part of git's rules that this checkout's .gitignore uses: names, `/` before and behind, wildcards."""
    if pattern.endswith("/") and not is_folder:
        return False
    if pattern.startswith("/"):
        return fnmatch.fnmatchcase(path, pattern.strip("/"))
    return fnmatch.fnmatchcase(path.rpartition("/")[2], pattern.strip("/"))
