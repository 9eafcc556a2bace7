"""Where things lie on the host: the checkout and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SPECS = ROOT / "envs" / "specs"
LOCKS = ROOT / "envs" / "locks"
PIPELINES = ROOT / "pipelines"


def cache_root() -> Path:
    """EDGEKILN_CACHE, else XDG_CACHE_HOME/edgekiln, else ~/.cache/edgekiln."""
    if named := os.environ.get("EDGEKILN_CACHE"):
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "edgekiln"


def runs_root() -> Path:
    """EDGEKILN_RUNS, else `runs/` in the checkout: the workspace that containers see."""
    return Path(os.environ.get("EDGEKILN_RUNS") or ROOT / "runs").absolute()
