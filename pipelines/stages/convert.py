"""convert: the vendor's tool, in a process of its own, and a comparison that decides whether it worked."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.contract import OUTSIDE_FOLDER, Conversion, ConversionReport, Fact, Form, RunRequest, VendorOptions
from pipelines.errors import DISK_FULL, PipelineError
from pipelines.scratch import is_full
from pipelines.stage import Context, InputFile, Outcome

if TYPE_CHECKING:
    from pipelines.arrays import Array
    from pipelines.vendors.base import Job, Variant, Vendor

FORMS: tuple[Form, ...] = ("dense", "sparse", "unstructured")


class Convert:
    """Writes `convert.json` and, for every network and number format, FORM/VARIANT/ with the tool's file and log."""

    name = "convert"
    needs = ("preprocess", "check")
    uses = ("prepare",)

    def parameters(self, request: RunRequest) -> Mapping[str, Any]:
        """The tool's options, the pattern, the labels that judge."""
        import msgspec

        return {
            "vendor": msgspec.to_builtins(request.vendor),
            "model": request.model,
            "sparsity": request.sparsity,
            "weights": request.weights.kind,
            "labels": [picture.label for picture in request.pictures],
        }

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """What a vendor's own container left; none for a tool that runs here."""
        from pipelines.vendors.outside import left_files

        del data
        return left_files(run_folder / OUTSIDE_FOLDER) if request.vendor and request.vendor.sdk else ()

    def run(self, context: Context) -> Outcome:
        """Every form in every variant; the stage fails where one does, and still keeps all that was made."""
        import msgspec

        from pipelines.installed import installed
        from pipelines.vendors import ABSENT, vendor
        from pipelines.vendors.outside import sdk_versions

        options = context.request.vendor
        if options is None:
            return Outcome(status="skipped", reason="no vendor tool in this environment")
        if options.vendor in ABSENT and not options.sdk:
            return Outcome(status="skipped", reason=ABSENT[options.vendor])
        if options.sdk and "prepare/plan.json" not in context.inputs:
            return Outcome(status="skipped", reason="prepare failed")
        tool = vendor(options.vendor)
        target = _target(tool, options)
        asked = _variants(tool, options, target)
        if any(one.calibrates for one in asked) and "preprocess/calibration.npz" not in context.inputs:
            raise PipelineError(
                f"{options.vendor} needs calibration pictures for {', '.join(o.name for o in asked if o.calibrates)}",
                "give --calibration FOLDER, or --variants without them",
            )
        rows = list(_rows(context, tool, target, asked))
        report = ConversionReport(
            vendor=options.vendor,
            target=target,
            versions={**installed(tool.distributions), **sdk_versions(context.run_folder / OUTSIDE_FOLDER)},
            pattern=context.request.sparsity,
            unstructured=options.unstructured,
            calibration_pictures=len(context.request.calibration),
            labelled=sum(picture.label is not None for picture in context.request.pictures),
            rows=tuple(rows),
        )
        document = msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"
        (context.out / "convert.json").write_bytes(document)
        return _outcome(report)


def _target(tool: Vendor, options: VendorOptions) -> str:
    if not tool.targets and options.target:
        raise PipelineError(f"{options.vendor} knows no targets, and --target names {options.target!r}", "leave it out")
    if options.target and options.target not in tool.targets:
        raise PipelineError(
            f"{options.vendor} has no target {options.target!r} here", f"these are: {', '.join(tool.targets)}"
        )
    return options.target or next(iter(tool.targets), "")


def _variants(tool: Vendor, options: VendorOptions, target: str) -> list[Variant]:
    """Those asked for, else all that are not kept for being asked for by name."""
    known = {one.name: one for one in tool.variants(target)}
    if unknown := [name for name in options.variants if name not in known]:
        raise PipelineError(
            f"{options.vendor} does not convert to {unknown[0]!r} for {target or 'any chip'}",
            f"these are: {', '.join(known)}",
        )
    return [known[name] for name in options.variants] or [one for one in known.values() if one.by_default]


def _rows(context: Context, tool: Vendor, target: str, asked: Sequence[Variant]) -> Iterator[Conversion]:
    forms = [form for form in FORMS if f"check/{form}.onnx" in context.inputs]
    total, done = len(forms) * len(asked), 0
    for form in forms:
        for variant in asked:
            context.progress(f"{form} {variant.name}", done, total)
            yield _one(context, tool, target, form, variant)
            done += 1
            context.progress(f"{form} {variant.name}", done, total)


