"""A run over two environments: who runs which stage, what is asked of a converter, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from envs.contract import (
    PREPARE,
    ExportOptions,
    RunRequest,
    VendorOffer,
    VendorOptions,
    Weights,
    parts_of,
    stages_of,
)
from envs.errors import SpecError, WrongUse
from envs.run_options import RunOptions, choices
from envs.run_parts import planned_parts
from envs.spec import ToolchainSpec, load_spec
from envs.toolchain import check_offer, exporting, vendor_options

DIGESTS = {"light": "sha256:1", "ncnn": "sha256:2", "sigmastar": "sha256:3"}


def request(env: str, sdk: str = "", patterns: bool = False) -> RunRequest:
    return RunRequest(
        run_id="1",
        model="m",
        env=env,
        engine="local",
        lock_digest=DIGESTS[env],
        pipeline_digest="sha256:0",
        run_folder="m/1",
        weights=Weights(kind="random", seed=0),
        pictures=(),
        export=ExportOptions(opset=13, ir_version=7, simplifier="onnxruntime"),
        patterns=patterns,
        vendor=None if env == "light" else VendorOptions(vendor=env, sdk=sdk),
    )


def options(**changes: Any) -> RunOptions:
    fields = {"model": "m", "env": "light", "engine": "auto", "weights": "auto", "sparsity": "2:4", "use_cache": True}
    return RunOptions(**{**fields, **changes})


def asked_of(env: str, **changes: Any) -> VendorOptions | None:
    told = options(env=env, **changes)
    return vendor_options(told, choices(told), load_spec(env))


@pytest.mark.parametrize(
    ("env", "exporter", "sdk"), [("light", "light", ""), ("ncnn", "light", ""), ("sigmastar", "sigmastar", "ab" * 32)]
)
@pytest.mark.parametrize("patterns", [False, True])
def test_the_parts_hold_every_stage_once_and_in_order(env: str, exporter: str, sdk: str, patterns: bool) -> None:
    asked = request(env, sdk, patterns)
    asked = msgspec.structs.replace(asked, parts=planned_parts(asked, DIGESTS, exporter))
    assert tuple(stage for part in parts_of(asked) for stage in part.stages) == stages_of(asked)
    assert all(part.lock_digest == DIGESTS[part.env] for part in parts_of(asked))


def test_the_toolchain_s_environment_takes_over_after_verify() -> None:
    head, tail = planned_parts(request("ncnn"), DIGESTS, "light")
    assert (head.env, head.stages[-1]) == ("light", "verify")
    assert (tail.env, tail.stages) == ("ncnn", ("check", "convert", "collect"))


def test_a_converter_in_its_vendor_s_container_runs_between_two_parts() -> None:
    head, tail = planned_parts(request("sigmastar", "ab" * 32), DIGESTS, "sigmastar")
    assert head.stages[-1] == PREPARE
    assert tail.stages == ("convert", "collect")
    assert planned_parts(request("sigmastar"), DIGESTS, "sigmastar") == ()


@pytest.mark.parametrize(
    ("word", "changes"),
    [
        ("--target", {"target": "rk3588"}),
        ("--variants", {"variants": "int8"}),
        ("--fix", {"fix": True}),
        ("--unstructured", {"unstructured": "0.8"}),
    ],
)
def test_an_environment_without_a_converter_refuses_its_options(word: str, changes: dict[str, Any]) -> None:
    assert asked_of("light") is None
    with pytest.raises(WrongUse, match=rf"{word} is for a converter.*'light' has none"):
        asked_of("light", **changes)


def test_what_is_asked_of_a_converter_is_in_the_request() -> None:
    asked = asked_of("ncnn", variants="fp16, fp32", unstructured="0.8", fix=True)
    assert asked == VendorOptions(vendor="ncnn", variants=("fp16", "fp32"), unstructured=0.8, fix=True)


@pytest.mark.parametrize("text", ["1", "0", "-1", "80", "lots"])
def test_a_share_of_zeros_lies_between_none_and_all(text: str) -> None:
    with pytest.raises(WrongUse, match=r"--unstructured .* is no share between 0 and 1"):
        choices(options(unstructured=text))


def test_an_unknown_target_or_format_is_answered_with_the_nearest() -> None:
    offered = VendorOffer(vendor="rknn", targets={"rk3588": ("fp16", "int8"), "rk3576": ("fp16", "int8-sparse")})
    check_offer(VendorOptions(vendor="rknn", target="rk3576", variants=("int8-sparse",)), offered)
    check_offer(VendorOptions(vendor="rknn", variants=("int8",)), offered)
    with pytest.raises(WrongUse, match="--target 'rk3577'.*did you mean rk3576"):
        check_offer(VendorOptions(vendor="rknn", target="rk3577"), offered)
    with pytest.raises(WrongUse, match=r"--variants 'int8-sparse' is not one of rknn's; .*these are: fp16, int8"):
        check_offer(VendorOptions(vendor="rknn", variants=("int8-sparse",)), offered)


def test_who_exports_must_export(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exporting(load_spec("light")).name == "light"
    assert exporting(load_spec("ncnn")).name == "light"
    wrong = msgspec.structs.replace(load_spec("ncnn"), toolchain=ToolchainSpec(vendor="ncnn", export="ncnn"))
    with pytest.raises(SpecError, match="export 'ncnn' exports nothing itself"):
        exporting(wrong)
