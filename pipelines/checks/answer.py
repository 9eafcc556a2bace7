"""What a check of one file answers to the host: one document on stdout, and an exit code that says how it ended."""

from __future__ import annotations

import sys
from collections.abc import Callable

from pipelines.contract import GateReport, PatternReport, Refusal, encode
from pipelines.errors import PipelineError


def answer(look: Callable[[], PatternReport | GateReport]) -> int:
    """0 where the report is ok, 1 where it is not, 2 with a Refusal where the file can't be checked."""
    try:
        report = look()
    except PipelineError as error:
        sys.stdout.buffer.write(encode(Refusal(message=error.message, remedy=error.remedy)))
        return 2
    except ValueError as error:
        sys.stdout.buffer.write(encode(Refusal(message=str(error))))
        return 2
    sys.stdout.buffer.write(encode(report))
    return 0 if report.ok else 1