def _one(context: Context, tool: Vendor, target: str, form: Form, variant: Variant) -> Conversion:
    import msgspec

    from pipelines.arrays import load_arrays
    from pipelines.checks.agreement import hits, top_classes
    from pipelines.checks.parity import parity, shortfall
    from pipelines.inference import load_outputs
    from pipelines.vendors.worker import convert_apart

    out = context.out / form / variant.name
    out.mkdir(parents=True)
    log = out / "convert.log"
    row = Conversion(form=form, variant=variant.name, status="ok", floor=variant.floor, log=_inside(log, context))
    with _work(context) as work:
        made = convert_apart(tool, _job(context, target, form, variant, out, work), log, variant.timeout_s)
        row = msgspec.structs.replace(
            row,
            elapsed_s=made.elapsed_s,
            ran_by=made.ran_by,
            sparsity=made.sparsity,
            weight_bytes=made.weight_bytes,
            cycles=made.cycles,
        )
        if made.error and is_full(context.out):
            raise DISK_FULL  # no other conversion would end better, nor could their table be written
        if made.error:
            return msgspec.structs.replace(row, status="failed", reason=made.error)
        size = sum((out / name).stat().st_size for name in (made.file, *made.beside))
        row = msgspec.structs.replace(row, file=_inside(out / made.file, context), file_bytes=size)
        if not made.outputs:
            return msgspec.structs.replace(row, status="skipped", reason=f"not compared: {made.not_run}")
        outputs = load_outputs(Path(made.outputs))
    reference = load_outputs(context.inputs[f"check/{form}.npz"])
    try:
        found = parity(reference, outputs)
    except PipelineError as error:
        return msgspec.structs.replace(row, status="failed", reason=str(error))
    dense = parity(load_outputs(context.inputs["check/dense.npz"]), outputs)
    labels = [picture.label for picture in context.request.pictures]
    judged = len(load_arrays(context.inputs["preprocess/inputs.npz"])["images"])
    why = shortfall(found, variant.floor)
    return msgspec.structs.replace(
        row,
        status="failed" if why else "ok",
        reason=why,
        pictures=judged,
        cosine_centred=found.cosine_centred,
        cosine=found.cosine,
        max_abs_diff=found.max_abs_diff,
        agreement_top1=found.top1,
        against_dense_cosine_centred=dense.cosine_centred,
        against_dense_top1=dense.top1,
        top1=hits(top_classes(outputs[0]), labels, 1) if _scores(outputs[0], context.request) else None,
    )


@contextlib.contextmanager
def _work(context: Context) -> Iterator[Path]:
    """An empty folder beside the outputs: on the workspace, where there is room and programs may run."""
    with tempfile.TemporaryDirectory(dir=context.out.parent, prefix="work-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _scores(output: Array, request: RunRequest) -> bool:
    """Whether an output is a score of the 1000 classes that the labels name, of a network that was trained."""
    return output.ndim == 2 and output.shape[1] == 1000 and request.weights.kind != "random"


def _job(context: Context, target: str, form: Form, variant: Variant, out: Path, work: Path) -> Job:
    import msgspec

    from pipelines.models.base import Preprocessing
    from pipelines.vendors.base import Job

    request, inputs = context.request, context.inputs
    assert request.vendor is not None
    declared = inputs.get("preprocess/preprocessing.json")
    calibration = inputs.get("preprocess/calibration.npz")
    return Job(
        vendor=request.vendor.vendor,
        target=target,
        variant=variant.name,
        form=form,
        pattern=request.sparsity,
        model=str(inputs[f"check/{form}.onnx"]),
        calibration=str(calibration) if calibration and variant.calibrates else "",
        judged=str(inputs["preprocess/inputs.npz"]),
        preprocessing=msgspec.json.decode(declared.read_bytes(), type=Preprocessing) if declared else None,
        out=str(out),
        work=str(work),
        result=str(work / "result.json"),
        outside=str(context.run_folder / OUTSIDE_FOLDER) if request.vendor.sdk else "",
        threads=_threads(),
    )


def _threads() -> int:
    import os

    return int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or 0) or len(os.sched_getaffinity(0))


def _inside(path: Path, context: Context) -> str:
    return path.relative_to(context.out).as_posix()


def _outcome(report: ConversionReport) -> Outcome:
    """Facts that the host's table is made of, and what failed first."""
    rows = report.rows
    facts: dict[str, Fact] = {
        "vendor": report.vendor,
        "target": report.target,
        "conversions": len(rows),
        "conversions_ok": sum(row.status == "ok" for row in rows),
        "conversions_skipped": sum(row.status == "skipped" for row in rows),
    }
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        first = failed[0]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return Outcome(status="failed", reason=f"{first.form} {first.variant}: {first.reason}{more}", facts=facts)
    chip = f" for {report.target}" if report.target else ""
    told = f"{facts['conversions_ok']} of {len(rows)} converted{chip} and equal within their limits"
    return Outcome(summary=told, facts=facts)
