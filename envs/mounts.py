"""What every container of an environment sees, and the import path inside it."""

from __future__ import annotations

from pathlib import Path

from envs.engines.base import Engine, Mount
from envs.native import kernels
from envs.native_package import native_root
from envs.paths import PIPELINES, runs_root
from envs.platforms import host_platform
from envs.progress import Progress

WORKSPACE, DATA, APP = "/workspace", "/data", "/app"


def standard_mounts(data: Path) -> list[Mount]:
    """What every container of an environment sees: workspace (writable); data, pipelines and kernels (read-only)."""
    return [workspace_mount(), Mount(data, DATA), pipelines_mount(), native_mount()]


def workspace_mount() -> Mount:
    """`runs/`, made if it is not there."""
    runs_root().mkdir(parents=True, exist_ok=True)
    return Mount(runs_root(), WORKSPACE, writable=True)


def pipelines_mount() -> Mount:
    """The pipelines under a folder of their own name, so that this folder is what the import path names."""
    return Mount(PIPELINES, f"{APP}/pipelines")


def native_mount() -> Mount:
    """All compiled kernels, so that a kept container also sees those of sources that have changed since its start."""
    native_root().mkdir(parents=True, exist_ok=True)
    return Mount(native_root(), f"{APP}/native")


def import_path(engine: Engine, progress: Progress, *more: str) -> dict[str, str]:
    """Variables that put `pipelines` (and more folders) on the import path, and its kernels, compiled if need be."""
    parent = str(Path(engine.view(pipelines_mount())).parent)
    folder = kernels(host_platform(), progress)
    native = (f"{engine.view(native_mount())}/{folder.name}",) if folder else ()
    return {"PYTHONPATH": ":".join((parent, *native, *more)), "PYTHONDONTWRITEBYTECODE": "1"}
