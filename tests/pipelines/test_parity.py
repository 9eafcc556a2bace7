"""Parity: what decides whether a converted file is the same network."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.checks.parity import parity, shortfall
from pipelines.errors import PipelineError


def outputs(seed: int, mean: float = 0.0) -> np.ndarray:
    return (mean + np.random.default_rng(seed).standard_normal((6, 10))).astype(np.float32)


@given(seed=st.integers(0, 1000), mean=st.floats(-50, 50))
@settings(deadline=None)
def test_the_same_outputs_pass_every_floor(seed: int, mean: float) -> None:
    one = outputs(seed, mean)
    found = parity([one], [one.copy()])
    assert shortfall(found, 0.999999) == ""
    assert (found.top1, found.max_abs_diff) == (1.0, 0.0)


def test_garbage_around_a_large_mean_is_found_though_its_plain_cosine_is_near_one() -> None:
    right, garbage = outputs(0, 100.0), outputs(1, 100.0)
    found = parity([right], [garbage])
    assert found.cosine is not None
    assert found.cosine > 0.999
    assert shortfall(found, 0.8).startswith("centred cosine to onnxruntime")


def test_outputs_that_are_not_finite_fail() -> None:
    broken = outputs(0)
    broken[2, 3] = np.nan
    assert shortfall(parity([outputs(0)], [broken]), 0.0) == "its outputs are not finite"


def test_an_answer_that_does_not_depend_on_the_picture_fails() -> None:
    constant = np.tile(outputs(0)[:1], (6, 1))
    assert "same for every picture" in shortfall(parity([outputs(0)], [constant]), 0.0)


def test_another_shape_is_named() -> None:
    with pytest.raises(PipelineError, match=r"outputs have shapes 6x5, the ONNX file's 6x10"):
        parity([outputs(0)], [outputs(0)[:, :5]])


def test_every_output_counts_not_only_the_first() -> None:
    first, second = outputs(0), outputs(1)
    found = parity([first, second], [first, -second])
    assert found.top1 == 1.0
    assert shortfall(found, 0.9)
