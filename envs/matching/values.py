"""The parts of a set, the values they may have, and what a specifier says about one."""

from __future__ import annotations

import functools

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

TOOLCHAIN, PYTHON, EXPORTER, OPSET, IR = "toolchain", "python", "exporter", "opset", "ir"
NONE, PRESENT = "none", "present"  # a package that is left out; any that is not

# in the order of their weight: a worse value of a later part never costs a better one of an earlier part
PARTS = (
    *(TOOLCHAIN, PYTHON, "torch", EXPORTER, OPSET, IR, "onnx", "onnxruntime"),
    *("numpy", "protobuf", "torchvision", "onnxsim", "onnxscript", "ml-dtypes"),
)
NAMES = (TOOLCHAIN, EXPORTER)  # their values are words, not versions
OPTIONAL = ("onnxsim", "onnxscript", "ml-dtypes")  # packages that a set can do without
EXPORTERS = ("torchscript", "dynamo")
PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
OPSETS = tuple(str(number) for number in range(7, 29))
IRS = tuple(str(number) for number in range(3, 14))


@functools.lru_cache(maxsize=65536)
def allows(spec: str, value: str) -> bool:
    """Whether `value` is what `spec` asks for: a value itself, a PEP 440 specifier, "none", "present" or `NAME-*`.

    ValueError for a spec that is none of these.
    """
    if spec == PRESENT:
        return value != NONE
    if spec[:1] not in set("<>=!~"):
        return value.startswith(spec[:-1]) if spec.endswith("*") else spec == value
    try:
        wanted = SpecifierSet(spec)
        return value != NONE and wanted.contains(Version(value), prereleases=True)
    except (InvalidSpecifier, InvalidVersion) as error:
        raise ValueError(f"{spec!r} is no specifier for {value!r}") from error


def said(part: str, spec: str) -> str:
    """A part with its version or limit, as in text: `onnx 1.15.0`, `numpy <2`."""
    label = {IR: "IR version", PYTHON: "Python", EXPORTER: "exporter", TOOLCHAIN: "toolchain"}.get(part, part)
    if spec == NONE:
        return f"no {label}"
    if spec == PRESENT:
        return f"{label} (any)"
    return f"{label} {spec.removeprefix('==').replace(',', ', ')}"
