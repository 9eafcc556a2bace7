"""What RKNN-Toolkit2 says while it builds, read out of its verbose log: layers, memory, patterns, and why it failed."""

from __future__ import annotations

import re
from dataclasses import dataclass

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_ERROR = re.compile(  # of its compiled part, of its Python part, of the onnxruntime inside it
    r"(?:E RKNN: \[[\d:.]+\] |E (?=\w+: (?!Traceback))|(?:ValueError|RuntimeError): (?!Traceback)"
    r"|(?=[\w.]+: \[ONNXRuntimeError\])|(?=[A-Z]\w+Error: (?!Traceback)))(\S.*)"
)
_ROW = re.compile(
    r"\] \d+ +\S+ +\S+ +(?:NPU|CPU|GPU) .* -?\d+/-?\d+/(?P<cycles>-?\d+) +(?:(?P<ratio>\d+%\S*) +)?-?\d+ +"
    r"\S+?:(?P<name>.+?) *$"
)
_WEIGHTS = re.compile(r"Total Weight Memory Size: (\d+(?:\.\d+)?)KB")
_RECOGNISED = re.compile(r"\] Weight (.+) sparse type, method \d")


@dataclass(frozen=True)
class Layer:
    """A row of the layer table. `ratio` is its column SparseRatio: "" where it has none, 0% for dense."""

    name: str
    cycles: int
    ratio: str

    @property
    def sparse(self) -> bool:
        """Whether half of its weights are not stored."""
        return self.ratio not in ("", "0%")


@dataclass(frozen=True)
class BuildLog:
    """What the toolkit says of the file it made. `recognised`: weights whose zeros it saw a pattern in."""

    layers: tuple[Layer, ...]
    weight_bytes: int | None
    recognised: frozenset[str]

    @property
    def sparse_layers(self) -> int:
        """By the table: a pattern may be recognised and, on other chips, not used."""
        return sum(layer.sparse for layer in self.layers)

    @property
    def cycles(self) -> int | None:
        """Its estimate of one inference: the sum over the layers, of which pooling and reshaping count 0.

        None with sparse layers: from their memory traffic it takes more off than there was, and comes below zero.
        """
        if self.sparse_layers:
            return None
        return sum(layer.cycles for layer in self.layers) or None


def read_log(log: str) -> BuildLog:
    """Nothing where there is no table."""
    plain = _plain(log)
    rows = [found for line in plain.splitlines() if (found := _ROW.search(line))]
    size = _WEIGHTS.search(plain)
    return BuildLog(
        layers=tuple(Layer(row["name"], int(row["cycles"]), row["ratio"] or "") for row in rows),
        weight_bytes=round(1024 * float(size[1])) if size else None,
        recognised=frozenset(_RECOGNISED.findall(plain)),
    )


def read_error(log: str) -> str:
    """The last line that is an error of the toolkit; "" where none is, as when it crashes."""
    told = [found[1] for line in _plain(log).splitlines() if (found := _ERROR.match(line))]
    return told[-1][:300] if told else ""


def _plain(log: str) -> str:
    return _COLOUR.sub("", log)
