"""The texts of SigmaStar's tools: what is written reads back, and results are read strictly."""

from __future__ import annotations

import configparser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipelines.arrays import Array
from pipelines.errors import PipelineError
from pipelines.models.base import Preprocessing
from pipelines.vendors.sigmastar import VENDOR, in_shape
from pipelines.vendors.sigmastar_files import (
    Normalisation,
    input_config,
    normalisation,
    only_result,
    parse_tensors,
    parse_top,
    picture_name,
    safe_name,
)

values = st.floats(-1e6, 1e6, width=32)
tensors = arrays.arrays(np.float64, arrays.array_shapes(min_dims=1, max_dims=4, max_side=4), elements=values)
FORMS = ["m_dense", "m_sparse"]
three = st.tuples(*[st.floats(0.001, 300)] * 3)


def dumped(tensor: Array, brace: str = "{\n", per_line: int = 16) -> str:
    """As the simulator's category Unknown writes it."""
    flat = [f"{value:.9g}" for value in tensor.ravel()]
    lines = "\n".join(" ".join(flat[at : at + per_line]) for at in range(0, len(flat), per_line))
    shape = " ".join(map(str, tensor.shape))
    return f"name Tensor:\n{brace}dim:{tensor.ndim},  Original shape:[{shape}]\ntensor data:\n{lines}\n}}\n"


@settings(deadline=None)
@given(st.lists(tensors, min_size=1, max_size=3), st.integers(1, 5))
def test_tensors_read_back_as_they_were_written(written: list[Array], per_line: int) -> None:
    read = parse_tensors("Run evaluation\n" + "".join(dumped(one, per_line=per_line) for one in written))
    assert [one.shape for one in read] == [one.shape for one in written]
    for one, wanted in zip(read, written, strict=True):
        assert np.allclose(one, wanted, rtol=1e-8)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no tensor"),
        ("x Tensor:\nOriginal shape:[1 2]\n", "without its shape or its data"),
        ("x Tensor:\nOriginal shape:[1 2]\ntensor data:\n1 2 3\n}", r"3 values for a tensor of shape \[1, 2\]"),
        ("x Tensor:\nOriginal shape:[1 2]\ntensor data:\n1 two\n}", "holds no numbers"),
    ],
)
def test_a_result_that_is_not_whole_is_one_line(text: str, said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        parse_tensors(text)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9999), values), min_size=1, max_size=5, unique_by=lambda row: row[0]))
def test_top_classes_read_back_as_they_were_written(rows: list[tuple[int, float]]) -> None:
    ordered = sorted(rows, key=lambda row: -row[1])
    text = "".join(f"order: {at} index: {index} score: {score!r}\n" for at, (index, score) in enumerate(ordered, 1))
    assert parse_top("a head line\n" + text) == ordered


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no class"),
        ("index: 1 score: 0.5\nindex: 1 score: 0.4\n", "a class twice"),
        ("index: 1 score: 0.4\nindex: 2 score: 0.5\n", "its scores rise"),
    ],
)
def test_top_classes_that_make_no_sense_are_refused(text: str, said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        parse_top(text)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["m_dense", "m_sparse", "other"]), max_size=4), st.sampled_from(["m_dense", "m_sparse"])
)
def test_a_result_is_the_only_one_of_its_name_or_none(models: list[str], wanted: str) -> None:
    names = [f"unknown_{model}_fixed.sim_p0001_8x8.png{at}.txt" for at, model in enumerate(models)]
    if models.count(wanted) == 1:
        assert wanted in only_result(names, wanted, "p0001_8x8.png")
    else:
        with pytest.raises(PipelineError, match=r"no result|\d results"):
            only_result(names, wanted, "p0001_8x8.png")


@settings(deadline=None)
@given(three, three)
def test_the_ini_says_what_the_normalisation_is(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    text = input_config(["in"], ["out1", "out2"], Normalisation(mean, std))
    config = configparser.ConfigParser()
    config.read_string(text)
    assert all(line.endswith(";") for line in text.splitlines() if "=" in line)
    told = {key: config.get("INPUT_CONFIG", key).rstrip(";").split(":") for key in ("mean", "std_value")}
    assert tuple(map(float, told["mean"])) == mean
    stds = tuple(map(float, told["std_value"]))
    assert (stds * 3 if len(stds) == 1 else stds) == std
    assert config.get("OUTPUT_CONFIG", "dequantizations") == "TRUE,TRUE;"


@settings(deadline=None)
@given(st.sampled_from([1.0, 255.0, 127.5]), three, three, st.integers(0, 255))
def test_mean_and_std_in_levels_are_the_declared_ones(
    scale: float, mean: tuple[float, float, float], std: tuple[float, float, float], level: int
) -> None:
    how = Preprocessing(
        order="resize-crop", resize=8, crop=8, interpolation="bilinear", scale=scale, mean=mean, std=std
    )
    by = normalisation(how)
    for channel in range(3):
        declared = (level / scale - mean[channel]) / std[channel]
        derived = (level - by.mean[channel]) / by.std[channel]
        assert derived == pytest.approx(declared, rel=1e-6, abs=1e-6 * (1 + mean[channel]) / std[channel])


@settings(deadline=None)
@given(st.text(min_size=1, max_size=20), st.integers(0, 9999), st.integers(1, 4096), st.integers(1, 4096))
def test_names_of_files_are_ascii(name: str, place: int, height: int, width: int) -> None:
    for made in (safe_name(name), picture_name(place, height, width)):
        assert made
        assert made.isascii()
        assert "/" not in made
    assert safe_name("onnx_tv_resnet18") == "onnx_tv_resnet18"


def test_names_of_pictures_keep_their_order() -> None:
    names = [picture_name(place, 224, 224) for place in range(0, 2000, 7)]
    assert names == sorted(names)


@settings(deadline=None)
@given(st.tuples(*[st.integers(1, 4)] * 4))
def test_a_tensor_with_channels_last_is_turned(shape: tuple[int, ...]) -> None:
    wanted = np.arange(np.prod(shape)).reshape(shape)
    assert np.array_equal(in_shape(wanted.transpose(0, 2, 3, 1), shape), wanted)
    flat = np.arange(6).reshape(1, 6)
    assert in_shape(flat.reshape(1, 1, 1, 6), (1, 6)).shape == (1, 6)


def test_another_shape_stays_as_it_is_for_the_comparison_to_refuse() -> None:
    assert in_shape(np.zeros((1, 5)), (1, 6)).shape == (1, 5)


def test_the_adapter_states_its_chips_and_formats() -> None:
    assert VENDOR.targets[0] == "pcupid"
    assert len(set(VENDOR.targets)) == 8
    assert [one.name for one in VENDOR.variants("muffin")] == ["float", "fixed"]
    assert VENDOR.limits.opset[1] == 13
    assert VENDOR.cause("line\n[ERROR] no\nend\n") == "[ERROR] no"
