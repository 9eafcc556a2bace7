"""What every toolchain made of one network, as one table: the newest conversion of each, out of the workspace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from envs.contract import Conversion, ConversionReport, RunReport
from envs.display import mib, number
from envs.errors import EngineError, WrongUse
from envs.paths import runs_root

CONVERTED = "artifacts/convert/convert.json"
HEADINGS = (
    *("TOOL", "TARGET", "FORMAT", "NETWORK", "FILE", "WEIGHTS", "CYCLES"),
    *("CENTRED COSINE", "TO DENSE", "TOP-1 AGREES", "TOP-1", "SECONDS", "RESULT"),
)
ZEROS = ("TOOL", "TARGET", "FORMAT", "NETWORK", "WHAT IT MADE OF THE ZEROS")
ORIGINS = ("TOOL", "TARGET", "VERSIONS", "OUTPUTS BY", "CALIBRATION PICTURES", "WEIGHTS", "RUN")


class Converted(msgspec.Struct, frozen=True, kw_only=True):
    """A toolchain's newest conversion of a model for one target."""

    env: str
    run: str  # the run folder, relative to the workspace
    weights: str  # published, random, ...
    report: ConversionReport


def newest(model: str) -> tuple[Converted, ...]:
    """The newest of every toolchain and target, by their names. WrongUse where nothing was converted."""
    found: dict[tuple[str, str], Converted] = {}
    for one in _conversions(runs_root() / model):
        found.setdefault((one.report.vendor, one.report.target), one)
    if not found:
        raise WrongUse(
            f"no run of {model!r} has converted it",
            f"`invoke run --model {model} --env NAME` does; `invoke vendors` lists the environments",
        )
    return tuple(found[key] for key in sorted(found))


def _conversions(folder: Path) -> Iterator[Converted]:
    """All of a model's, the newest first. A run that came to no conversion has no such file."""
    for path in sorted(folder.glob(f"[0-9]*/{CONVERTED}"), reverse=True):
        run = path.parents[2]
        try:
            told = msgspec.json.decode((run / "report.json").read_bytes(), type=RunReport)
        except FileNotFoundError:  # it is still going on, or was killed
            continue
        except (OSError, msgspec.DecodeError) as error:
            raise EngineError(f"{run / 'report.json'}: not a report: {error}", "remove that run") from error
        if {stage.name: stage.status for stage in told.stages}.get("convert") not in ("ok", "failed"):
            continue
        try:
            report = msgspec.json.decode(path.read_bytes(), type=ConversionReport)
        except msgspec.DecodeError as error:
            raise EngineError(f"{path}: not a conversion report: {error}", "remove that run") from error
        yield Converted(env=told.env, run=told.run_folder, weights=told.weights.kind, report=report)


def rows(converted: Sequence[Converted]) -> list[tuple[str, ...]]:
    """One a network and number format; sizes and cycles of a sparse network also as a share of the dense one's."""
    made = []
    for one in converted:
        dense = {row.variant: row for row in one.report.rows if row.form == "dense"}
        formats = list(dict.fromkeys(row.variant for row in one.report.rows))
        for row in sorted(one.report.rows, key=lambda row: formats.index(row.variant)):
            made.append(_row(one.report, row, dense.get(row.variant)))
    return made


def _row(report: ConversionReport, row: Conversion, dense: Conversion | None) -> tuple[str, ...]:
    agreement = row.agreement_top1
    return (
        report.vendor,
        report.target or "-",
        row.variant,
        network_name(report, row),
        mib(row.file_bytes) + _share(row, dense, "file_bytes"),
        mib(row.weight_bytes) + _share(row, dense, "weight_bytes"),
        number(row.cycles, ",d") + _share(row, dense, "cycles"),
        number(row.cosine_centred, ".4f"),
        number(row.against_dense_cosine_centred, ".4f"),
        f"{agreement:.0%}" if agreement is not None else "-",
        f"{row.top1} / {report.labelled}" if row.top1 is not None else "-",
        f"{row.elapsed_s:.1f}",
        row.status if row.status == "ok" else f"{row.status}: {row.reason}",
    )


def _share(row: Conversion, dense: Conversion | None, name: str) -> str:
    """Of what the dense network takes; "" where either is not known."""
    here, there = getattr(row, name), getattr(dense, name, None)
    return f" ({here / there:.2f}x)" if row is not dense and here is not None and there else ""


def network_name(report: ConversionReport, row: Conversion) -> str:
    """dense, 2:4, 80 % zeros."""
    if row.form == "sparse":
        return report.pattern
    if row.form == "unstructured" and report.unstructured is not None:
        return f"{report.unstructured:.0%} zeros"
    return row.form


def zeros(converted: Sequence[Converted]) -> list[tuple[str, ...]]:
    """What each tool said of a network's zeros, where it said something."""
    return [
        (one.report.vendor, one.report.target or "-", row.variant, network_name(one.report, row), row.sparsity)
        for one in converted
        for row in one.report.rows
        if row.sparsity
    ]


def origins(converted: Sequence[Converted]) -> list[tuple[str, ...]]:
    """Of each toolchain and target: its versions, what calibrated and ran its files, the weights, the run."""
    made: list[tuple[str, ...]] = []
    for one in converted:
        report = one.report
        versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
        ran = ", ".join(sorted({row.ran_by for row in report.rows if row.ran_by})) or "nothing here"
        pictures = str(report.calibration_pictures)
        made.append((report.vendor, report.target or "-", versions, ran, pictures, one.weights, one.run))
    return made


def tables(model: str, converted: Sequence[Converted]) -> Iterator[tuple[str, Sequence[str], list[tuple[str, ...]]]]:
    """Title, headings and rows: the comparison, the zeros, the origins. A table without rows is left out."""
    yield model, HEADINGS, rows(converted)
    if said := zeros(converted):
        yield "zeros", ZEROS, said
    yield "measured with", ORIGINS, origins(converted)


def markdown(model: str, converted: Sequence[Converted]) -> str:
    """The same tables for a page."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"

    text: list[str] = []
    for title, headings, body in tables(model, converted):
        text += [
            "",
            f"### {title}" if title == model else f"{title.capitalize()}:",
            "",
            line([heading.lower() for heading in headings]),
            line(["---"] * len(headings)),
            *map(line, body),
        ]
    return "\n".join([*text[1:], ""])
