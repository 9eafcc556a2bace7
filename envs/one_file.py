"""Any ONNX file of this machine, looked at inside an environment: one command, one document back."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from envs.build import build
from envs.contract import Letter, Refusal
from envs.engines.base import Mount, Task
from envs.engines.choose import choose
from envs.errors import EngineError, WrongUse
from envs.files import explain_os_error
from envs.mounts import pipelines_mount
from envs.progress import Progress

MODEL, OUTPUT = "/model", "/output"
Report = TypeVar("Report", bound=Letter)


def look_at(
    file: str,
    module: str,
    words: Sequence[str],
    report: type[Report],
    env: str,
    engine: str,
    progress: Progress,
    output: Path | None = None,
) -> Report:
    """Run `python3 -m MODULE FILE WORDS` inside `env`; its folder is seen read-only, for external data beside it.

    `output`: where what the module writes to its `--output` goes, whole or not at all.
    WrongUse where there is no such file, or it can't be looked at.
    """
    path = _file(file)
    chosen = choose(engine)
    progress.say(chosen.why)
    built = build(env, chosen, progress)
    mounts = [Mount(path.parent, MODEL), pipelines_mount()]
    folder, pipelines = (chosen.engine.view(mount) for mount in mounts)
    variables = {"PYTHONPATH": str(Path(pipelines).parent), "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["python3", "-m", module, f"{folder}/{path.name}", *words]

    def run() -> Report:
        task = Task(environment=built.environment, command=command, mounts=mounts, workdir=folder, variables=variables)
        out, err = bytearray(), bytearray()
        code = chosen.engine.run(task, stdout=out.extend, stderr=err.extend)
        return _report(code, bytes(out), bytes(err), file, report)

    if output is None:
        return run()
    try:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as place:
            mounts.append(Mount(Path(place), OUTPUT, writable=True))
            command += ["--output", f"{chosen.engine.view(mounts[-1])}/{output.name}"]
            made = run()
            Path(place, output.name).replace(output)
            return made
    except OSError as error:
        raise explain_os_error(error) or WrongUse(f"--output {output}: {error.strerror}") from error


def _file(file: str) -> Path:
    path = Path(file)
    if path.is_dir():
        raise WrongUse(f"{file}: a folder, not an ONNX file")
    if not path.is_file():
        raise WrongUse(f"{file}: no such file")
    return path.resolve()


def _report(code: int, out: bytes, err: bytes, file: str, report: type[Report]) -> Report:
    if code == WrongUse.exit_code:
        try:
            refusal = msgspec.json.decode(out, type=Refusal)
        except msgspec.DecodeError:
            pass
        else:
            raise WrongUse(refusal.message, refusal.remedy)
    try:
        return msgspec.json.decode(out, type=report)
    except msgspec.DecodeError as error:
        lines = err.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise EngineError(f"{file}: the check ended with {code}: {lines[-1]}") from error
