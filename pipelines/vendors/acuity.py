"""VeriSilicon ACUITY: the ONNX file to a network binary (NBG) for a Vivante NPU, and its simulation in Python.

The exporter writes C, compiles it with gcc, and runs it on a model of the chip, which compiles the network and tells
what it made: cycles of each operation, and the sections of the file. The simulation is TensorFlow's, with the same
quantisation; the packages have nothing that computes the outputs of a network binary.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import PipelineError, first_line
from pipelines.installed import installed
from pipelines.vendors.base import Converted, Job, Variant, last_error_line
from pipelines.vendors.limits import Limits

if TYPE_CHECKING:
    from pipelines.arrays import Array
    from pipelines.graph.facts import Graph

# Its reader refuses no number (opset 1 to 30 and IR 2 to 13 were tried): this is what the onnxruntime beside it runs.
LIMITS = Limits(opset=(7, 21), ir_version=10, origin="measured")

# One scale a tensor is coarse: EfficientNet-Lite0 has .92 dense, .90 as 2:4 and .80 with 80 % zeros; another network
# than the one that was given lies near 0. One scale a channel has .99, .99 and .94.
VARIANTS = (
    Variant("uint8", floor=0.75, calibrates=True),
    Variant("int8", floor=0.9, calibrates=True),
    Variant("fp16", floor=0.999),
)
# variant -> the tool's quantizer, its type, bytes of a weight
FORMATS = {
    "uint8": ("asymmetric_affine", "uint8", 1),
    "int8": ("perchannel_symmetric_affine", "int8", 1),
    "fp16": ("float16", "float16", 2),
}
COLOUR, CLOCK = r"(?:\x1b\[\d+m)?", r"\d\d:\d\d:\d\d"  # of a line that it prints
TELLS = {"CNN_PERF": "1", "NN_EXT_SHOW_PERF": "1", "VIV_VX_DEBUG_LEVEL": "1"}  # cycles and sections


@dataclass(frozen=True)
class Acuity:
    """Its package brings the compiler of one chip; those of others come with the vendor's SDK."""

    name: str = "acuity"
    targets: tuple[str, ...] = ("GCNANOULTRA31_VIP2_PID0X15",)
    limits: Limits = LIMITS
    distributions: tuple[str, ...] = ("acuitylite", "tensorflow", "onnx")

    def variants(self, target: str) -> Sequence[Variant]:
        """uint8 has one scale a tensor, int8 one a channel; fp16 needs no calibration."""
        del target
        return VARIANTS

    def convert(self, job: Job) -> Converted:
        """`model.nb` and what its input and output tensors are; outputs by TensorFlow with the same quantisation."""
        if job.variant not in FORMATS:
            raise PipelineError(f"acuity does not convert to {job.variant!r}", f"it has {', '.join(FORMATS)}")
        if job.target not in self.targets:
            raise PipelineError(
                f"acuity has no compiler for {job.target!r}: its package brings that of {', '.join(self.targets)}",
                "those of other chips come with the vendor's SDK",
            )
        if missing := [tool for tool in ("gcc", "make") if shutil.which(tool) is None]:
            raise PipelineError(f"ACUITY compiles what it exports, and {missing[0]} is not here", "use --engine docker")
        from pipelines.arrays import load_arrays
        from pipelines.graph.facts import Graph
        from pipelines.graph.load import load_model
        from pipelines.inference import save_outputs

        graph = Graph(load_model(Path(job.model)))
        images = load_arrays(Path(job.judged))["images"]
        log, outputs = Path(job.work, "acuity.log"), Path(job.work, "outputs.npz")
        _bound_threads(job.threads)
        with _said_in_one_line(log), _captured(log):
            began = time.monotonic()
            network = _loaded(job)
            _quantised(network, job)
            _exported(network, job)
            elapsed_s = round(time.monotonic() - began, 3)
            save_outputs(outputs, _simulated(network, images, graph))
        told = _plain(log)
        weight_bytes = _section(told, "coef_data")
        return Converted(
            file="model.nb",
            beside=("model.json",),
            outputs=str(outputs),
            ran_by=f"simulation of acuitylite {installed(('acuitylite',))['acuitylite']} (TensorFlow)",
            weight_bytes=weight_bytes,
            cycles=_cycles(told),
            sparsity=_sparsity(graph, weight_bytes, FORMATS[job.variant][2]),
            elapsed_s=elapsed_s,
        )

    def cause(self, log: str) -> str:
        """Its own lines begin with E or W and a time of day; compilers and libraries say `error`."""
        own = re.findall(rf"^{COLOUR}(?:E {CLOCK} |W {CLOCK} (?=Not match))(.+?){COLOUR}$", log, re.MULTILINE)
        return str(own[-1])[:300] if own else last_error_line(log, ("error:", "error ", "undefined", "not found"))


VENDOR = Acuity()


def _bound_threads(threads: int) -> None:
    """Before TensorFlow is imported: it reads them once."""
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(threads)


