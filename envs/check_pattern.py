"""`invoke check-pattern`: does an ONNX file follow an N:M pattern?"""

from __future__ import annotations

from envs.contract import PatternReport
from envs.errors import WrongUse
from envs.one_file import look_at
from envs.progress import Progress
from envs.run_options import check_sparsity


def check_pattern(file: str, sparsity: str, env: str, engine: str, progress: Progress) -> PatternReport:
    """How every layer of the file stands to the pattern.

    WrongUse where there is no such file, or it is no ONNX file.
    """
    check_sparsity(sparsity)
    if not file:
        raise WrongUse("check-pattern has no file", "name one: invoke check-pattern model.onnx --sparsity 2:4")
    words = ("--sparsity", sparsity)
    return look_at(file, "pipelines.checks.pattern_file", words, PatternReport, env, engine, progress)
