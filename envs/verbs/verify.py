"""`verify`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from envs.cli import print_json
from envs.display import Terminal, print_rows, print_title

if TYPE_CHECKING:
    from envs.verify.records import VerifyReport
    from envs.verify.verify import Request

SHOWN = 50  # differences a person sees; --json has all


def verify(request: Request, as_json: bool) -> int:
    """Rebuild and compare; 0 where everything is equal, 1 where something differs."""
    from envs.verify.verify import verify as compare

    reports = compare(request, Terminal())
    equal = all(report.equal for report in reports)
    if as_json:
        first = reports[0]
        print_json({"env": first.env, "lock_digest": first.lock_digest, "equal": equal, "checks": reports})
    else:
        for report in reports:
            _print(report)
    return 0 if equal else 1


def _print(report: VerifyReport) -> None:
    print_title(f"{report.subject}: {report.verdict}")
    facts = []
    differing = [one for one in report.digests if one.ours != one.theirs]
    if report.digests:
        same = len(report.digests) - len(differing)
        facts.append(("digests", f"{same} of {len(report.digests)} are equal, computed from the bytes"))
    if report.files:
        facts.append(("files", f"{report.files:,} compared one by one in {report.elapsed_s:.1f} s"))
    if report.passed_over:
        facts.append(("passed over", ", ".join(f"/{path}" for path in report.passed_over[:SHOWN])))
    _rows([*facts, *(("note", note) for note in report.notes)], ("", ""))
    if differing:
        _rows([(one.name, one.ours[:19], one.theirs[:19]) for one in differing], ("DIGEST", "REBUILT", "FOUND"))
    if report.differences:
        _print_differences(report)


def _print_differences(report: VerifyReport) -> None:
    found = report.differences
    rows: list[Sequence[str]] = [
        (one.path, one.what, one.ours or "-", one.theirs or "-", one.cause or "unknown") for one in found[:SHOWN]
    ]
    if len(found) > SHOWN:
        rows.append((f"... {len(found) - SHOWN} more, --json has all", "", "", "", ""))
    _rows(rows, ("PATH", "WHAT", "REBUILT", "FOUND", "LIKELY CAUSE"))
    advice = {one.cause: one.advice for one in found if one.cause}
    causes = [(str(n), cause, advice.get(cause, "no rule holds: look inside")) for cause, n in report.by_cause.items()]
    _rows(causes, ("COUNT", "LIKELY CAUSE", "WHAT TO DO"))
    for detail in report.detail:
        print_title(f"content of {detail.path}")
        _rows([(line,) for line in detail.lines], ("",))


def _rows(rows: Sequence[Sequence[str]], headings: Sequence[str]) -> None:
    """A table of text from files: no character of it is markup."""
    from rich.markup import escape

    if rows:
        print_rows([[escape(cell) for cell in row] for row in rows], headings)
