"""What a person asks: parts held fixed, and in which order the values of the others are tried."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from packaging.version import Version

from envs.errors import WrongUse
from envs.matching.facts import Fact, Matrix, Statement, Toolchain, releases
from envs.matching.solve import Order
from envs.matching.values import EXPORTER, EXPORTERS, IR, NAMES, NONE, OPSET, PARTS, PYTHON, TOOLCHAIN, allows

RULES = {
    **dict.fromkeys(("torch", "onnx", "onnxruntime", "numpy", "torchvision", "onnxsim"), "newest"),
    **dict.fromkeys(("onnxscript", "ml-dtypes"), "only where it is needed"),
    TOOLCHAIN: "newest",
    PYTHON: "newest",
    EXPORTER: "TorchScript first",
    OPSET: "highest",
    IR: "lowest",
    "protobuf": "oldest line, its last release",
}


def asked(matrix: Matrix, fixed: Mapping[str, str]) -> tuple[Fact, ...]:
    """What was asked for, as facts. WrongUse with the nearest names for a value that the matrix does not know."""
    return tuple(_asked(matrix, part, text) for part, text in fixed.items() if text)


def _asked(matrix: Matrix, part: str, text: str) -> Fact:
    known = matrix.values[part]
    for spec in (text, f"{text}-*" if part in NAMES else f"=={text}.*"):
        try:
            if any(allows(spec, value) for value in known):
                return Fact(when=(), then=(part, spec), origin="asked", source="command line")
        except ValueError:
            continue
    near = difflib.get_close_matches(text, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    listed = releases(matrix, part)
    raise WrongUse(f"--{part} {text!r} is not known to the matrix", f"{hint}it knows {', '.join(listed)}")


def toolchains_of(matrix: Matrix, name: str) -> tuple[Toolchain, ...]:
    """The toolchains that a name stands for: itself, or all of its line."""
    return tuple(one for one in matrix.toolchains if one.name == name or one.name.startswith(f"{name}-"))


def preferences(matrix: Matrix, toolchain: str) -> tuple[Statement, ...]:
    """What the toolchain prefers, as it states it."""
    return tuple(preference for one in toolchains_of(matrix, toolchain) for preference in one.prefers)


def order_of(matrix: Matrix, toolchain: str) -> Order:
    """Each part's values, the best first: what the toolchain prefers, then by RULES."""
    order = {}
    for part in PARTS:
        first = [one.needs[part] for one in preferences(matrix, toolchain) if part in one.needs]
        order[part] = list(dict.fromkeys((*first, *_by_rule(matrix, part))))
    return order


def _by_rule(matrix: Matrix, part: str) -> list[str]:
    newest = releases(matrix, part)
    if part == IR:
        return newest[::-1]
    if part == EXPORTER:
        return list(EXPORTERS)
    if part == "protobuf":
        return sorted(newest, key=lambda value: (Version(value).release[:2], -Version(value).micro))
    if part in ("onnxscript", "ml-dtypes"):
        return [NONE, *(value for value in newest if value != NONE)]
    return newest
