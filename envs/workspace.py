"""`runs/MODEL/RUN-ID/`: request, report, events, artifacts of one run; `latest` points at the last that ended."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import shutil
from pathlib import Path

from envs.errors import WorkspaceError, WrongUse
from envs.files import explain_os_error, sha256_file
from envs.paths import PIPELINES, runs_root

LARGEST_INPUT_BYTES = 4 << 30


def new_run(model: str) -> tuple[str, Path]:
    """A new run's id and its folder. The id sorts by time and is never given twice."""
    stamp = dt.datetime.now(dt.timezone.utc).strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        run_id = f"{stamp}-{number:03d}"
        folder = runs_root() / model / run_id
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise explain_os_error(error) or WorkspaceError(f"{folder}: {error.strerror}") from error
        return run_id, folder
    raise WorkspaceError(f"{runs_root() / model}: more than 999 runs in one second")


def point_latest(folder: Path) -> None:
    """Let `latest` beside the run folder point at it, in one step."""
    temporary = folder.parent / f".latest-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    temporary.replace(folder.parent / "latest")


def module_file(path: Path) -> Path:
    """The module that a path means: the file, or model.py in the folder. WrongUse where there is none."""
    module = path / "model.py" if path.is_dir() else path
    if not module.is_file() or module.suffix != ".py":
        raise WrongUse(f"--model {path}: no Python module there", "give a .py file, or a folder that holds model.py")
    return module


def bring_module(path: Path, folder: Path) -> str:
    """Copy a person's module (a .py file, or a folder with model.py) into the run; its path there."""
    module = module_file(path)
    target = folder / "input" / "module"
    if path.is_dir():
        if sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) > LARGEST_INPUT_BYTES:
            raise WrongUse(
                f"--model {path}: the folder holds more than 4 GiB", "leave out what the model does not need"
            )
        shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__", ".git", "runs"))
    else:
        target.mkdir(parents=True)
        shutil.copyfile(module, target / module.name)
    return str((target / module.name).relative_to(folder))


def pipeline_digest() -> str:
    """sha256 over the pipelines' files as they are mounted: names and contents, bytecode apart."""
    digest = hashlib.sha256()
    for file in sorted(PIPELINES.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc":
            digest.update(f"{file.relative_to(PIPELINES).as_posix()} {sha256_file(file)}\n".encode())
    return "sha256:" + digest.hexdigest()
