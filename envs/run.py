"""`invoke run`: a model through the pipeline, inside an environment, to a verified report."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from envs.build import Built
from envs.contract import Event, ExportOptions, RunReport, RunRequest, encode, stages_of
from envs.data import PACKAGED_WEIGHTS, TORCHVISION, calibration, choose_weights, pictures
from envs.drift import environment
from envs.engines.base import Engine, Mount, Task
from envs.engines.choose import choose
from envs.errors import EngineError, WrongUse
from envs.files import write_atomic
from envs.lock import EnvLock, read_lock
from envs.native import kernels
from envs.native_package import native_root
from envs.paths import PIPELINES, runs_root
from envs.platforms import host_platform
from envs.progress import Progress
from envs.run_options import RunOptions, choices
from envs.spec import load_spec
from envs.workspace import bring_module, module_file, new_run, pipeline_digest, point_latest

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


def run_model(options: RunOptions, progress: Progress, on_event: Callable[[Event], None]) -> RunReport:
    """Build what is missing, run the pipeline in the engine, give its report (also in the run folder)."""
    asked = choices(options)
    if asked.needs_calibration:
        calibration(read_lock(options.env))  # says so now if there is none, not after a build
    module = _module_path(options.model)
    if module is None:
        check_model(options.model, read_lock(options.env))
    chosen = choose(options.engine)
    progress.say(chosen.why)
    spec = load_spec(options.env)
    built, data = environment(options.env, chosen, progress, allow_drift=options.allow_drift)
    variables = import_path(chosen.engine, progress)  # compiles now: a fault in a kernel leaves no run folder
    for line in built.lock.drift:
        progress.say(f"drifted from the lock: {line}")
    model = module.stem if module and module.is_file() else module.name if module else options.model
    run_id, folder = new_run(model)
    request = RunRequest(
        run_id=run_id,
        model=model,
        module=bring_module(module, folder) if module else None,
        env=options.env,
        engine=chosen.engine.name,
        lock_digest=built.lock.digest,
        pipeline_digest=pipeline_digest(),
        run_folder=folder.relative_to(runs_root()).as_posix(),
        weights=choose_weights(options.weights, model, built.lock, data, folder, progress, module is not None),
        pictures=pictures(built.lock),
        export=ExportOptions(
            opset=spec.export.opset, ir_version=spec.export.ir_version, simplifier=spec.export.simplifier
        ),
        sparsity=options.sparsity,
        permute=options.permute,
        gather=options.gather,
        keep=asked.keep,
        budget=asked.budget,
        correct=asked.correct,
        calibration=calibration(built.lock) if asked.needs_calibration else (),
        patterns=options.patterns,
        use_cache=options.use_cache,
        drift=built.lock.drift,
    )
    write_atomic(folder / "request.json", encode(request))
    weights = f"{request.weights.kind}" + (f" ({request.weights.note})" if request.weights.note else "")
    progress.say(f"run {model}/{run_id} in {options.env}, weights: {weights}")
    _run_pipeline(chosen.engine, built, data, folder, variables, on_event)
    return _read_report(folder, request)


def _module_path(model: str) -> Path | None:
    path = Path(model)
    if not model or not (model.endswith(".py") or "/" in model or path.is_dir()):
        return None
    module_file(path)  # says so now if it is not there, not after a build
    return path.absolute()


def model_names(lock: EnvLock) -> list[str]:
    """Every name that `--model` takes in that environment, sorted."""
    packaged = [
        name for name, collection in PACKAGED_WEIGHTS.items() if any(d.collection == collection for d in lock.data)
    ]
    return sorted([*packaged, *(TORCHVISION + one.model for one in lock.hub)])


def check_model(name: str, lock: EnvLock) -> None:
    """WrongUse with the nearest names where the environment knows no such model."""
    names = model_names(lock)
    if not name:
        raise WrongUse("run has no model", "name one: --model onnx_tv_resnet18; `invoke models` lists them")
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3) or difflib.get_close_matches(TORCHVISION + name, names, n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise WrongUse(
            f"no model is called {name!r}",
            f"{hint}`invoke models` lists them; a .py file or folder works too",
        )


def _run_pipeline(
    engine: Engine,
    built: Built,
    data: Path,
    folder: Path,
    variables: Mapping[str, str],
    on_event: Callable[[Event], None],
) -> None:
    mounts = standard_mounts(data)
    workspace, data_view = engine.view(mounts[0]), engine.view(mounts[1])
    request = folder.relative_to(runs_root()) / "request.json"
    command = ["python3", "-m", "pipelines", str(request), "--workspace", workspace, "--data", data_view]
    task = Task(
        environment=built.environment,
        command=command,
        mounts=mounts,
        workdir=workspace,
        variables=variables,
    )
    lines = Lines(on_event)
    with (folder / "log.txt").open("wb") as log:

        def to_log(block: bytes) -> None:
            log.write(block)
            log.flush()

        code = engine.run(task, stdout=lines.take, stderr=to_log)
    if not (folder / "report.json").exists():
        tail = (folder / "log.txt").read_text("utf-8", errors="replace").strip().splitlines()
        why = tail[-1] if tail else "it said nothing"
        raise EngineError(f"the pipeline ended with {code} and left no report: {why}", f"see {folder / 'log.txt'}")


class Lines:
    """Event lines out of a stream of blocks; a line that is no event is passed over (the run folder has the log)."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self._rest = b""

    def take(self, block: bytes) -> None:
        """The next bytes of the stream."""
        *whole, self._rest = (self._rest + block).split(b"\n")
        for line in whole:
            try:
                event = msgspec.json.decode(line, type=Event)
            except msgspec.DecodeError:
                continue
            self._on_event(event)


def _read_report(folder: Path, request: RunRequest) -> RunReport:
    path = folder / "report.json"
    try:
        report = msgspec.json.decode(path.read_bytes(), type=RunReport)
    except msgspec.DecodeError as error:
        raise EngineError(f"{path}: not a report: {error}", "keep it and report this as a fault of the tool") from error
    if (report.run_id, report.lock_digest, report.pipeline_digest, report.drift) != (
        request.run_id,
        request.lock_digest,
        request.pipeline_digest,
        request.drift,
    ):
        raise EngineError(f"{path}: it belongs to another request", "run again")
    if [stage.name for stage in report.stages] != list(stages_of(request)):
        raise EngineError(f"{path}: not every stage is in it", "run again")
    point_latest(folder)
    return report
