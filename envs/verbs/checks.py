"""`test` and `lint`."""

from __future__ import annotations

from envs.display import Terminal
from envs.errors import WrongUse


def test(env: str, engine: str, host: bool, inside: bool, every: bool, k: str) -> int:
    """All suites, the host's first."""
    from envs.testing import default_environments, run_suites

    if host and inside:
        raise WrongUse("--host and --inside exclude each other", "leave both out to run all tests")
    if env and every:
        raise WrongUse(f"--all and --env {env} exclude each other", "give one of them")
    envs = [] if host else [env] if env else default_environments(every=every)
    return run_suites(envs, engine, k, Terminal(), host=not inside)


def lint() -> int:
    """ruff, mypy, and the linters of workflows, Dockerfile and shell scripts."""
    from envs.testing import run_linters

    return run_linters(Terminal())
