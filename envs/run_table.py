"""The closing table of a run: the original network beside the sparse one."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from envs.contract import (
    PATTERNS,
    PICTURED,
    Conversion,
    ConversionReport,
    Fact,
    Form,
    PatternRow,
    RunReport,
)
from envs.display import mib, number, print_rows, print_title
from envs.errors import EngineError
from envs.paths import runs_root

T = TypeVar("T")

CONVERSION_HEADINGS = (
    "NETWORK",
    "FORMAT",
    "FILE",
    "WEIGHTS",
    "CYCLES",
    "SECONDS",
    "CENTRED COSINE",
    "MAX DIFFERENCE",
    "TOP-1 AS ONNX",
    "RIGHT",
    "RESULT",
)
PATTERN_HEADINGS = (
    "PATTERN",
    "LAYERS",
    "MAGNITUDE",
    "EFFICACY",
    "BITS A GROUP",
    "POSITIONS",
    "PACKED",
    "AGREEMENT",
    "CENTRED COSINE",
    "TOP-1",
)


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
    if (converted := conversions(report)) is not None:
        _print_conversions(converted)
    if rows := pattern_rows(report):
        print_title(f"patterns on every layer that takes them, by {rows[0].made_by}")
        print_rows(_pattern_table(rows), PATTERN_HEADINGS)


def _network_rows(facts: dict[str, Fact]) -> list[tuple[str, str, str]]:
    rows = [
        ("file", mib(facts.get("dense_bytes")), mib(facts.get("sparse_bytes"))),
        ("file, zipped", mib(facts.get("dense_zipped_bytes")), mib(facts.get("sparse_zipped_bytes"))),
        ("weights, packed", mib(facts.get("dense_weights_bytes")), mib(facts.get("compressed_bytes"))),
        ("pattern", "dense", _pattern(facts)),
    ]
    if kept := facts.get("layers_kept_dense"):
        rows.append(("kept dense", "", f"{kept} layers: {facts.get('kept_dense')}"))
    if warning := facts.get("pattern_warning"):
        rows.append(("warning", "", str(warning)))
    rows.append(("made by", "export", _maker(facts)))
    if facts.get("dense_top1") is None:
        reason = facts.get("accuracy_reason") or "verify did not come so far"
        return [*rows, ("accuracy", "skipped", f"skipped: {reason}")]
    labelled = facts.get("labelled")
    for within in ("top1", "top5"):
        dense, sparse = (f"{facts.get(f'{kind}_{within}')} / {labelled}" for kind in ("dense", "sparse"))
        rows.append((f"{within.replace('p', 'p-')} of labelled", dense, sparse))
    return rows


def _pattern(facts: dict[str, Fact]) -> str:
    shares = [("weights", "weights"), ("macs", "MACs")]
    if facts.get("layers_kept_dense"):
        shares.insert(0, ("prunable", "the weights that could have it"))
    held = [
        f"{share:.1%} of {what}"
        for name, what in shares
        if isinstance(share := facts.get(f"{name}_at_pattern_share"), float)
    ]
    return f"{facts.get('pattern')} on {', '.join(held)}" if held else "-"


def _maker(facts: dict[str, Fact]) -> str:
    order = "reordered, " if facts.get("groups_permuted") else ""
    method = facts.get("made_by")
    if method is None:
        return "-"
    if method == "magnitude":
        return f"{order}magnitude, not retrained"
    crops, pictures = facts.get("calibration_crops"), facts.get("calibration_pictures")
    seen = f"on {crops} crops of {pictures} calibration pictures" if method in PICTURED else "without pictures"
    left = f", {one} layers by magnitude alone" if (one := facts.get("layers_uncorrected")) else ""
    return f"{order}corrected ({method}) {seen}{left}, not retrained"


def _reordering(facts: dict[str, Fact]) -> list[tuple[str, str]]:
    """What reordering changed; nothing where it was not asked for."""
    if (groups := facts.get("groups_permuted")) is None:
        return []
    before, after, bound = (
        number(facts.get(f"retained_{name}_share"), ".2%") for name in ("as_exported", "reordered", "bound")
    )
    error, limit = number(facts.get("reordered_max_rel_error")), number(facts.get("reordered_limit"))
    rows = [
        ("channel groups reordered", f"{groups}, {facts.get('groups_left')} left (permutation.json says why)"),
        ("  magnitude kept", f"{before} as exported, {after} reordered, {bound} if each row had its own order"),
        ("  against original, float64", f"max relative error {error}, limit {limit}"),
    ]
    if isinstance(naive := facts.get("gather_ms"), float) and isinstance(ours := facts.get("folded_ms"), float):
        ratio = f"{naive:.2f} ms, without them {ours:.2f} ms ({naive / ours:.2f}x)"
        rows.append(("  reordering while it runs", f"{facts.get('gather_nodes')} Gather nodes: {ratio}"))
    return rows


def _packed(facts: dict[str, Fact]) -> str:
    difference = facts.get("compressed_max_abs_diff")
    return f"max difference {number(difference)}, limit {number(facts.get('compressed_limit'))}"


def pattern_rows(report: RunReport) -> tuple[PatternRow, ...]:
    """The rows of `patterns.json`; none where the stage did not run."""
    return _artifact(report, f"{PATTERNS}/patterns.json", tuple[PatternRow, ...]) or ()


def conversions(report: RunReport) -> ConversionReport | None:
    """What the toolchain made; None where it did not run."""
    return _artifact(report, "convert/convert.json", ConversionReport)


def _artifact(report: RunReport, name: str, kind: type[T]) -> T | None:
    """That artifact, read; None where the run has none of that name."""
    path = next((one.path for one in report.artifacts if one.path.endswith(name)), None)
    if path is None:
        return None
    file = runs_root() / report.run_folder / path
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise EngineError(f"{file}: not what this tool writes there: {error}", "run again") from error


def _print_conversions(made: ConversionReport) -> None:
    """Every network in every format, then what the tool says of the zeros."""
    chip = f" for {made.target}" if made.target else ""
    tools = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    print_title(f"converted by {made.vendor}{chip} ({tools}), compared with onnxruntime")
    rows = [_conversion(row, made) for row in made.rows]
    told = [place for place in range(len(CONVERSION_HEADINGS)) if any(row[place] != "-" for row in rows)]
    print_rows([[row[place] for place in told] for row in rows], [CONVERSION_HEADINGS[place] for place in told])
    said = [(f"{form_name(row.form, made)}, {row.variant}", row.sparsity) for row in made.rows if row.sparsity]
    if said:
        print_rows(said, ("ZEROS", "WHAT THE TOOL MADE OF THEM"))


def form_name(form: Form, made: ConversionReport) -> str:
    """A network's name in tables: dense, 2:4, 80 % zeros."""
    return {"dense": "dense", "sparse": made.pattern, "unstructured": f"{made.unstructured or 0:.0%} zeros"}[form]


