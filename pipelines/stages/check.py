"""check: the gate. What the toolchain would refuse or compute wrongly is said here, with node, limit and remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.contract import Fact, Form, GateFinding, RunRequest
from pipelines.stage import Context, InputFile, Outcome

if TYPE_CHECKING:
    import onnx

    from pipelines.arrays import Array
    from pipelines.vendors.limits import Limits


class Check:
    """Writes FORM.onnx, which the converter gets, onnxruntime's outputs for it as FORM.npz, and `check.json`.

    Forms are dense, sparse and, where asked for, unstructured. What passes changed is in `mended.json`.
    """

    name = "check"
    needs = ("preprocess", "export", "sparsify")
    uses = ()

    def parameters(self, request: RunRequest) -> Mapping[str, Any]:
        """The toolchain, whether it mends, and which layers become sparse."""
        options = request.vendor
        return {
            "vendor": options.vendor if options else "",
            "fix": bool(options and options.fix),
            "unstructured": options.unstructured if options else None,
            "sparsity": request.sparsity,
            "keep": request.keep,
            "budget": request.budget,
        }

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """None beside the stages' outputs."""
        del request, data, run_folder
        return ()

    def run(self, context: Context) -> Outcome:
        """Look at every form, mend it where that is asked for, and run what is handed over."""
        import msgspec

        from pipelines.arrays import load_arrays
        from pipelines.vendors import vendor

        options = context.request.vendor
        if options is None:
            return Outcome(status="skipped", reason=f"environment {context.request.env} has no toolchain")
        limits = vendor(options.vendor).limits
        images = load_arrays(context.inputs["preprocess/inputs.npz"])["images"]
        findings: list[GateFinding] = []
        changes: dict[Form, list[str]] = {}
        for form, model in _forms(context):
            found, changed = _gated(form, model, limits, images, context)
            findings += found
            if changed:
                changes[form] = changed
        for name, document in (("check.json", findings), *((("mended.json", changes),) if changes else ())):
            (context.out / name).write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
        return outcome(findings, options.vendor)


def _forms(context: Context) -> list[tuple[Form, onnx.ModelProto]]:
    from pipelines.graph.load import load_model
    from pipelines.graph.unstructured import unstructured

    dense, sparse = (load_model(context.inputs[f"{stage}/model.onnx"]) for stage in ("export", "sparsify"))
    forms: list[tuple[Form, onnx.ModelProto]] = [("dense", dense), ("sparse", sparse)]
    assert context.request.vendor is not None
    if (share := context.request.vendor.unstructured) is not None:
        forms.append(("unstructured", unstructured(dense, share, _covered(dense, context))))
    return forms


def _covered(dense: onnx.ModelProto, context: Context) -> list[str]:
    """The weights that the pattern covers in this run."""
    from pipelines.graph.weights import split
    from pipelines.sparsity.pattern import NMPattern
    from pipelines.stages.sparsify_record import kept_dense

    pattern = NMPattern.parse(context.request.sparsity)
    record = json.loads(context.inputs["sparsify/sparsify.json"].read_text("utf-8"))
    keep = kept_dense(dense, pattern, context.request, record)
    return [weight.initializer for weight in split(dense, pattern, keep)[0]]


def _gated(
    form: Form, model: onnx.ModelProto, limits: Limits, images: Array, context: Context
) -> tuple[list[GateFinding], list[str]]:
    """One network's findings and what was changed; the network and its outputs are in the stage's folder then."""
    from pipelines.gate.examine import examine
    from pipelines.gate.mend import mend
    from pipelines.gate.prove import evidence, run_outputs
    from pipelines.inference import save_outputs
    from pipelines.sparsity.pattern import NMPattern

    request = context.request
    assert request.vendor is not None
    changes: list[str] = []
    if request.vendor.fix:
        before = evidence(model, images, NMPattern.parse(request.sparsity))
        mended = mend(model, limits, form, before, tell=lambda name: context.progress(f"{form}: {name}", 0, 1))
        model, findings, changes = mended.model, mended.findings, mended.changes
    else:
        findings = examine(model, limits, form, model.ByteSize())
    (context.out / f"{form}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    outputs = run_outputs(model, images, lambda done, total: context.progress(form, done, total))
    save_outputs(context.out / f"{form}.npz", outputs)
    return findings, changes


def outcome(findings: Sequence[GateFinding], vendor: str) -> Outcome:
    """Failed where an error is left; its reason is the first."""
    left = [one for one in findings if not one.fixed]
    errors = [one for one in left if one.severity == "error"]
    facts: dict[str, Fact] = {
        "gate_findings": len(findings),
        "gate_errors": len(errors),
        "gate_warnings": len(left) - len(errors),
        "gate_fixed": len(findings) - len(left),
    }
    if errors:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        return Outcome(status="failed", reason=f"{told(first)}{more}", facts=facts)
    parts = [
        f"{count} {word}"
        for count, word in ((facts["gate_fixed"], "mended"), (facts["gate_warnings"], "warned of"))
        if count
    ]
    return Outcome(summary=f"within the limits of {vendor}" + (f", {', '.join(parts)}" if parts else ""), facts=facts)


def told(finding: GateFinding) -> str:
    """A finding in one line."""
    where = f"{finding.form}: {finding.node} ({finding.op}): " if finding.node else f"{finding.form}: "
    mend = "; --fix mends it" if finding.fix and " can't: " not in finding.remedy else ""
    return f"{where}{finding.limit}; {finding.remedy}{mend}"
