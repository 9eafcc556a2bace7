"""`test` and `lint`."""

from __future__ import annotations

from envs.display import Terminal
from envs.errors import WrongUse


def test(env: str, engine: str, host: bool, inside: bool, k: str) -> int:
    """All suites, the host's first."""
    from envs.testing import run_suites

    if host and inside:
        raise WrongUse("--host and --inside exclude each other", "leave both out to run all tests")
    return run_suites(env, engine, k, Terminal(), host=not inside, inside=not host)


def lint() -> int:
    """ruff, mypy, and the linters of workflows, Dockerfile and shell scripts."""
    from envs.testing import run_linters

    return run_linters(Terminal())
