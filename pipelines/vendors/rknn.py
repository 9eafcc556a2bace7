"""Rockchip's RKNN-Toolkit2: ONNX to .rknn for its NPUs, run by the toolkit's own simulator.

The simulator runs the graph that was just built, in the number format asked for, and refuses a file that was loaded:
what it computes is the same for every chip.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pipelines.errors import PipelineError
from pipelines.installed import installed
from pipelines.vendors import rknn_tool, rules
from pipelines.vendors.base import Converted, Job, Variant, last_error_line
from pipelines.vendors.limits import Limits, Rule
from pipelines.vendors.rknn_log import BuildLog, read_error, read_log
from pipelines.vendors.tool import run_tool

if TYPE_CHECKING:
    import onnx

    from pipelines.graph.facts import Graph
    from pipelines.graph.weights import Weight

TOOL = "rknn-toolkit2"
FP16 = Variant("fp16", floor=0.999)
INT8 = Variant("int8", floor=0.95, calibrates=True)
SPARSE = Variant("int8-sparse", floor=0.95, calibrates=True)  # int8 with the option sparse_infer

# Each pair was converted. Left out: fp16 of the RV1103 and RV1106 family, which the toolkit refuses; int8 of rk2118,
# which aborts it; sparse_infer of rv1126b, rv1103b and rv1106b, where it is accepted and changes no weight.
TARGETS = {
    "rk3588": (FP16, INT8),
    "rk3576": (FP16, INT8, SPARSE),
    "rk3568": (FP16, INT8),
    "rk3566": (FP16, INT8),
    "rk3562": (FP16, INT8),
    "rv1126b": (FP16, INT8),
    "rk2118": (FP16,),
    "rv1106": (INT8,),
    "rv1106b": (INT8,),
    "rv1103": (INT8,),
    "rv1103b": (INT8,),
}
HARDWARE = "2:4"  # along the input channels; half of the weights a group
TAKEN = "multiples of 32 input and 16 output channels, one group"  # measured on 1x1 to 7x7 kernels and Gemm

ON_CPU = """
  ArgMax Atan Ceil Det Exp Floor GatherND GridSample GroupNormalization LRN Log LogSoftmax Mish Mod Reciprocal ReduceMax
  ReduceMin ReduceProd RoiAlign Round ScatterND Selu Sign Softsign SpaceToDepth Tile TopK Trilu
"""  # the column Target of its layer table says CPU for rk3588, rk3576, rk3568 and rk3562 alike


def _on_cpu(op: str) -> Rule:
    def check(node: Any, graph: Graph) -> str:
        del node, graph
        return "runs on the chip's CPU, not on its NPU"

    return rules.custom(op, "processor", check, "use other operators", "measured", severity="warning")


def _zeros_before(node: Any, graph: Graph) -> str:
    """A Pad of zeros in front of a MaxPool is made the pooling's own padding, which is no zero but nothing at all."""
    pad = graph.producer(graph.given(node, 0))
    if pad is None or pad.op_type != "Pad" or graph.attribute(pad, "mode", "constant") != "constant":
        return ""
    value = graph.value(graph.given(pad, 2)) if graph.given(pad, 2) else graph.attribute(pad, "value", 0.0)
    before = graph.producer(graph.given(pad, 0))
    never_negative = before is not None and (
        before.op_type in ("Relu", "Sigmoid")
        or (before.op_type == "Clip" and (rules.clip_bounds(before, graph) or (-1.0, 0.0))[0] >= 0)
    )
    if value is None or float(value) or never_negative:
        return ""
    return "zeros are padded before it: the toolkit leaves them out, and where all else is negative it computes less"


def _spread(node: Any, graph: Graph) -> str:
    stated = graph.attribute(node, "dilations") or (1,)
    return f"dilations {', '.join(map(str, stated))}: for rk3576 the toolkit is aborted" if max(stated) > 1 else ""


LIMITS = Limits(
    opset=(6, 19),  # it refuses 20; 6 to 19 were converted and compared
    ir_version=10,  # it takes 12 too, which the onnxruntime beside it does not
    origin="measured",
    refused={"DeformConv": "use another operator", "NonZero": "compute without the places of values"},
    rules=(
        rules.attribute_not_in("Resize", "mode", {"cubic"}, "nearest", "measured", remedy="resize linear or nearest"),
        rules.input_count("Sum", 3, "measured", remedy="add them in several steps"),
        rules.custom("MaxPool", "zeros before it", _zeros_before, "pad after a Relu, or in the MaxPool", "measured"),
        rules.custom("MaxPool", "dilations", _spread, "pool without dilations", "measured", severity="warning"),
        *map(_on_cpu, ON_CPU.split()),
    ),
    dtypes=frozenset({"float32", "float16"}),
)


