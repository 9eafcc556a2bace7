"""The closing table of a run: the original network beside the sparse one."""

from __future__ import annotations

from pathlib import Path

from envs.contract import Fact, RunReport
from envs.display import mib, number, print_rows, print_title
from envs.paths import runs_root


def facts_of(report: RunReport) -> dict[str, Fact]:
    """All stages' facts in one; stages don't share names."""
    return {name: value for stage in report.stages for name, value in stage.facts.items()}


def print_report(report: RunReport) -> None:
    """Compare, say what must be equal and how equal it is, and where the files are."""
    facts = facts_of(report)
    weights = report.weights.kind + (f" ({report.weights.note})" if report.weights.note else "")
    print_title(f"{report.model}, weights: {weights}{', drifted' if report.drift else ''}")
    print_rows(_network_rows(facts), ("", "original", "sparse"))
    print_rows(_check_rows(facts, report), ("", ""))


def _network_rows(facts: dict[str, Fact]) -> list[tuple[str, str, str]]:
    share = facts.get("weights_at_pattern_share")
    held = f"{facts.get('pattern')} on {share:.1%} of weights" if isinstance(share, float) else "-"
    rows = [
        ("file", mib(facts.get("dense_bytes")), mib(facts.get("sparse_bytes"))),
        ("file, zipped", mib(facts.get("dense_zipped_bytes")), mib(facts.get("sparse_zipped_bytes"))),
        ("pattern", "dense", held),
        ("made by", "export", "magnitude, not retrained"),
    ]
    if facts.get("dense_top1") is None:
        reason = facts.get("accuracy_reason") or "verify did not come so far"
        return [*rows, ("accuracy", "skipped", f"skipped: {reason}")]
    labelled = facts.get("labelled")
    for within in ("top1", "top5"):
        dense, sparse = (f"{facts.get(f'{kind}_{within}')} / {labelled}" for kind in ("dense", "sparse"))
        rows.append((f"{within.replace('p', 'p-')} of labelled", dense, sparse))
    return rows


def _check_rows(facts: dict[str, Fact], report: RunReport) -> list[tuple[str, str]]:
    limit = number(facts.get("export_limit"))
    agreement = facts.get("agreement_top1")
    agrees = f"{agreement:.0%} of {facts.get('pictures')} pictures" if isinstance(agreement, float) else "-"
    rows = [
        ("exported against torch", f"max difference {number(facts.get('export_max_abs_diff'))}, limit {limit}"),
        ("sparse against dense, top-1", agrees),
        ("  cosine, centred cosine", f"{number(facts.get('cosine'))}, {number(facts.get('cosine_centred'))}"),
        ("  max difference", number(facts.get("sparse_max_abs_diff"))),
    ]
    rows += [(f"{stage.name} {stage.status}", stage.reason) for stage in report.stages if stage.status != "ok"]
    rows += [("drifted from the lock" if not place else "", line) for place, line in enumerate(report.drift)]
    folder = runs_root() / report.run_folder
    rows.append(("files", str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)))
    failed = [stage.name for stage in report.stages if stage.status == "failed"]
    result = f"failed: {', '.join(failed)}" if failed else "ok"
    rows.append(("result", f"{result}, drifted ({len(report.drift)} replaced)" if report.drift else result))
    return rows
