"""MNN: ONNX to .mnn, quantised by its own tools, run by its own CPU runtime.

Its console scripts install packages into whatever Python comes first; the functions behind them are called here, in
the worker's own process. They return True for a file that is no ONNX, so what they leave is looked at instead.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import PipelineError
from pipelines.installed import installed
from pipelines.vendors.base import Converted, Job, Variant, last_error_line
from pipelines.vendors.limits import Limits

if TYPE_CHECKING:
    from pipelines.arrays import Array

KNOWN = """
  ATan ATen Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift Cast
  CastLike Ceil Celu Clip Compress Concat ConcatFromSequence Constant ConstantOfShape Conv ConvTranspose Cos Cosh
  CumSum DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Erfc Erfinv Exp
  Expand Expm1 EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool
  GlobalMaxPool Greater GreaterOrEqual GridSample GridSampler HardSigmoid HardSwish Identity If InstanceNormalization
  LRN LSTM LayerNorm LayerNormalization LeakyRelu Less LessOrEqual Log Log1p LogSoftmax Loop LpNormalization LpPool
  MatMul Max MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization Min Mod Mul Neg NegativeLogLikelihoodLoss
  NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform
  RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
  ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round STFT Scatter ScatterElements
  ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength Shape Shrink
  Sigmoid Sign Sin Sinh Size Slice Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split
  SplitToSequence Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample
  Where Xor raster_grad texture texture_mipmap
"""  # what `mnnconvert -f ONNX --OP` of 3.6.1 prints

LIMITS = Limits(
    opset=(1, 30),  # it refuses none: opsets 1 to 30 and IR 3 to 20 were tried
    ir_version=20,
    origin="measured",
    operators=frozenset(KNOWN.split()),
)

# The asymmetric form alone has an exact zero: the default one puts every zero half a step beside it, which costs a
# 2:4 network far more than rounding does.
WEIGHT8 = ("--weightQuantBits", "8", "--weightQuantAsymmetric")
OPTIONS = {"fp16": ("--fp16",), "weight8": WEIGHT8}
METHODS = {"int8": "KL", "int8-ema": "EMA"}  # of the activations

VARIANTS = (
    Variant("fp32", 0.9999),
    Variant("fp16", 0.999),
    Variant("weight8", 0.98),
    Variant("int8", 0.9, calibrates=True),
    Variant("int8-ema", 0.9, calibrates=True, by_default=False),  # ends well, and computes something else
)


@dataclass(frozen=True)
class Mnn:
    """Without chips of its own: a .mnn runs on any processor."""

    name: str = "mnn"
    targets: tuple[str, ...] = ()
    limits: Limits = LIMITS
    distributions: tuple[str, ...] = ("mnn", "onnx", "onnxruntime", "numpy")

    def variants(self, target: str) -> Sequence[Variant]:
        """fp16 and weight8 store weights shorter and compute in float32; int8 computes in integers."""
        del target
        return VARIANTS

    def convert(self, job: Job) -> Converted:
        """FORM.mnn, and its outputs by MNN's CPU runtime at high precision."""
        from pipelines.arrays import load_arrays, save_arrays

        if job.variant not in {one.name for one in VARIANTS}:
            raise PipelineError(f"mnn has no variant {job.variant!r}", f"{', '.join(one.name for one in VARIANTS)}")
        file, work = Path(job.out, f"{job.form}.mnn"), Path(job.work)
        method = METHODS.get(job.variant, "")
        began = time.monotonic()
        if method:
            plain = work / "float.mnn"
            _converted(Path(job.model), plain, ())
            _quantised(plain, work, method, load_arrays(Path(job.calibration))["images"]).replace(file)
        else:
            _converted(Path(job.model), file, OPTIONS.get(job.variant, ()))
        elapsed_s = round(time.monotonic() - began, 3)
        outputs = work / "outputs.npz"
        made = _outputs(file, _output_names(Path(job.model)), load_arrays(Path(job.judged))["images"], job.threads)
        save_arrays(outputs, {f"output_{place}": one for place, one in enumerate(made)})
        return Converted(
            file=file.name,
            outputs=str(outputs),
            ran_by=f"MNN {installed(('mnn',))['mnn']} on the CPU",
            sparsity="" if job.form == "dense" else _stored(file, work),
            elapsed_s=elapsed_s,
        )

    def cause(self, log: str) -> str:
        """Its own error lines; progress and versions have none of these words."""
        return last_error_line(log, ("[error]", "error:", "check failed", "not support"))


VENDOR = Mnn()


