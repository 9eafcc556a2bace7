"""Arm Vela: an int8 TFLite file compiled for an Ethos-U NPU, with Vela's own estimate of cycles and memory.

No simulator of these NPUs is to be had from a package: what is run and compared is the int8 TFLite file that Vela was
given. Arm states that an Ethos-U computes what TensorFlow Lite's reference kernels do; nothing here checks that.
"""

from __future__ import annotations

import csv
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import PipelineError
from pipelines.vendors.base import Converted, Job, Variant, last_error_line
from pipelines.vendors.limits import Limits, Rule
from pipelines.vendors.tool import run_tool

if TYPE_CHECKING:
    from pipelines.graph.facts import Graph

INT8 = Variant("int8", floor=0.95, calibrates=True)
TIMEOUT_S = 600.0

KNOWN = """
  Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
  Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast Ceil Celu CenterCropPad Clip
  Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum
  DFT DeformConv DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand
  EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
  Greater GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity
  If ImageDecoder InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log
  LogSoftmax Loop LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean
  MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Multinomial Neg NegativeLogLikelihoodLoss
  NonMaxSuppression NonZero Not OneHot Optional OptionalGetElement OptionalHasElement Or PRelu Pad Pow QLinearConv
  QLinearMatMul QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike
  Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
  ReduceSumSquare RegexFullMatch Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT Scan Scatter
  ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
  SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax SoftmaxCrossEntropyLoss Softplus Softsign
  SpaceToDepth Split SplitToSequence Sqrt Squeeze StringConcat StringNormalizer StringSplit Sub Sum Tan Tanh
  TensorScatter TfIdfVectorizer ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
"""  # onnx2tf 1.29.24 has a module for each of them

# U85 first: the family that computes 2:4 networks in fewer cycles
TARGETS = (
    *("ethos-u85-512", "ethos-u85-128", "ethos-u85-256", "ethos-u85-1024", "ethos-u85-2048"),
    *("ethos-u65-256", "ethos-u65-512"),
    *("ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256"),
)

_NOT_NEGATIVE = {"Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt"}
_HANDS_ON = {"AveragePool", "Dropout", "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool"}


def _padded_maxpool(node: Any, graph: Graph) -> str:
    """onnx2tf pads with zeros for int8; the same as no padding only where no input is below zero."""
    pads = graph.attribute(node, "pads", [])
    if not any(pads) or _not_negative(graph.given(node, 0), graph):
        return ""
    return f"pads {list(pads)} are filled with zeros here, and its input may be negative"


def _not_negative(name: str, graph: Graph) -> bool:
    while (node := graph.producer(name)) is not None and node.op_type in _HANDS_ON:
        name = graph.given(node, 0)
    if node is None:
        return False
    if node.op_type != "Clip":
        return node.op_type in _NOT_NEGATIVE
    low = graph.value(graph.given(node, 1)) if graph.given(node, 1) else graph.attribute(node, "min")
    return low is not None and float(low) >= 0


LIMITS = Limits(
    opset=(7, 23),  # both were converted; above them the onnxruntime beside it, by which onnx2tf goes, refuses
    ir_version=11,
    origin="measured",
    operators=frozenset(KNOWN.split()),
    rules=(
        Rule(
            op="MaxPool",
            name="padding",
            check=_padded_maxpool,
            remedy="put a Relu before it, or pad by a node of its own",
            origin="measured",
            severity="warning",
        ),
    ),
)


