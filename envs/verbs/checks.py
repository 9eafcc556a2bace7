"""`test` and `lint`."""

from __future__ import annotations

from envs.display import Terminal


def test(env: str, engine: str, host: bool, k: str) -> int:
    """All suites, the host's first."""
    from envs.testing import run_suites

    return run_suites(env, engine, host, k, Terminal())


def lint() -> int:
    """ruff and mypy."""
    from envs.testing import run_linters

    return run_linters(Terminal())
