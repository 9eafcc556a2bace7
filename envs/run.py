"""`invoke run`: a model through the pipeline, inside an environment, to a verified report."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

import msgspec

from envs.calibration import OwnPicture, bring_pictures, own_pictures
from envs.contract import Event, ExportOptions, RunReport, RunRequest, encode
from envs.data import PACKAGED_WEIGHTS, TORCHVISION, calibration, choose_weights, pictures
from envs.drift import environment
from envs.engines.choose import choose
from envs.errors import WrongUse
from envs.files import write_atomic
from envs.lock import EnvLock, read_lock
from envs.mounts import import_path
from envs.paths import runs_root
from envs.progress import Progress
from envs.run_options import Choices, RunOptions, choices
from envs.run_parts import Surroundings, planned_parts, read_report, run_parts
from envs.sdk.use import outside_run, sdk_of
from envs.spec import EnvSpec, load_spec
from envs.toolchain import check_offer, exporting, offer, vendor_options
from envs.workspace import bring_module, module_file, new_run, pipeline_digest


def run_model(options: RunOptions, progress: Progress, on_event: Callable[[Event], None]) -> RunReport:
    """Build what is missing, run the pipeline in the engine, give its report (also in the run folder)."""
    asked = choices(options)
    spec = load_spec(options.env)
    sdk = sdk_of(spec, progress)
    vendor = vendor_options(options, asked, spec, sdk.record.identity if sdk else "")
    exporter = exporting(spec)
    converts_here = spec.toolchain is not None and (not spec.toolchain.outside or sdk is not None)
    wants_pictures = asked.needs_calibration or converts_here
    own = _own_pictures(options.calibration, spec, asked, read_lock(exporter.name)) if options.calibration else ()
    locks_fit = wants_pictures and not own
    if locks_fit:
        calibration(read_lock(exporter.name))  # says so now if there is none, not after a build
    module = _module_path(options.model)
    if module is None:
        check_model(options.model, read_lock(exporter.name))
    chosen = choose(options.engine)
    progress.say(chosen.why)
    built, data = environment(exporter.name, chosen, progress, allow_drift=options.allow_drift, calibrates=locks_fit)
    environments = {exporter.name: built}
    if spec.name != exporter.name:
        environments[spec.name] = environment(spec.name, chosen, progress, allow_drift=options.allow_drift)[0]
    drift = tuple(line for one in environments.values() for line in one.lock.drift)
    for line in drift:
        progress.say(f"drifted from the lock: {line}")
    variables = import_path(chosen.engine, progress)  # compiles now: a fault in a kernel leaves no run folder
    if vendor is not None and (vendor.target or vendor.variants):
        check_offer(vendor, offer(vendor.vendor, chosen.engine, environments[spec.name], variables))
    outside = outside_run(sdk, chosen, progress, use_cache=options.use_cache) if sdk else None
    model = module.stem if module and module.is_file() else module.name if module else options.model
    run_id, folder = new_run(model)
    fit = bring_pictures(own, folder, progress) if own else calibration(built.lock) if locks_fit else ()
    request = RunRequest(
        run_id=run_id,
        model=model,
        module=bring_module(module, folder) if module else None,
        env=options.env,
        engine=chosen.engine.name,
        lock_digest=environments[spec.name].lock.digest,
        pipeline_digest=pipeline_digest(),
        run_folder=folder.relative_to(runs_root()).as_posix(),
        weights=choose_weights(options.weights, model, built.lock, data, folder, progress, module is not None),
        pictures=pictures(built.lock),
        export=_export_options(exporter),
        sparsity=options.sparsity,
        permute=options.permute,
        gather=options.gather,
        keep=asked.keep,
        budget=asked.budget,
        correct=asked.correct,
        calibration=fit,
        patterns=options.patterns,
        use_cache=options.use_cache,
        drift=drift,
        vendor=vendor,
    )
    digests = {name: one.lock.digest for name, one in environments.items()}
    request = msgspec.structs.replace(request, parts=planned_parts(request, digests, exporter.name))
    write_atomic(folder / "request.json", encode(request))
    weights = f"{request.weights.kind}" + (f" ({request.weights.note})" if request.weights.note else "")
    progress.say(f"run {model}/{run_id} in {' and '.join(environments)}, weights: {weights}")
    around = Surroundings(data, variables)
    run_parts(request, folder, chosen.engine, environments, around, on_event, outside)
    return read_report(folder, request)


def _own_pictures(folder: str, spec: EnvSpec, asked: Choices, lock: EnvLock) -> tuple[OwnPicture, ...]:
    """WrongUse where nothing would look at them."""
    if spec.toolchain is None and not asked.needs_calibration:
        raise WrongUse(
            f"--calibration {folder}: nothing is calibrated in the environment {spec.name!r}",
            "give it with --correct match, --correct obs or --keep auto, or name an environment that converts",
        )
    return own_pictures(Path(folder), pictures(lock))


def _export_options(spec: EnvSpec) -> ExportOptions:
    assert spec.export is not None  # the spec was checked when it was read
    return ExportOptions(opset=spec.export.opset, ir_version=spec.export.ir_version, simplifier=spec.export.simplifier)


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