@contextlib.contextmanager
def _said_in_one_line(log: Path) -> Iterator[None]:
    """The tool's own error as PipelineError. What it raises seldom tells, and what it printed before does."""
    try:
        yield
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:
        raise PipelineError(f"ACUITY: {_reason(error, VENDOR.cause(_plain(log)))}", "see its log") from error


def _reason(error: BaseException, printed: str) -> str:
    """An AcuityError carries a pair whose first is the text; others are faults of the tool."""
    text = error.args[0] if error.args else ""
    text = str(text[0] if isinstance(text, tuple) and text else text).strip()
    if type(error).__name__ == "AcuityError" and text:
        return text.splitlines()[0][:300]
    return printed or first_line(error)[:300]


def _plain(log: Path) -> str:
    """What was printed, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", log.read_text("utf-8", errors="replace"))


def _loaded(job: Job) -> Any:
    from acuitylib.interface.importer import OnnxLoader

    return OnnxLoader(job.model).load()


def _quantised(network: Any, job: Job) -> None:
    """In place. What needs no calibration is fed the first judged picture: the tool asks for one, and uses nothing."""
    from acuitylib.interface.quantization import Quantization

    from pipelines.arrays import load_arrays

    calibrates = next(one.calibrates for one in VARIANTS if one.name == job.variant)
    if calibrates and not job.calibration:
        raise PipelineError(f"{job.variant} needs calibration pictures", "give --calibration FOLDER")
    images = load_arrays(Path(job.calibration))["images"] if calibrates else load_arrays(Path(job.judged))["images"][:1]
    quantizer, kind, _ = FORMATS[job.variant]

    def pictures() -> Iterator[list[Array]]:
        for image in images:
            yield [image[None]]

    Quantization(network).quantize(
        input_generator_func=pictures, quantizer=quantizer, qtype=kind, iterations=len(images)
    )


def _exported(network: Any, job: Job) -> None:
    """Writes the network binary, and what its input and output tensors are; the compiler of the chip tells the rest."""
    from acuitylib.interface.exporter import OvxlibExporter

    folder = Path(job.work, "nbg")
    os.environ.update(TELLS)
    OvxlibExporter(network).export(
        str(folder / "model"), pack_nbg_only=True, viv_sdk=str(_unpacked_sdk(Path(job.work))), optimize=job.target
    )
    if not (folder / "network_binary.nb").is_file():
        raise PipelineError("ACUITY exported no network binary", "see its log")
    shutil.move(folder / "network_binary.nb", Path(job.out, "model.nb"))
    shutil.move(folder / "nbg_meta.json", Path(job.out, "model.json"))


def _unpacked_sdk(work: Path) -> Path:
    """The package's own SDK; without a place to look the exporter unpacks it beside itself, which is read-only."""
    import tarfile

    found = importlib.util.find_spec("acuitylib")
    assert found is not None and found.origin is not None  # it was imported before
    with tarfile.open(Path(found.origin).with_name("vsi_sdk.tar.gz")) as archive:
        archive.extractall(work, filter="data")
    return work / "vsi_sdk"


@contextlib.contextmanager
def _captured(log: Path) -> Iterator[None]:
    """What this process and its children print goes to `log`, and then to where it would have gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with log.open("wb") as out:
        try:
            for place in (1, 2):
                os.dup2(out.fileno(), place)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for place, old in zip((1, 2), kept, strict=True):
                os.dup2(old, place)
                os.close(old)
            os.write(1, log.read_bytes())


def _cycles(told: str) -> int | None:
    """Of one inference, by the compiler's model of the chip; None where an operation has no number."""
    found = re.findall(r"^CycleCount: (\d+)", told, re.MULTILINE)
    return sum(map(int, found)) if found and len(found) == told.count("*Show Perf*") else None


def _section(told: str, name: str) -> int | None:
    """Bytes of that section of the network binary, from the table that its writer prints."""
    found = re.search(rf"^\d+\s+\d+\s+{name}\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s", told, re.MULTILINE)
    return int(found[1], 16) if found else None


def _simulated(network: Any, images: Array, graph: Graph) -> list[Array]:
    """Every output as [N, ...], in the ONNX file's order and shapes."""
    import numpy as np
    from acuitylib.interface.inference import Inference

    simulation = Inference(network)
    simulation.build_session()
    rows = [[np.array(one) for one in simulation.run_session([image[None]])[1]] for image in images]
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    if len(columns) != len(graph.outputs):
        raise PipelineError(f"ACUITY made {len(columns)} outputs of {len(graph.outputs)}", "see its log")
    return [_shaped(column, graph.static(name)) for column, name in zip(columns, graph.outputs, strict=True)]


def _shaped(column: Array, shape: tuple[int, ...] | None) -> Array:
    return column if shape is None else column.reshape(-1, *shape[1:])


def _sparsity(graph: Graph, weight_bytes: int | None, width: int) -> str:
    """The compiler of the chip drops zeros by itself: said by how much it stores of each weight."""
    from pipelines.vendors.zeros import weights_and_zeros

    count, zeros = weights_and_zeros(graph)
    if not count or weight_bytes is None:
        return ""
    return f"{zeros / count:.1%} of {count} weights are zeros; {weight_bytes / count:.3f} bytes each stored, of {width}"
