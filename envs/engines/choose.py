"""Which engine, and why: Docker Engine where one answers, else this machine itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from envs.engines.base import Engine
from envs.engines.docker_connect import find
from envs.engines.local import LocalEngine
from envs.errors import EngineError, WrongUse

if TYPE_CHECKING:
    from envs.engines.docker import DockerEngine

KINDS = ("auto", "docker", "local")


class Chosen(msgspec.Struct, frozen=True):
    """The engine, one line that says which and why, and the same engine once more where it keeps images."""

    engine: Engine
    why: str
    docker: DockerEngine | None = None


def choose(kind: str) -> Chosen:
    """The engine of that kind. `auto` goes on with local where Docker does not answer, and says why it does not.

    WrongUse for an unknown kind; EngineError where docker was asked for and does not answer.
    """
    if kind not in KINDS:
        raise WrongUse(f"--engine {kind!r} is not one of {', '.join(KINDS)}")
    if kind == "local":
        return _local("as asked")
    try:
        endpoint = find()
        from envs.engines.docker import DockerEngine  # the SDK takes 0.2 s: only where something answers

        engine = DockerEngine(endpoint)
    except EngineError as error:
        if kind == "docker":
            raise
        return _local(error.message)
    return Chosen(engine, f"engine: docker ({engine.describe()} answers)", engine)


def _local(why: str) -> Chosen:
    engine = LocalEngine()
    return Chosen(engine, f"engine: local ({why}): {engine.describe()}")
