"""`invoke check-pattern`: any ONNX file of this machine, looked at inside an environment."""

from __future__ import annotations

from pathlib import Path

import msgspec

from envs.build import build
from envs.contract import PatternReport, Refusal
from envs.engines.base import Mount, Task
from envs.engines.choose import choose
from envs.errors import EngineError, WrongUse
from envs.mounts import pipelines_mount
from envs.progress import Progress
from envs.run_options import check_sparsity

MODEL = "/model"


def check_pattern(file: str, sparsity: str, env: str, engine: str, progress: Progress) -> PatternReport:
    """How every layer of the file stands to the pattern. Its folder is seen read-only, for external data beside it.

    WrongUse where there is no such file, or it is no ONNX file.
    """
    check_sparsity(sparsity)
    path = _file(file)
    chosen = choose(engine)
    progress.say(chosen.why)
    built = build(env, chosen, progress)
    mounts = [Mount(path.parent, MODEL), pipelines_mount()]
    folder = chosen.engine.view(mounts[0])
    command = ("python3", "-m", "pipelines.checks.pattern_file", f"{folder}/{path.name}", "--sparsity", sparsity)
    parent = Path(chosen.engine.view(mounts[1])).parent
    variables = {"PYTHONPATH": str(parent), "PYTHONDONTWRITEBYTECODE": "1"}
    task = Task(environment=built.environment, command=command, mounts=mounts, workdir=folder, variables=variables)
    out, err = bytearray(), bytearray()
    code = chosen.engine.run(task, stdout=out.extend, stderr=err.extend)
    return _report(code, bytes(out), bytes(err), file)


def _file(file: str) -> Path:
    if not file:
        raise WrongUse("check-pattern has no file", "name one: invoke check-pattern model.onnx --sparsity 2:4")
    path = Path(file)
    if path.is_dir():
        raise WrongUse(f"{file}: a folder, not an ONNX file")
    if not path.is_file():
        raise WrongUse(f"{file}: no such file")
    return path.resolve()


def _report(code: int, out: bytes, err: bytes, file: str) -> PatternReport:
    if code == WrongUse.exit_code:
        try:
            refusal = msgspec.json.decode(out, type=Refusal)
        except msgspec.DecodeError:
            pass
        else:
            raise WrongUse(refusal.message, refusal.remedy)
    try:
        return msgspec.json.decode(out, type=PatternReport)
    except msgspec.DecodeError as error:
        lines = err.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise EngineError(f"{file}: the check ended with {code}: {lines[-1]}") from error
