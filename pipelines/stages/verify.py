"""verify: the exported file equals torch, the sparse file is what it says, and what sparsity did to the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.contract import Fact, RunRequest
from pipelines.models import find
from pipelines.stage import Context, InputFile, Outcome
from pipelines.stages.fetch import module_files, picture_files, picture_path

if TYPE_CHECKING:
    from pipelines.arrays import Array
    from pipelines.checks.finding import Finding


EXACT_PICTURES = 1  # for what is computed in float64 or from compressed weights: exact, and slow
FACTS = {  # finding -> the facts that its value and its limit become
    "exported equals torch": ("export_max_abs_diff", "export_limit"),
    "preprocessing is as declared": ("preprocess_max_abs_diff",),
    "reordered equals original in float64": ("reordered_max_rel_error", "reordered_limit"),
    "compressed network equals the file": ("compressed_max_abs_diff", "compressed_limit"),
}


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
            "permute": request.permute,
            "keep": request.keep,
            "budget": request.budget,
            "correct": request.correct,
            "weights": request.weights.kind,
            "note": request.weights.note,
            "labels": [[picture.path, picture.label] for picture in request.pictures],
        }

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """The pictures, for preparing them once more, and a person's module."""
        return [*picture_files(request.pictures, data, run_folder), *module_files(request, run_folder)]

    def run(self, context: Context) -> Outcome:
        """All checks; the stage fails where one does, and its reason names the first."""
        from pipelines.arrays import load_arrays
        from pipelines.checks.exported import exported_equals_framework
        from pipelines.checks.preprocessing import preprocessed_as_declared
        from pipelines.checks.sparse_outputs import sparse_outputs
        from pipelines.inference import load_outputs, outputs_of

        request, inputs = context.request, context.inputs
        images = load_arrays(inputs["preprocess/inputs.npz"])["images"]
        model = find(request, context.run_folder)
        paths = [picture_path(picture, context.data, context.run_folder) for picture in request.pictures]
        findings = preprocessed_as_declared(model, images, paths)
        exported = outputs_of(inputs["export/model.onnx"], images, lambda i, n: context.progress("dense", i, n))
        findings.append(exported_equals_framework(exported, load_outputs(inputs["export/reference.npz"])))
        findings += _files(context, images)
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
        facts |= _measured(findings)
        _save(context.out / "verify.json", findings, facts, best, request)
        return _outcome(findings, facts)


def _files(context: Context, images: Array) -> list[Finding]:
    """What the files hold: the pattern, the reordered network, the pruned one, and its compressed form."""
    from pipelines.checks.corrected_file import budget_reached, pruned_and_corrected
    from pipelines.checks.permuted import permuted_equals_original
    from pipelines.checks.sparse_equals_dense import sparse_equals_dense
    from pipelines.checks.sparse_file import only_pruned, pattern_holds
    from pipelines.graph.load import load_model
    from pipelines.sparsity.pattern import NMPattern
    from pipelines.stages.sparsify_record import kept_dense

    request, inputs = context.request, context.inputs
    pattern = NMPattern.parse(request.sparsity)
    record = json.loads(inputs["sparsify/sparsify.json"].read_text("utf-8"))
    dense, sparse = (load_model(inputs[f"{stage}/model.onnx"]) for stage in ("export", "sparsify"))
    keep = kept_dense(dense, pattern, request, record)
    findings = []
    if request.budget is not None:
        findings.append(budget_reached(sparse, pattern, keep, request.budget))
    findings.append(pattern_holds(sparse, pattern, keep))
    if request.permute:
        exported, dense = dense, load_model(inputs["sparsify/permuted.onnx"])
        told = json.loads(inputs["sparsify/permutation.json"].read_text("utf-8"))
        orders = {group["name"]: group["permutation"] for group in told["groups"]}
        context.progress("reordered against original", 0, EXACT_PICTURES)
        findings += permuted_equals_original(exported, dense, images, orders, EXACT_PICTURES)
    if request.correct == "none":
        findings.append(only_pruned(dense, sparse, pattern, keep))
    else:
        findings.append(pruned_and_corrected(dense, sparse, pattern, keep, record))
    context.progress("from compressed weights", 0, EXACT_PICTURES)
    findings.append(sparse_equals_dense(sparse, pattern, images[:EXACT_PICTURES]))
    return findings


def _measured(findings: Sequence[Finding]) -> dict[str, Fact]:
    """The findings' numbers that the table shows."""
    facts: dict[str, Fact] = {}
    for one in findings:
        if (names := FACTS.get(one.name)) is not None:
            facts |= dict(zip(names, (one.value, one.limit), strict=False))
    return facts


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
