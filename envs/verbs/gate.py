"""`check`."""

from __future__ import annotations

from envs.cli import print_json
from envs.contract import GateFinding, GateReport
from envs.display import Terminal, print_rows


def check(file: str, toolchain: str, fix: bool, output: str, shape: str, env: str, engine: str, as_json: bool) -> int:
    """A table of findings and one line that says whether the toolchain takes the file."""
    from envs.gate import check_file

    terminal = Terminal()
    report = check_file(file, toolchain, output=output, shape=shape, fix=fix, env=env, engine=engine, progress=terminal)
    if as_json:
        print_json(report)
    else:
        rows = [(one.node or "-", one.op or "-", _state(one), one.limit, _remedy(one)) for one in report.findings]
        if rows:
            print_rows(rows, ("NODE", "OPERATOR", "STATE", "LIMIT", "REMEDY"))
        print_rows([("", ""), *(("changed", one) for one in report.changes), ("result", _result(report))], ("", ""))
    return 0 if report.ok else 1


def _state(finding: GateFinding) -> str:
    return "mended" if finding.fixed else finding.severity


def _remedy(finding: GateFinding) -> str:
    if finding.fixed:
        return finding.fix
    return finding.remedy + (f" (or --fix: {finding.fix})" if finding.fix and "can't: " not in finding.remedy else "")


def _result(report: GateReport) -> str:
    left = [one for one in report.findings if not one.fixed]
    errors = sum(one.severity == "error" for one in left)
    stands = f"{report.file}, opset {report.opset}, IR {report.ir_version}, {report.nodes} nodes"
    proved = f"; proved equal over {report.proofs} inputs" if report.changes else ""
    if errors:
        return f"{report.toolchain} does not take {stands}: {errors} errors, {len(left) - errors} warnings{proved}"
    return f"within the limits of {report.toolchain}: {stands}; {len(left)} warnings{proved}"
