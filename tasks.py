"""The verbs: each parses, calls one function of envs/ and gives the exit code; imports wait until a verb runs."""

import importlib.util
import os
import sys
from pathlib import Path

TOOL = Path(__file__).parent / ".venv" / "bin" / "python"
if any(importlib.util.find_spec(name) is None for name in ("msgspec", "rich", "tomli_w")):
    # an invoke from elsewhere found this file: hand over to the tool's own
    if not TOOL.exists():
        sys.exit("edgekiln: the tool's own environment is missing; run ./inv once, it makes it")
    os.execv(TOOL, [str(TOOL), "-m", "invoke", *sys.argv[1:]])  # noqa: S606

from invoke.context import Context  # noqa: E402
from invoke.tasks import task  # noqa: E402

from envs.cli import after_dashes, verb  # noqa: E402

ENV = {"env": "environment, as `invoke envs` lists them (default sigmastar)"}
ENGINE = {"engine": "auto, docker or local (default auto: Docker where an engine answers)"}
JSON = {"json": "print one JSON document on stdout"}
NAME = {"name": "container, by name or unique prefix of name or id (default: the environment's own)"}


@task(
    help={
        **ENV,
        **JSON,
        "newest": "consider packages up to this day, YYYY-MM-DD",
        "check": "only say whether it is up to date",
    }
)
@verb
def lock(_: Context, env: str = "sigmastar", newest: str = "", check: bool = False, json: bool = False) -> int:
    """Resolve a spec into its lock: every byte that goes in, with its sha256."""
    from envs.verbs import locks

    return locks.lock(env, newest, check, json)


@task(help={**ENV, **ENGINE, **JSON, "context": "write a folder for plain `docker build` instead"})
@verb
def build(_: Context, env: str = "sigmastar", engine: str = "auto", context: str = "", json: bool = False) -> int:
    """Make the environment (and its image) from the lock; nothing to do takes no time."""
    from envs.verbs import builds

    return builds.build_environment(env, engine, context, json)


@task(
    positional=[],
    help={
        **ENV,
        **ENGINE,
        **JSON,
        "model": "a name from `invoke models`, a .py file, or a folder with model.py",
        "sparsity": "N:M, N kept of every M input channels (default 2:4)",
        "weights": "auto, random:SEED or a state dict's path (default auto)",
        "cache": "answer unchanged stages from the cache (default yes; --no-cache runs all)",
    },
)
@verb
def run(
    _: Context,
    model: str = "",
    env: str = "sigmastar",
    engine: str = "auto",
    sparsity: str = "2:4",
    weights: str = "auto",
    cache: bool = True,
    json: bool = False,
) -> int:
    """Take a model through the pipeline: export, sparsify, verify, report."""
    from envs.verbs import pipeline

    return pipeline.run(model, env, engine, sparsity, weights, cache, json)


@task(help={**ENV, **ENGINE})
@verb
def shell(_: Context, env: str = "sigmastar", engine: str = "auto") -> int:
    """A bash inside the environment."""
    from envs.verbs import containers

    return containers.shell(env, engine)


@task(name="exec", help={**ENV, **ENGINE, **NAME})
@verb
def exec_(_: Context, env: str = "sigmastar", engine: str = "auto", name: str = "") -> int:
    """Run a command in the environment's container: invoke exec -- python script.py."""
    from envs.verbs import containers

    return containers.execute(env, engine, name, after_dashes())


@task(help={**ENV, **ENGINE, **NAME, **JSON})
@verb
def start(_: Context, env: str = "sigmastar", engine: str = "auto", name: str = "", json: bool = False) -> int:
    """Create a container of the environment and keep it, or start the one that is there."""
    from envs.verbs import containers

    return containers.start(env, engine, name, json)


@task(help={**ENV, **ENGINE, **NAME})
@verb
def stop(_: Context, env: str = "sigmastar", engine: str = "auto", name: str = "") -> int:
    """Stop a running container."""
    from envs.verbs import containers

    return containers.container("stop", env, engine, name)


@task(help={**ENV, **ENGINE, **NAME})
@verb
def restart(_: Context, env: str = "sigmastar", engine: str = "auto", name: str = "") -> int:
    """Stop a container and start it again."""
    from envs.verbs import containers

    return containers.container("restart", env, engine, name)


@task(help={**ENV, **ENGINE, **NAME, "force": "also a running one"})
@verb
def rm(_: Context, env: str = "sigmastar", engine: str = "auto", name: str = "", force: bool = False) -> int:
    """Remove a stopped container."""
    from envs.verbs import containers

    return containers.container("remove", env, engine, name, force=force)


@task(help={**ENGINE, **JSON})
@verb
def ps(_: Context, engine: str = "auto", json: bool = False) -> int:
    """List this project's containers, running and stopped."""
    from envs.verbs import containers

    return containers.containers(engine, json)


@task(help={**ENGINE, **JSON})
@verb
def images(_: Context, engine: str = "auto", json: bool = False) -> int:
    """List this project's images (trees, under local)."""
    from envs.verbs import builds

    return builds.images(engine, json)


@task(help={**ENV, **ENGINE, **NAME, "follow": "go on until it stops"})
@verb
def logs(_: Context, env: str = "sigmastar", engine: str = "auto", name: str = "", follow: bool = False) -> int:
    """Print what a container's main process wrote."""
    from envs.verbs import containers

    return containers.logs(env, engine, name, follow)


@task(help={**JSON})
@verb
def envs(_: Context, json: bool = False) -> int:
    """List the environments and whether each is locked and built here."""
    from envs.verbs import builds

    return builds.environments(json)


@task(help={**ENV, **JSON})
@verb
def models(_: Context, env: str = "sigmastar", json: bool = False) -> int:
    """List the models that can be run by name."""
    from envs.verbs import pipeline

    return pipeline.models(env, json)


@task(help={**ENV, **ENGINE, "host": "only the host's tests", "k": "pytest's -k, for all suites"})
@verb
def test(_: Context, env: str = "sigmastar", engine: str = "auto", host: bool = False, k: str = "") -> int:
    """Run all tests: the host's, then the pipelines' and the environment's inside the image."""
    from envs.verbs import checks

    return checks.test(env, engine, host, k)


@task
@verb
def lint(_: Context) -> int:
    """ruff (lint and format) and mypy --strict over both wings."""
    from envs.verbs import checks

    return checks.lint()
