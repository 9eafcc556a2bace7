"""TPU-MLIR: ONNX to .bmodel and .cvimodel for Sophgo's chips, by its three commands.

Every picture is judged on its interpreter of the lowered network, which computes in the chip's number formats. The
file itself runs on the chip's emulator, seconds to a minute a picture, so the first picture alone goes there, and
must come out the same.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import PipelineError
from pipelines.installed import installed
from pipelines.vendors.base import Converted, Job, Variant, last_error_line
from pipelines.vendors.limits import Limits
from pipelines.vendors.tool import run_tool

KNOWN = """
  Abs Acos Add And ArgMax ArgMin Atan Atanh AveragePool BatchNormalization Cast Ceil Clip Concat Constant
  ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf
  Exp Expand Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalMaxPool Greater
  GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Identity If InstanceNormalization LRN LSTM
  LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop MatMul Max MaxPool Min Mod Mul Neg
  NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear RandomNormalLike Range Reciprocal ReduceL1
  ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize ReverseSequence
  RoiAlign Round ScatterElements ScatterND Shape Sigmoid Sign Sin Sinh Slice Softmax Softplus Softsign SpaceToDepth
  Split Sqrt Squeeze Sub Sum Tan Tanh Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""  # ONNX operators that its OnnxConverter has a function for

LIMITS = Limits(
    opset=(7, 19),  # its onnx 1.14.1 checks the file, and onnxruntime 1.16.3 folds it
    ir_version=9,
    origin="package metadata",
    operators=frozenset(KNOWN.split()),
)

MODES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "int8": "INT8"}
FLOORS = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.99, "int8": 0.85}
LONGEST_S = 1800.0  # of one command
# How far the file on the emulated chip may be from the lowered network, of the largest value: one unit of its number
# format, since sums are taken in another order. int8 came out bit for bit wherever it was tried.
ALIKE = {"fp32": 2**-16, "fp16": 2**-10, "bf16": 2**-7, "int8": 2**-7}


@dataclass(frozen=True)
class Chip:
    """`emulator`: the library that computes what the chip does; "" where the runtime holds it."""

    formats: tuple[str, ...]  # the first and int8 are converted to where none is named
    suffix: str
    emulator: str = ""


_BM = ("fp16", "int8", "fp32", "bf16")
CHIPS = {
    "bm1684x": Chip(_BM, "bmodel", "libcmodel_bm1684x.so"),
    "bm1688": Chip(_BM, "bmodel", "libcmodel_bm1688.so"),
    "cv186x": Chip(_BM, "bmodel", "libcmodel_bm1688.so"),
    # a .bmodel name for these converts, and what comes out can't be loaded
    "cv183x": Chip(("bf16", "int8"), "cvimodel"),
    "cv182x": Chip(("bf16", "int8"), "cvimodel"),
    "cv181x": Chip(("bf16", "int8"), "cvimodel"),
    "cv180x": Chip(("bf16", "int8"), "cvimodel"),
}


