"""What runs a pattern faster, as data (specification, section 9.3), and what a ratio costs where nothing does."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.sparsity.pattern import NMPattern


@dataclass(frozen=True)
class HardwarePath:
    """A unit that skips the zeros of a pattern: which one, and for which number types."""

    unit: str
    types: tuple[str, ...]


PATHS = {
    (1, 2): HardwarePath("sparse tensor cores", ("tf32", "fp32")),
    (2, 4): HardwarePath("sparse tensor cores", ("fp16", "bf16", "int8", "fp8")),
    (4, 8): HardwarePath("sparse tensor cores, as pairs of channels", ("4-bit",)),
}


def hardware_note(pattern: NMPattern) -> str:
    """Which hardware uses that pattern, in one line."""
    if path := PATHS.get((pattern.n, pattern.m)):
        return f"{path.unit} ({', '.join(path.types)})"
    return "no hardware path known: smaller files, not faster"


def ratio_warning(pattern: NMPattern) -> str:
    """Why that ratio serves hardware badly; "" for one that fits: a group and its kept share are powers of two."""
    if not _is_power_of_two(pattern.m):
        return f"{pattern}: groups of {pattern.m} are no power of two: no power-of-two compression, no hardware path"
    if not _is_power_of_two(pattern.n):
        return f"{pattern}: {pattern.n} kept are no power of two: no power-of-two compression, no hardware path"
    return ""


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