def _converted(model: Path, file: Path, options: Sequence[str]) -> None:
    """One .mnn of an ONNX file; weights that are sparse enough for the tool's own threshold are stored so."""
    _mnnconvert(
        *("-f", "ONNX", "--modelFile", str(model), "--MNNModel", str(file), "--bizCode", "edgekiln"),
        *("--detectSparseSpeedUp", *options),
    )
    if not file.is_file():
        raise PipelineError(f"MNN could not convert {model.name}", "its log says at which operator it stopped")


def _mnnconvert(*words: str) -> None:
    import _tools

    _tools.mnnconvert(["mnnconvert", *words])


def _quantised(plain: Path, work: Path, method: str, images: Array) -> Path:
    """A calibrated int8 .mnn in `work`: weights by their largest value, activations by `method`."""
    import _tools

    folder = work / "calibration"
    folder.mkdir()
    settings = {
        **_as_pictures(images, folder),
        "path": str(folder),
        "feature_quantize_method": method,
        "weight_quantize_method": "MAX_ABS",
    }
    config, file = work / "quantise.json", work / "int8.mnn"
    config.write_text(json.dumps(settings), "utf-8")
    _tools.mnnquant(["mnnquant", str(plain), str(file), str(config)])
    if not file.is_file():
        raise PipelineError(f"MNN could not quantise {plain.name} by {method}", "see its log")
    return file


def _as_pictures(images: Array, folder: Path) -> dict[str, Any]:
    """Tensors [N, C, H, W] as 8-bit pictures, which is all that the tool reads, and the settings that undo it.

    Each channel's range becomes 0..255, so a tensor that was made of an 8-bit picture loses half a level at most.
    """
    import numpy as np

    channels = images.shape[1]
    kinds = {1: ("P5", "GRAY"), 3: ("P6", "RGB")}
    if channels not in kinds:
        raise PipelineError(
            f"MNN calibrates with pictures of 1 or 3 channels, and the input has {channels}",
            "convert with --variants fp32,fp16,weight8",
        )
    magic, form = kinds[channels]
    lowest = images.min((0, 2, 3)).astype(np.float64)
    step = (images.max((0, 2, 3)) - lowest) / 255
    step[step == 0] = 1
    levels = np.rint((images - lowest[:, None, None]) / step[:, None, None]).astype(np.uint8)
    height, width = images.shape[2:]
    for place, picture in enumerate(levels.transpose(0, 2, 3, 1)):
        (folder / f"{place:05}.ppm").write_bytes(f"{magic}\n{width} {height}\n255\n".encode() + picture.tobytes())
    # it computes (level - mean) * normal
    return {
        "format": form,
        "mean": (-lowest / step).tolist(),
        "normal": step.tolist(),
        "width": width,
        "height": height,
    }


def _output_names(model: Path) -> list[str]:
    import onnx

    return [output.name for output in onnx.load(str(model), load_external_data=False).graph.output]


def _outputs(file: Path, names: Sequence[str], images: Array, threads: int) -> list[Array]:
    """The outputs of those names, each [N, ...], one picture at a time."""
    import MNN
    import numpy as np

    interpreter = MNN.Interpreter(str(file))
    session = interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    given = interpreter.getSessionInput(session)
    rows: list[list[Array]] = []
    for image in images:
        given.copyFrom(_tensor(MNN, np.ascontiguousarray(image[None])))
        interpreter.runSession(session)
        row = []
        for name in names:
            found = interpreter.getSessionOutput(session, name)
            held = _tensor(MNN, np.zeros(found.getShape(), np.float32))
            found.copyToHostTensor(held)
            row.append(np.array(held.getNumpyData()).reshape(found.getShape()))
        rows.append(row)
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def _tensor(mnn: Any, array: Array) -> Any:
    """A host tensor in ONNX's order of dimensions, holding that float32 array."""
    return mnn.Tensor(array.shape, mnn.Halide_Type_Float, array, mnn.Tensor_DimensionType_Caffe)


def _stored(file: Path, work: Path) -> str:
    """How many weights the file holds without their zeros, read from the tool's own dump of it."""
    dump = work / "dump.json"
    _mnnconvert("-f", "MNN", "--modelFile", str(file), "--bizCode", "edgekiln", "--JsonFile", str(dump))
    # a filter of zeros alone has the scale nan, which is no JSON
    text = re.sub(r"-?\bnan\b", "null", dump.read_text("utf-8"))
    layers = [one["main"] for one in json.loads(text)["oplists"] if "common" in one.get("main", {})]
    without = sum(map(_without_zeros, layers))
    return f"{without or 'none'} of {len(layers)} convolutions stored without their zeros"


def _without_zeros(layer: dict[str, Any]) -> bool:
    by_index = 2  # quanParameter.type of weights kept as positions and values
    coded = layer.get("quanParameter") or {}
    return bool(layer.get("sparseParameter")) or coded.get("type") == by_index