@dataclass(frozen=True)
class Rknn:
    """Rockchip NPUs of the RK35, RV11 and RK2118 families."""

    name: str = "rknn"
    targets: tuple[str, ...] = tuple(TARGETS)
    limits: Limits = LIMITS
    distributions: tuple[str, ...] = (TOOL, "onnx", "onnxruntime", "numpy", "protobuf", "torch")

    def variants(self, target: str) -> Sequence[Variant]:
        """int8 is asymmetric and a scale a channel; int8-sparse is where the chip has 2:4. () for an unknown chip."""
        return TARGETS.get(target, ())

    def convert(self, job: Job) -> Converted:
        """FORM.rknn, which takes the ONNX file's own input; its outputs by the toolkit's simulator."""
        import onnx

        from pipelines.graph.load import load_model

        variant = self._variant(job)
        model = load_model(Path(job.model))
        work, file = Path(job.work), Path(job.out, f"{job.form}.rknn")
        onnx.save_model(_spelled_out(model), str(work / rknn_tool.MODEL))
        asked = work / "tool.json"
        asked.write_bytes(
            msgspec.json.encode(rknn_tool.ToolJob(job=job, file=str(file), sparse=variant.name == SPARSE.name))
        )
        log = work / "tool.log"
        try:
            code = run_tool(
                [sys.executable, "-m", rknn_tool.__name__, asked],
                log,
                timeout_s=0.9 * variant.timeout_s,  # before the worker's own time is over
                folder=work,
                variables={"OMP_NUM_THREADS": str(job.threads)},
            )
        finally:
            said = log.read_text("utf-8", errors="replace") if log.is_file() else ""
            sys.stdout.write(said)  # the worker's output is the log that is kept
            sys.stdout.flush()
        if code:
            raise PipelineError(f"{TOOL} can't convert it: {read_error(said) or _ended(code)}")
        built = read_log(said)
        return Converted(
            file=file.name,
            outputs=str(work / rknn_tool.OUTPUTS),
            ran_by=f"simulator of {TOOL} {installed((TOOL,))[TOOL]}",
            weight_bytes=built.weight_bytes,
            cycles=built.cycles,
            sparsity=_sparsity(job, model, built),
            elapsed_s=msgspec.json.decode((work / rknn_tool.ELAPSED).read_bytes(), type=float),
        )

    def cause(self, log: str) -> str:
        """The last line that is an error of its Python or of its compiled part; the last line where none is."""
        return read_error(log) or last_error_line(log)

    def _variant(self, job: Job) -> Variant:
        offered = {one.name: one for one in self.variants(job.target)}
        if not offered:
            raise PipelineError(f"rknn has no target {job.target!r}", f"these are: {', '.join(TARGETS)}")
        if job.variant not in offered:
            raise PipelineError(
                f"rknn does not convert to {job.variant!r} for {job.target}", f"these are: {', '.join(offered)}"
            )
        if offered[job.variant].calibrates and not job.calibration:
            raise PipelineError(f"{job.variant} needs calibration pictures", "give --calibration FOLDER")
        return offered[job.variant]


VENDOR = Rknn()


def _ended(code: int) -> str:
    return f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with {code}"


def _spelled_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network as the toolkit can read it.

    Short integer tensors as numbers in place of bytes: it writes into the pads of a Pad, and onnx gives it arrays
    over those bytes that can't be written to. The default epsilon of a LayerNormalization: it looks for it.
    """
    import onnx
    from onnx import helper, numpy_helper

    from pipelines.graph.tensors import stored

    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in stored(made.graph).values():
        if tensor.data_type == onnx.TensorProto.INT64 and tensor.HasField("raw_data") and len(tensor.raw_data) < 1024:
            numbers = numpy_helper.to_array(tensor).ravel().tolist()
            tensor.ClearField("raw_data")
            tensor.int64_data.extend(numbers)
    for node in made.graph.node:
        if node.op_type == "LayerNormalization" and all(one.name != "epsilon" for one in node.attribute):
            node.attribute.append(helper.make_attribute("epsilon", 1e-5))
    return made


def _sparsity(job: Job, model: onnx.ModelProto, built: BuildLog) -> str:
    """What became of the zeros: layer by layer where the toolkit was asked to use them, which it does in silence."""
    from pipelines.graph.pattern_check import check_layers
    from pipelines.sparsity.pattern import NMPattern

    if job.variant != SPARSE.name:
        return "" if job.form == "dense" else "stored like any value"
    weights = [(check.weight, check.holds) for check in check_layers(model, NMPattern.parse(HARDWARE))]
    holding = [weight for weight, holds in weights if holds]
    ignored = [weight for weight in holding if weight.initializer not in built.recognised]
    narrow = [weight for weight in ignored if _narrow(weight)]
    turned = built.recognised - {weight.initializer for weight in holding}
    used = built.sparse_layers
    head = f"{used} of {len(weights)} layers are stored without zeros" if used else "sparse_infer did nothing"
    said = [head, f"{HARDWARE} holds in {len(holding)} of {len(weights)}"]
    if narrow:
        said.append(f"{len(narrow)} of them ignored by shape: it takes {TAKEN}")
    if other := [weight.node for weight in ignored if weight not in narrow]:
        said.append(f"ignored for no reason known here: {', '.join(other)}")
    if turned:
        said.append(f"{len(turned)} have it along the output channels")
    return "; ".join(said)


def _narrow(weight: Weight) -> bool:
    outputs = weight.shape[1 - weight.axis]
    return bool(weight.channels % 32 or outputs % 16 or weight.groups > 1)
