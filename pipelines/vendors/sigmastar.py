"""SigmaStar IPU SDK. It runs in its vendor's own image, by the host: here its limits, and what it left is read.

Limits are those of its documentation (S1.0.9). The SDK is not public: nothing here was measured with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.contract import OutsideReport
from pipelines.errors import PipelineError
from pipelines.vendors import ABSENT, rules
from pipelines.vendors.base import Converted, Job, Variant, last_error_line
from pipelines.vendors.limits import Limits, Origin
from pipelines.vendors.outside import WORK, ended, read_report, take
from pipelines.vendors.sigmastar_plan import CLASSES, CONVERT, RESULTS, TARGETS

if TYPE_CHECKING:
    from pipelines.arrays import Array

ZEROS = "its documentation says nothing of zeros: compare the sizes of the files"
DOCUMENTED: Origin = "documentation"

# int8 floors are not measured here: 0.8 lies below the worst int8 converter that was (0.86), and far above noise
VARIANTS = (Variant("float", 0.999), Variant("fixed", 0.8, calibrates=True))

LIMITS = Limits(
    opset=(7, 13),  # 7 is the lowest that any torch exports
    ir_version=7,  # of onnx 1.8, whose highest opset is 13
    origin=DOCUMENTED,
    refused={
        "LayerNormalization": "write it out with ReduceMean, Sub, Mul, Sqrt and Div: opset 13 has no such operator",
        "GridSample": "resample with Resize, or outside the network",
        "TopK": "sort outside the network",
    },
    rules=(
        rules.kernel_area("Conv", 63, DOCUMENTED),
        rules.pads("Conv", 7, DOCUMENTED),
        rules.depthwise_kernels({(3, 3), (6, 6), (9, 9)}, DOCUMENTED),
        rules.kernel_side("AveragePool", 255, DOCUMENTED),
        rules.kernel_side("GlobalAveragePool", 255, DOCUMENTED),
        rules.innermost_axis("Softmax", DOCUMENTED),
        rules.axis_size("Softmax", 16384, DOCUMENTED),
        rules.stored_input("Gather", 1, "indices", DOCUMENTED),
        rules.index_type("Gather", 1, {"int32"}, DOCUMENTED),
        rules.attribute_in("Pad", "mode", {"constant"}, "constant", DOCUMENTED),
        rules.attribute_not_in("Resize", "mode", {"cubic"}, "nearest", DOCUMENTED),
        rules.input_count("Concat", 1024, DOCUMENTED),
    ),
    all_shapes=True,
)


@dataclass(frozen=True)
class SigmaStar:
    """Reads `RUN/vendor/`: the converted files, and the simulator's answers of its float and fixed networks."""

    name: str = "sigmastar"
    targets: tuple[str, ...] = TARGETS
    limits: Limits = LIMITS
    distributions: tuple[str, ...] = ()  # none is installed here: `ran_by` names the SDK

    def variants(self, target: str) -> Sequence[Variant]:
        """The float network, which only the simulator runs, and the fixed-point one for the chip."""
        del target
        return VARIANTS

    def convert(self, job: Job) -> Converted:
        """What the vendor's container made of this network, and its simulator's outputs."""
        if not job.outside:
            raise PipelineError(ABSENT[self.name])
        folder, out = Path(job.outside), Path(job.out)
        report = read_report(folder)
        step = ended(report, f"{job.form}-{CONVERT}", folder, out)
        made = folder / WORK / job.form / CONVERT
        file = take(made, f"*_{job.variant}.sim", out)
        if job.variant == "fixed":
            file = take(made, f"{report.plan.model}_{job.form}*.img", out)
        ended(report, f"{job.form}-{job.variant}", folder, out)
        outputs = _outputs(report, folder, job)
        if job.variant == "fixed":
            _top(report, folder, job, outputs[0])
        return Converted(
            file=file,
            outputs=_saved(outputs, Path(job.work, "outputs.npz")),
            ran_by=f"simulator of {report.sdk_name}",
            sparsity=ZEROS,
            elapsed_s=step.elapsed_s,
        )

    def cause(self, log: str) -> str:
        """The last line that speaks of an error."""
        return last_error_line(log)


def _result(folder: Path, step: str, model: str, picture: str) -> str:
    """The text of the simulator's result for that picture."""
    from pipelines.vendors.sigmastar_files import only_result

    there = [path for place in RESULTS for path in sorted((folder / step / place).glob("*.txt"))]
    name = only_result([path.name for path in there], model, picture)
    return next(path for path in there if path.name == name).read_text("utf-8", errors="replace")


def _outputs(report: OutsideReport, folder: Path, job: Job) -> list[Array]:
    """Every output over the judged pictures, [N, ...], in the ONNX file's shapes."""
    import numpy as np
    import onnx

    from pipelines.vendors.sigmastar_files import parse_tensors

    plan = report.plan
    rows = [
        parse_tensors(_result(folder / WORK / job.form, job.variant, f"{plan.model}_{job.form}", picture))
        for picture in plan.judged
    ]
    ends = onnx.load(job.model, load_external_data=False).graph.output
    wanted = [tuple(size.dim_value for size in end.type.tensor_type.shape.dim) for end in ends]
    if any(len(row) != len(wanted) for row in rows):
        raise PipelineError(f"the simulator gives {len(rows[0])} outputs, the ONNX file has {len(wanted)}")
    return [
        np.concatenate([in_shape(row[place], shape) for row in rows]).astype(np.float32)
        for place, shape in enumerate(wanted)
    ]


def in_shape(tensor: Array, shape: tuple[int, ...]) -> Array:
    """The simulator's tensor as the ONNX file has it: its four-dimensional ones have their channels last."""
    turned = tensor.transpose(0, 3, 1, 2) if tensor.ndim == 4 else tensor
    sizes, wanted = ([side for side in one if side != 1] for one in (turned.shape, shape))
    made: Array = turned.reshape(shape) if sizes == wanted else tensor
    return made


def _top(report: OutsideReport, folder: Path, job: Job, scores: Array) -> None:
    """`top.json`: the simulator's own best classes of every picture, or why they are not known.

    How it writes them is not documented, so that not being able to read them is no failure of the conversion.
    PipelineError where they contradict its outputs.
    """
    name = f"{job.form}-{CLASSES}"
    if not any(step.name == name for step in report.plan.steps):
        return
    rows: list[dict[str, Any]] = []
    for picture, row in zip(report.plan.judged, scores.reshape(len(scores), -1), strict=True):
        try:
            ended(report, name, folder, Path(job.out))
            best = _best(report, folder, job, picture)
        except PipelineError as error:
            rows.append({"picture": picture, "reason": str(error)})
            continue
        first = best[0][0]
        if first >= row.size or row[first] < row.max():
            raise PipelineError(
                f"{picture}: the simulator names class {first} first, its outputs class {int(row.argmax())}",
                "see the logs",
            )
        rows.append({"picture": picture, "classes": [one[0] for one in best], "scores": [one[1] for one in best]})
    Path(job.out, "top.json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def _best(report: OutsideReport, folder: Path, job: Job, picture: str) -> list[tuple[int, float]]:
    from pipelines.vendors.sigmastar_files import TOP, parse_top

    return parse_top(_result(folder / WORK / job.form, CLASSES, f"{report.plan.model}_{job.form}", picture))[:TOP]


def _saved(outputs: list[Array], path: Path) -> str:
    from pipelines.inference import save_outputs

    save_outputs(path, outputs)
    return str(path)


VENDOR = SigmaStar()
