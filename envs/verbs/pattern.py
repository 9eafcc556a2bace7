"""`check-pattern`."""

from __future__ import annotations

from envs.cli import print_json
from envs.contract import LayerPattern, PatternReport
from envs.display import Terminal, print_rows


def check_pattern(file: str, sparsity: str, env: str, engine: str, as_json: bool) -> int:
    """A table of layers and one line that says whether the pattern holds."""
    from envs.check_pattern import check_pattern

    terminal = Terminal()
    report = check_pattern(file, sparsity, env, engine, terminal)
    if as_json:
        print_json(report)
    else:
        if report.warning:
            terminal.say(f"warning: {report.warning}")
        rows = [(one.node, one.op, "x".join(map(str, one.shape)) or "-", _state(one)) for one in report.layers]
        print_rows(rows, ("LAYER", "OPERATOR", "SHAPE", report.pattern))
        print_rows([("", ""), ("result", _result(report))], ("", ""))
    return 0 if report.ok else 1


def _state(layer: LayerPattern) -> str:
    if layer.status == "holds":
        return f"holds in {layer.groups:,} groups, density {layer.density:.1%}"
    if layer.broken:
        return f"broken in {layer.broken:,} of {layer.groups:,} groups, first at {layer.detail}"
    return f"{layer.status}: {layer.detail}"


def _result(report: PatternReport) -> str:
    count = {state: sum(one.status == state for one in report.layers) for state in ("holds", "broken")}
    if not any(count.values()):
        return f"{report.pattern} applies to no layer of {report.file}"
    if count["broken"]:
        return f"{report.pattern} is broken in {count['broken']} of {sum(count.values())} layers that could have it"
    bits = f"{report.index_bits} position bits a group as stored, {report.entropy_bits} at least"
    return f"{report.pattern} holds in all {count['holds']} layers that can have it ({bits})"
