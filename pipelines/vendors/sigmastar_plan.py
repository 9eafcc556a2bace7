"""The commands of SigmaStar's IPU SDK, as its documentation has them; the host runs them in the vendor's container."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.contract import OUTSIDE, PREPARED, Form, OutsideOption, OutsidePlan, OutsideStep, RunRequest

CONVERTER = "Scripts/ConvertTool/SGS_converter.py"
SIMULATOR = "Scripts/calibrator/simulator.py"
TARGETS = ("pcupid", "muffin", "maruko", "opera", "souffle", "iford", "ifado", "mochi")  # --soc_version
RESULTS = ("log/output", "output")  # where versions of the simulator write, below the folder they run in
CONVERT, CLASSES = "convert", "classes"  # of a form's steps; the others are named after the number format
FORMATS = ("float", "fixed")  # FORM/convert/NAME_float.sim, NAME_fixed.sim
CONVERT_S, SIMULATE_S = 3 * 3600.0, 3 * 3600.0  # a published log has 22 minutes for 32 pictures of 640 x 640


def plan_for(
    request: RunRequest,
    name: str,
    forms: Sequence[Form],
    shape: Sequence[int],
    judged: Sequence[str],
    classes: bool,
) -> OutsidePlan:
    """Every form converted once, and its float and fixed networks simulated over the judged pictures.

    `name`: what files are named after; `shape`: the input's, [1, C, H, W]. Where the one output is scores of classes,
    the tool's own top-k comes too.
    """
    assert request.vendor is not None
    target = request.vendor.target or TARGETS[0]
    steps = tuple(step for form in forms for step in _steps(form, name, shape, target, classes))
    return OutsidePlan(
        vendor=request.vendor.vendor,
        target=target,
        model=name,
        forms=tuple(forms),
        judged=tuple(judged),
        steps=steps,
    )


def _steps(form: Form, name: str, shape: Sequence[int], target: str, classes: bool) -> Iterator[OutsideStep]:
    yield _convert(form, name, shape, target)
    for stage in FORMATS:
        yield _simulate(form, name, stage, stage, "Unknown", target)
    if classes:
        yield _simulate(form, name, CLASSES, "fixed", "Classification", target)


def _convert(form: Form, name: str, shape: Sequence[int], target: str) -> OutsideStep:
    return OutsideStep(
        name=f"{form}-{CONVERT}",
        form=form,
        program=CONVERTER,
        words=("onnx",),
        options=(
            _option("-i", f"{PREPARED}/calibration"),
            _option("--model_file", f"{PREPARED}/{name}_{form}.onnx"),
            OutsideOption(spellings=("--input_shape", "--input_shapes"), value=",".join(map(str, shape))),
            _option("--input_config", f"{PREPARED}/input_config.ini"),
            _option("-n", f"{PREPARED}/{name}_preprocess.py"),
            _option("--output_file", f"{OUTSIDE}/{form}/{CONVERT}/{name}_{form}.img"),
            _option("--export_models"),
            _option("--soc_version", target),
        ),
        folder=f"{form}/{CONVERT}",
        timeout_s=CONVERT_S,
    )


def _simulate(form: Form, name: str, step: str, stage: str, category: str, target: str) -> OutsideStep:
    model = f"@{stage}@"
    return OutsideStep(
        name=f"{form}-{step}",
        form=form,
        program=SIMULATOR,
        options=(
            _option("-i", f"{PREPARED}/judged"),
            _option("-m", model),
            _option("-c", category),
            OutsideOption(spellings=("-t",), value=stage.capitalize(), always=False),  # newer ones see it by themselves
            _option("-n", f"{PREPARED}/{name}_preprocess.py"),
            OutsideOption(spellings=("--soc_version",), value=target, always=False),  # older SDKs are for one chip
        ),
        finds={model: f"{form}/{CONVERT}/*_{stage}.sim"},
        folder=f"{form}/{step}",
        timeout_s=SIMULATE_S,
    )


def _option(spelling: str, value: str = "") -> OutsideOption:
    return OutsideOption(spellings=(spelling,), value=value)
