"""Run inside the environment: the compiled kernels of this checkout are here and load."""

from __future__ import annotations

from pipelines.native import load, why_missing


def test_the_kernels_are_here() -> None:
    assert load() is not None, why_missing()
