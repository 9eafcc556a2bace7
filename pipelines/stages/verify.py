"""verify: the exported file equals torch, the sparse file is what it says, and what sparsity did to the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.contract import Fact, RunRequest
from pipelines.models import find
from pipelines.stage import Context, InputFile, Outcome
from pipelines.stages.fetch import module_files, picture_files

if TYPE_CHECKING:
    from pipelines.arrays import Array
    from pipelines.checks.finding import Finding


class Verify:
    """Writes `verify.json`: findings, numbers, and the best classes of every picture."""

    name = "verify"
    needs = ("preprocess", "export", "sparsify")
    uses = ()

    def parameters(self, request: RunRequest) -> Mapping[str, Any]:
        """What is judged, and by which labels."""
        return {
            "model": request.model,
            "sparsity": request.sparsity,
            "weights": request.weights.kind,
            "note": request.weights.note,
            "labels": [[picture.path, picture.label] for picture in request.pictures],
        }

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """The pictures, for preparing them once more, and a person's module."""
        return [*picture_files(request, data), *module_files(request, run_folder)]

    def run(self, context: Context) -> Outcome:
        """All checks; the stage fails where one does, and its reason names the first."""
        import onnx

        from pipelines.arrays import load_arrays
        from pipelines.checks.exported import exported_equals_framework
        from pipelines.checks.preprocessing import preprocessed_as_declared
        from pipelines.checks.sparse_file import only_pruned, pattern_holds
        from pipelines.checks.sparse_outputs import sparse_outputs
        from pipelines.inference import load_outputs, outputs_of
        from pipelines.sparsity.pattern import NMPattern

        request, inputs = context.request, context.inputs
        images = load_arrays(inputs["preprocess/inputs.npz"])["images"]
        model = find(request, context.run_folder)
        pattern = NMPattern.parse(request.sparsity)
        paths = [context.data / picture.path for picture in request.pictures]
        findings = preprocessed_as_declared(model, images, paths)
        exported = outputs_of(inputs["export/model.onnx"], images, lambda i, n: context.progress("dense", i, n))
        findings.append(exported_equals_framework(exported, load_outputs(inputs["export/reference.npz"])))
        dense_file, sparse_file = (onnx.load(str(inputs[f"{stage}/model.onnx"])) for stage in ("export", "sparsify"))
        findings.append(pattern_holds(sparse_file, pattern))
        findings.append(only_pruned(dense_file, sparse_file, pattern))
        sparse, finding = sparse_outputs(
            inputs["sparsify/model.onnx"], images, exported, lambda i, n: context.progress("sparse", i, n)
        )
        findings.append(finding)
        if not sparse:
            _save(context.out / "verify.json", findings, {}, [[[] for _ in paths]] * 2, request)
            return _outcome(findings, {})
        facts, best = _answers(exported[0], sparse[0], request)
        if model.anchor_top1 is not None:
            findings.append(_anchor(facts, model.anchor_top1, request))
        for one in findings:
            if one.name == "exported equals torch":
                facts |= {"export_max_abs_diff": one.value, "export_limit": one.limit}
            elif one.name == "preprocessing is as declared":
                facts["preprocess_max_abs_diff"] = one.value
        _save(context.out / "verify.json", findings, facts, best, request)
        return _outcome(findings, facts)


def _answers(dense: Array, sparse: Array, request: RunRequest) -> tuple[dict[str, Fact], list[list[list[int]]]]:
    """The table's facts, and the best classes of every picture under both networks."""
    from pipelines.checks.agreement import agreement, hits, top_classes

    labels = [picture.label for picture in request.pictures]
    facts: dict[str, Fact] = {"pictures": len(labels), "labelled": sum(label is not None for label in labels)}
    facts |= agreement(dense, sparse).facts()
    classes = dense.ndim == 2 and dense.shape[1] > 1
    best: list[list[list[int]]] = [top_classes(one) if classes else [[] for _ in labels] for one in (dense, sparse)]
    reason = _no_accuracy(classes, dense.shape[-1], bool(facts["labelled"]), request)
    facts["accuracy_reason"] = reason
    for kind, rows in zip(("dense", "sparse"), best, strict=True):
        for within in (1, 5):
            facts[f"{kind}_top{within}"] = None if reason else hits(rows, labels, within)
    return facts, best


def _no_accuracy(classes: bool, width: int, labelled: bool, request: RunRequest) -> str:
    """Why accuracy can't be measured; "" where it can."""
    if request.weights.kind == "random":
        return f"weights: random ({request.weights.note})" if request.weights.note else "weights: random"
    if not labelled:
        return "no labelled pictures"
    if not classes or width != 1000:
        return "the output is no score of the 1000 ImageNet classes that the labels name"
    return ""


def _anchor(facts: Mapping[str, Fact], anchor: int, request: RunRequest) -> Finding:
    from pipelines.checks.finding import Finding, judged

    name = "known accuracy is reached"
    if request.weights.kind != "published" or facts["labelled"] != 20:
        return Finding(
            name=name, status="skipped", detail="known for the published weights and 20 labelled pictures only"
        )
    reached = facts["dense_top1"]
    good = isinstance(reached, int) and reached >= anchor
    return judged(name, good, f"dense top-1 {reached} of 20, known {anchor}")


def _save(
    path: Path,
    findings: Sequence[Finding],
    facts: Mapping[str, Fact],
    best: Sequence[Sequence[Sequence[int]]],
    request: RunRequest,
) -> None:
    import msgspec

    record = {
        "findings": msgspec.to_builtins(list(findings)),
        "facts": dict(facts),
        "pictures": [
            {"path": picture.path, "label": picture.label, "dense_top5": dense, "sparse_top5": sparse}
            for picture, dense, sparse in zip(request.pictures, *best, strict=True)
        ],
    }
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", "utf-8")


def _outcome(findings: Sequence[Finding], facts: dict[str, Fact]) -> Outcome:
    failed = [one for one in findings if one.status == "failed"]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return Outcome(status="failed", reason=f"{failed[0].name}: {failed[0].detail}{more}", facts=facts)
    agreed = facts["agreement_top1"]
    told = f", top-1 agreement {agreed:.0%}" if isinstance(agreed, float) else ""
    return Outcome(summary=f"{sum(one.status == 'ok' for one in findings)} checks hold{told}", facts=facts)
