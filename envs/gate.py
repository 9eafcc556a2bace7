"""`invoke check`: what would a toolchain refuse in an ONNX file, and what of it can be mended?"""

from __future__ import annotations

from pathlib import Path

from envs.contract import GateReport
from envs.errors import WrongUse
from envs.one_file import look_at
from envs.progress import Progress


def check_file(
    file: str, toolchain: str, *, output: str, shape: str, fix: bool, env: str, engine: str, progress: Progress
) -> GateReport:
    """What the toolchain's limits say of the file; with `fix` the mended network is in `output`.

    WrongUse where there is no such file or toolchain, it is no ONNX file, or the words don't fit together.
    """
    if not file:
        raise WrongUse("check has no file", "name one: invoke check model.onnx --toolchain sigmastar")
    if not toolchain:
        raise WrongUse("check has no --toolchain", "name one: `invoke vendors` lists them")
    if fix != bool(output):
        raise WrongUse(
            "--fix writes the mended network to --output FILE: they go together", "give both, or leave both out"
        )
    place = Path(output).absolute() if fix else None
    if place is not None and (place.is_dir() or not place.parent.is_dir()):
        raise WrongUse(f"--output {output}: {'a folder' if place.is_dir() else 'its folder is not there'}")
    if place is not None and place.resolve() == Path(file).resolve():
        raise WrongUse(f"--output {output} is the file itself", "name another: what it was stays")
    words = ["--toolchain", toolchain, *(("--shape", shape) if shape else ())]
    return look_at(file, "pipelines.checks.gate_file", words, GateReport, env, engine, progress, place)