@dataclass(frozen=True)
class TpuMlir:
    """BM chips (.bmodel) and CV chips (.cvimodel)."""

    name: str = "tpu-mlir"
    targets: tuple[str, ...] = tuple(CHIPS)
    limits: Limits = LIMITS
    distributions: tuple[str, ...] = ("tpu-mlir", "torch", "onnx", "onnxruntime", "numpy", "protobuf")

    def variants(self, target: str) -> Sequence[Variant]:
        """Only int8 is converted to without being asked for: the chip's emulator is slow in the others."""
        formats = CHIPS[target or self.targets[0]].formats
        return [
            Variant(one, FLOORS[one], calibrates=one == "int8", by_default=one == "int8", timeout_s=3600)
            for one in formats
        ]

    def convert(self, job: Job) -> Converted:
        """FORM.bmodel or FORM.cvimodel, its weights' bytes and, for BM chips, the cycles that the compiler expects."""
        chip = CHIPS[job.target]
        if job.variant not in chip.formats:
            raise PipelineError(
                f"tpu-mlir has no variant {job.variant!r} for {job.target}", f"these are: {', '.join(chip.formats)}"
            )
        file, work = Path(job.out, f"{job.form}.{chip.suffix}"), Path(job.work)
        tools = _Tools(work, job.threads, chip.emulator)
        given, shape, weights = _network(Path(job.model))
        began = time.monotonic()
        tools.run(
            *("model_transform.py", "--model_name", "network", "--model_def", job.model, "--mlir", "network.mlir"),
            *("--input_shapes", f"[[{','.join(map(str, shape))}]]"),
            leaves="network.mlir",
        )
        table = _calibrate(tools, given, Path(job.calibration)) if job.variant == "int8" else ()
        tools.run(
            *("model_deploy.py", "--mlir", "network.mlir", "--chip", job.target, "--quantize", MODES[job.variant]),
            *("--model", file.name, "--debug", *table),  # debug leaves the lowered network
            leaves=file.name,
        )
        elapsed_s = round(time.monotonic() - began, 3)
        outputs, apart = _judge(tools, file.name, Path(job.judged), ALIKE[job.variant])
        stored = _weight_bytes(tools.said("model_tool", "--info", file.name))
        shutil.move(work / file.name, file)
        return Converted(
            file=file.name,
            outputs=str(outputs),
            ran_by=f"tpu-mlir {installed(('tpu-mlir',))['tpu-mlir']}: the lowered network interpreted; "
            f"the file on an emulated {job.target}, one picture: {apart:.1g} of the largest value apart",
            weight_bytes=stored,
            cycles=_cycles(work / "compiler_profile_0.txt"),
            sparsity="" if job.form == "dense" else f"zeros stored: {stored} bytes for {weights} weights",
            elapsed_s=elapsed_s,
        )

    def cause(self, log: str) -> str:
        """The line of a Python error, or of its compiler's."""
        return last_error_line(log, ("error:", "exception", "not support", "assert", "failed"))


VENDOR = TpuMlir()


@dataclass(frozen=True)
class _Tools:
    """Its commands, each in `work`, with the paths that its package sets only for its console scripts."""

    work: Path
    threads: int
    emulator: str

    def run(self, script: str, *words: str, leaves: str) -> None:
        """One of its Python tools, whose exit code 0 proves nothing: `leaves` is the file that must be there then."""
        self._python(Path(_package(), "python", "tools", script), *words, leaves=leaves)

    def execute(self, how: str, file: str, images: Path, outputs: str) -> Path:
        """tpu_mlir_run in a process that finds the chip's emulator before the one that the package starts with."""
        self._python("-m", "pipelines.vendors.tpu_mlir_run", how, file, str(images), outputs, leaves=outputs)
        return self.work / outputs

    def said(self, program: str, *words: str) -> str:
        """What one of its binaries prints."""
        code, text = self._logged([Path(_package(), "bin", program), *words])
        if code:
            raise PipelineError(f"{program} ended with {code}: {last_error_line(text)}")
        return text

    def _python(self, *command: str | Path, leaves: str) -> None:
        code, text = self._logged([sys.executable, *command])
        if code or not (self.work / leaves).is_file():
            name = next(Path(word).name for word in command if word != "-m")
            why = VENDOR.cause(text)
            raise PipelineError(f"{name} ended with {code}{'' if code else f' and left no {leaves}'}: {why}")

    def _logged(self, command: Sequence[str | Path]) -> tuple[int, str]:
        log = self.work / "command.log"
        log.unlink(missing_ok=True)
        code = run_tool(command, log, timeout_s=LONGEST_S, folder=self.work, variables=self._variables())
        text = log.read_text("utf-8", errors="replace")
        print(text, flush=True)  # noqa: T201  (into the conversion's log)
        return code, text

    def _variables(self) -> dict[str, str]:
        root = _package()
        first = self.work / "emulator"
        first.mkdir(exist_ok=True)
        if self.emulator and not (first / "libcmodel.so").is_symlink():
            (first / "libcmodel.so").symlink_to(root / "lib" / self.emulator)  # its own tool writes this link in lib/
        ours = Path(__file__).parents[2]

        def joined(name: str, *paths: Path) -> str:
            return os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get(name)])])

        return {
            "TPUC_ROOT": str(root),
            "PATH": joined("PATH", root / "bin", root / "python" / "tools"),
            "PYTHONPATH": joined("PYTHONPATH", root, root / "python", ours),
            "LD_LIBRARY_PATH": joined(
                "LD_LIBRARY_PATH", first, root / "lib", root / "lib" / "capi", root / "lib" / "third_party"
            ),
            "OMP_NUM_THREADS": str(self.threads),
        }


