"""collect: what was measured, as one text file for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.contract import PATTERNS, Fact, RunRequest
from pipelines.stage import Context, InputFile, Outcome


class Collect:
    """Writes `MODEL_results.txt`. It holds no clock: the same results, the same bytes."""

    name = "collect"
    needs = ()
    uses = ("export", "sparsify", "verify", "check", "convert", PATTERNS)  # the last runs only where it is asked for

    def parameters(self, request: RunRequest) -> Mapping[str, Any]:
        """What the text names."""
        weights = request.weights
        return {"model": request.model, "env": request.env, "weights": [weights.kind, weights.note, weights.seed]}

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """None beside the stages' outputs."""
        del request, data, run_folder
        return ()

    def run(self, context: Context) -> Outcome:
        """Write it."""
        import json

        request = context.request
        seed = f", seed {request.weights.seed}" if request.weights.kind == "random" else ""
        note = f" ({request.weights.note})" if request.weights.note else ""
        lines = [
            f"model: {request.model}",
            f"environment: {request.env}, {request.lock_digest}",
            f"weights: {request.weights.kind}{note}{seed}",
            "",
        ]
        for stage in self.uses[:-1]:
            facts = context.results.get(stage) or {"not run": "see the report"}
            lines += [f"[{stage}]", *(f"{name}: {_shown(value)}" for name, value in facts.items()), ""]
        if (path := context.inputs.get("verify/verify.json")) is not None:
            lines += _verified(json.loads(path.read_text("utf-8")))
        if (path := context.inputs.get("convert/convert.json")) is not None:
            rows = json.loads(path.read_text("utf-8"))["rows"]
            lines += ["", "[conversions]", *(_conversion(row) for row in rows)]
        if (path := context.inputs.get(f"{PATTERNS}/patterns.json")) is not None:
            lines += ["", "[patterns]", *(_pattern(row) for row in json.loads(path.read_text("utf-8")))]
        name = f"{request.model}_results.txt"
        (context.out / name).write_text("\n".join(lines) + "\n", "utf-8")
        return Outcome(summary=name)


def _verified(record: Mapping[str, Any]) -> list[str]:
    lines = ["[findings]", *(_finding(one) for one in record["findings"]), "", "[top-5 classes: dense | sparse]"]
    for one in record["pictures"]:
        label = "" if one["label"] is None else f" (labelled {one['label']})"
        dense, sparse = (" ".join(str(c) for c in one[kind]) for kind in ("dense_top5", "sparse_top5"))
        lines.append(f"{one['path']}{label}: {dense} | {sparse}")
    return lines


def _conversion(row: Mapping[str, Any]) -> str:
    values = ("file_bytes", "weight_bytes", "cycles", "cosine_centred", "max_abs_diff", "agreement_top1", "top1")
    told = ", ".join(f"{name} {_shown(row.get(name))}" for name in values)
    why = f" ({row['reason']})" if row.get("reason") else ""
    zeros = f"; zeros: {row['sparsity']}" if row.get("sparsity") else ""
    return f"{row['form']} {row['variant']}: {row['status']}{why}, {told}{zeros}"


def _pattern(row: Mapping[str, Any]) -> str:
    order = "reordered" if row["reordered"] else "as exported"
    agreement = row["agreement_top1"]
    agrees = "not measured" if agreement is None else f"{agreement:.1%}"
    return (
        f"{row['pattern']} {order}: {row['retained_share']:.2%} of the magnitude, efficacy {row['efficacy']:.1%}, "
        f"{row['compressed_bytes']} bytes packed, top-1 agreement {agrees}"
    )


def _shown(value: Fact) -> str:
    return "not measured" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _finding(one: Mapping[str, Any]) -> str:
    return f"{one['status']:<8}{one['name']}: {one['detail']}"