@dataclass(frozen=True)
class Vela:
    """For Ethos-U55, U65 and U85, by the number of multiply-accumulates a cycle."""

    name: str = "vela"
    targets: tuple[str, ...] = TARGETS
    limits: Limits = LIMITS
    distributions: tuple[str, ...] = ("ethos-u-vela", "onnx2tf", "tensorflow-cpu")

    def variants(self, target: str) -> Sequence[Variant]:
        """int8 alone."""
        del target
        return (INT8,)

    def convert(self, job: Job) -> Converted:
        """`model_int8.tflite`, `model_int8_vela.tflite` and Vela's summary in out; the first is run."""
        if job.variant != INT8.name:
            raise PipelineError(f"{self.name} does not convert to {job.variant!r}", "it has int8")
        if not job.calibration:
            raise PipelineError("int8 needs calibration pictures", "give --calibration FOLDER")
        from pipelines.arrays import load_arrays
        from pipelines.inference import save_outputs
        from pipelines.installed import installed
        from pipelines.vendors.vela_tflite import quantise, run

        began = time.monotonic()
        work, out = Path(job.work), Path(job.out)
        calibration = load_arrays(Path(job.calibration))["images"]
        content, orders = quantise(Path(job.model), calibration, work, job.threads)
        given = out / "model_int8.tflite"
        given.write_bytes(content)
        said = _compile(given, job.target, out, work / "vela.log")
        elapsed_s = time.monotonic() - began
        outputs = work / "outputs.npz"
        save_outputs(outputs, run(content, orders, load_arrays(Path(job.judged))["images"], job.threads))
        summary = _summary(out)
        tensorflow = installed(["tensorflow-cpu"])["tensorflow-cpu"]
        return Converted(
            file="model_int8_vela.tflite",
            outputs=str(outputs),
            ran_by=f"TensorFlow Lite {tensorflow}: the int8 file given to Vela, whose own file nothing here can run",
            weight_bytes=int(summary["total_npu_encoded_weights"]),
            cycles=int(summary["cycles_total"]),
            sparsity=_told(job, summary, said),
            elapsed_s=round(elapsed_s, 3),
        )

    def cause(self, log: str) -> str:
        """The last line that tells of an error."""
        return last_error_line(log)


def _compile(given: Path, target: str, out: Path, log: Path) -> str:
    """What Vela prints: where each operator runs, how each weight is stored. PipelineError with its reason."""
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "ethosu.vela",
        given,
        "--accelerator-config",
        target,
        "--output-dir",
        out,
    ]
    command += ["--show-cpu-operations", "--verbose-high-level-command-stream"]
    code = run_tool(command, log, timeout_s=TIMEOUT_S)
    said = log.read_text("utf-8", errors="replace")
    print(said)  # noqa: T201  (into the conversion's log)
    if code:
        raise PipelineError(f"Vela ended with {code}: {last_error_line(said)}")
    return said


def _summary(out: Path) -> dict[str, str]:
    """The one row of Vela's summary, a file that is named after its settings for the chip."""
    files = list(out.glob("model_int8_summary_*.csv"))
    if len(files) != 1:
        raise PipelineError(f"Vela left {len(files)} summaries, one was expected")
    with files[0].open(newline="") as text:
        return next(csv.DictReader(text))


def _told(job: Job, summary: dict[str, str], said: str) -> str:
    """What was made of the zeros, and what the estimate rests on, in one line."""
    formats = re.findall(r"^ *Weights: .*format: (\S+)", said, re.MULTILINE)
    pairs = sum("Sparse2_4" in one for one in formats)
    original, encoded = (int(summary[f"total_{one}"]) for one in ("original_weights", "npu_encoded_weights"))
    parts = [f"{pairs} of {len(formats)} layers as 2:4"] if job.form != "dense" else []
    parts.append(f"weights coded to {encoded / original:.0%}")
    parts.append(f"{int(summary['cycles_npu'])} cycles of the NPU alone")
    parts.append(f"{summary['system_config']}, {summary['memory_mode']}")
    parts.append(on_cpu(said))
    return "; ".join(parts)


def on_cpu(said: str) -> str:
    """Which operators Vela leaves to the CPU, by its own list. PipelineError where it gives none."""
    counts = dict(re.findall(r"^(CPU|NPU) operators = (\d+)", said, re.MULTILINE))
    if set(counts) != {"CPU", "NPU"}:
        raise PipelineError("Vela does not say where its operators run")
    if counts["CPU"] == "0":
        return f"all {counts['NPU']} operators on the NPU"
    names = re.findall(r"^ *CPU: \S+ = (?:\S*/)?(\S+)", said, re.MULTILINE)
    return f"{counts['CPU']} operators on the CPU: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"


VENDOR = Vela()