def _conversion(row: Conversion, made: ConversionReport) -> tuple[str, ...]:
    agreement = row.agreement_top1
    return (
        form_name(row.form, made),
        row.variant,
        mib(row.file_bytes),
        mib(row.weight_bytes),
        f"{row.cycles:,}" if row.cycles is not None else "-",
        f"{row.elapsed_s:.1f}",
        number(row.cosine_centred, ".4f"),
        number(row.max_abs_diff),
        f"{agreement:.0%}" if agreement is not None else "-",
        f"{row.top1} / {made.labelled}" if row.top1 is not None else "-",
        f"{row.status}: {row.reason}" if row.reason else row.status,
    )


def _pattern_table(rows: tuple[PatternRow, ...]) -> list[tuple[str, ...]]:
    return [
        (
            f"{row.pattern}{', reordered' if row.reordered else ''}",
            f"{row.layers}",
            f"{row.retained_share:.2%}",
            f"{row.efficacy:.1%}" if row.reordered else "",
            f"{row.index_bits}, {row.entropy_bits}",
            f"{mib(row.metadata_bytes)}, {mib(row.entropy_bytes)}",
            mib(row.compressed_bytes),
            f"{row.agreement_top1:.0%}" if row.agreement_top1 is not None else "-",
            number(row.cosine_centred, ".3f"),
            f"{row.top1}" if row.top1 is not None else "-",
        )
        for row in rows
    ]


def _check_rows(facts: dict[str, Fact], report: RunReport) -> list[tuple[str, str]]:
    limit = number(facts.get("export_limit"))
    agreement = facts.get("agreement_top1")
    agrees = f"{agreement:.0%} of {facts.get('pictures')} pictures" if isinstance(agreement, float) else "-"
    rows = [
        ("exported against torch", f"max difference {number(facts.get('export_max_abs_diff'))}, limit {limit}"),
        *_reordering(facts),
        ("from packed weights", _packed(facts)),
        ("sparse against dense, top-1", agrees),
        ("  cosine, centred cosine", f"{number(facts.get('cosine'))}, {number(facts.get('cosine_centred'))}"),
        ("  max difference", number(facts.get("sparse_max_abs_diff"))),
    ]
    if (kernels := report.versions.get("kernels", "")).startswith("none"):
        rows.append(("compiled kernels", f"{kernels}; NumPy in their place"))
    rows += [(f"{stage.name} {stage.status}", stage.reason) for stage in report.stages if stage.status != "ok"]
    rows += [("drifted from the lock" if not place else "", line) for place, line in enumerate(report.drift)]
    folder = runs_root() / report.run_folder
    rows.append(("files", str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)))
    failed = [stage.name for stage in report.stages if stage.status == "failed"]
    result = f"failed: {', '.join(failed)}" if failed else "ok"
    rows.append(("result", f"{result}, drifted ({len(report.drift)} replaced)" if report.drift else result))
    return rows