def _package() -> Path:
    """Where tpu_mlir lies; importing it would change this process's paths."""
    found = importlib.util.find_spec("tpu_mlir")
    if found is None or not found.submodule_search_locations:
        raise PipelineError("tpu_mlir is not installed here", "run with --env tpu-mlir")
    return Path(found.submodule_search_locations[0])


def _network(model: Path) -> tuple[str, tuple[int, ...], int]:
    """Its input's name and shape, and how many float weights it has. PipelineError where it can't be read."""
    import onnx

    from pipelines.graph.load import load_model

    graph = load_model(model).graph
    stored = {tensor.name for tensor in graph.initializer}
    (given,) = (one for one in graph.input if one.name not in stored)
    shape = tuple(one.dim_value for one in given.type.tensor_type.shape.dim)
    floats = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    return given.name, shape, sum(math.prod(tensor.dims) for tensor in floats)


def _calibrate(tools: _Tools, given: str, calibration: Path) -> tuple[str, str]:
    """The option with a table of each tensor's range, over all calibration pictures."""
    import numpy as np

    from pipelines.arrays import load_arrays

    folder = tools.work / "calibration"
    folder.mkdir()
    files = []
    for place, image in enumerate(load_arrays(calibration)["images"]):
        files.append(folder / f"{place:05}.npz")
        np.savez(files[-1], **{given: image[None]})
    listed = tools.work / "calibration.txt"
    listed.write_text("".join(f"{file}\n" for file in files), "utf-8")
    tools.run(
        *("run_calibration.py", "network.mlir", "--data_list", str(listed), "--input_num", str(len(files))),
        *("-o", "network.table"),
        leaves="network.table",
    )
    return "--calibration_table", "network.table"


def _judge(tools: _Tools, file: str, judged: Path, alike: float) -> tuple[Path, float]:
    """The lowered network's outputs for every picture, and how far the file itself is from them for the first.

    PipelineError where that is more than `alike`, as a share of the largest value.
    """
    import numpy as np

    from pipelines.arrays import load_arrays, save_arrays
    from pipelines.inference import load_outputs

    (lowered,) = tools.work.glob("network_*_tpu.mlir")
    outputs = tools.execute("lowered", lowered.name, judged, "outputs.npz")
    first = tools.work / "first.npz"
    save_arrays(first, {"images": load_arrays(judged)["images"][:1]})
    ran = load_outputs(tools.execute("emulated", file, first, "emulated.npz"))
    told = [one[:1] for one in load_outputs(outputs)]
    if [one.size for one in told] != [one.size for one in ran]:
        raise PipelineError(f"{file} has other outputs than its lowered network")
    apart = max(float(np.abs(a.ravel() - b.ravel()).max() / np.abs(a).max()) for a, b in zip(told, ran, strict=True))
    if not apart <= alike:
        raise PipelineError(
            f"the emulated chip computes something else than the lowered network: {apart:.2g} of the largest value "
            f"apart, {alike:.2g} is allowed",
            "do not use the file",
        )
    return outputs, apart


def _weight_bytes(said: str) -> int:
    """Of `model_tool --info`, whose words differ between the two kinds of file."""
    found = re.search(r"\(weight: (\d+)", said) or re.search(r"^\d+ +weight +\S+ +(\d+)", said, re.MULTILINE)
    if found is None:
        raise PipelineError("model_tool does not say how large the weights are")
    return int(found[1])


def _cycles(profile: Path) -> int | None:
    """The compiler's own count; None for the CV chips, for which it makes none."""
    found = re.search(r"^TCYC : (\d+)", profile.read_text("utf-8"), re.MULTILINE) if profile.is_file() else None
    return int(found[1]) if found else None
