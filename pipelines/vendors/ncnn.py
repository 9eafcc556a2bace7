"""ncnn: pnnx makes its .param and .bin of an ONNX file, and its own runtime computes them on the CPU.

pnnx is a program inside its package; the package's Python module asks for torch and is not needed. It ends well where
it leaves operators that ncnn does not have, so what it wrote is read before anything is run.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import PipelineError
from pipelines.installed import installed
from pipelines.vendors.base import Converted, Job, Variant, last_error_line
from pipelines.vendors.limits import Limits
from pipelines.vendors.rules import attribute_in, custom, dilations, stored_input
from pipelines.vendors.tool import run_tool

if TYPE_CHECKING:
    from pipelines.arrays import Array
    from pipelines.graph.facts import Graph

# Tried one by one, as were opsets 1 to 30 and IR 2 to 19. pnnx ends well with most of these: it hands the layer on by
# its name, and ncnn has none of that name; or ncnn computes something else.
REFUSED = {
    "GlobalLpPool": "use ReduceL2",
    "Hardmax": "leave it out, and take the largest afterwards",
    "LpNormalization": "divide by ReduceL2",
    "LpPool": "use AveragePool",
    "MeanVarianceNormalization": "use InstanceNormalization",
    "Softsign": "compute x / (1 + |x|)",
    "SpaceToDepth": "reshape, transpose and reshape",
    "ThresholdedRelu": "use Relu",
}


def _computed(node: Any, graph: Graph) -> str:
    return "" if graph.is_fixed(graph.given(node, 0)) else "computed from the picture, and ncnn has no such layer"


def _one_index(node: Any, graph: Graph) -> str:
    if graph.is_fixed(graph.given(node, 0)):
        return ""
    shape = graph.static(graph.given(node, 1))
    return f"{math.prod(shape)} indices: one is taken" if shape is not None and shape else ""


def _one_axis(node: Any, graph: Graph) -> str:
    axes = graph.attribute(node, "axes") or ()
    return "" if len(axes) == 1 else f"{len(axes) or 'all'} axes: one is taken"


def _unstepped(node: Any, graph: Graph) -> str:
    steps = graph.value(graph.given(node, 4)) if graph.given(node, 4) else None
    if steps is None or (steps == 1).all() or graph.is_fixed(graph.given(node, 0)):
        return ""
    return f"steps {', '.join(map(str, steps.tolist()))}: only 1 is taken"


def _over_batch(node: Any, graph: Graph) -> str:
    shape = graph.shape(graph.given(node, 0))
    first = shape is not None and graph.attribute(node, "axis", 1) in (0, -len(shape)) and len(shape) > 1
    return "axis 0: ncnn has no such dimension" if first and not graph.is_fixed(node.output[0]) else ""


def _from_corner(node: Any, graph: Graph) -> str:
    asymmetric = graph.attribute(node, "coordinate_transformation_mode", "half_pixel") == "asymmetric"
    linear = graph.attribute(node, "mode", "nearest") == "linear"
    return "linear and asymmetric: ncnn computes half_pixel" if linear and asymmetric else ""


def _stated_mode(node: Any, graph: Graph) -> str:
    stated = graph.attribute(node, "mode", "") or graph.is_fixed(graph.given(node, 0))
    return "" if stated else "no mode: pnnx takes none for the default"


RULES = (
    *(custom(op, "layer", _computed, "compute it before or after the network", "measured")
      for op in ("Cast", "CumSum", "GatherElements", "RoiAlign", "Tile", "Where")),
    *(custom(op, "axes", _one_axis, "reduce one axis after another", "measured") for op in ("ReduceMax", "ReduceMin")),
    custom("Concat", "axis", _over_batch, "join along another axis", "measured"),
    custom("Gather", "indices", _one_index, "use Slice and Concat", "measured"),
    custom("Pad", "mode", _stated_mode, 'state mode "constant"', "measured"),
    custom("Resize", "coordinates", _from_corner, "use half_pixel", "measured"),
    custom("Slice", "steps", _unstepped, "use a pooling or a convolution of that stride", "measured"),
    attribute_in("DepthToSpace", "mode", {"CRD"}, "DCR", "measured"),
    dilations("MaxPool", 1, "measured"),
    stored_input("Conv", 1, "weights", "measured"),
)  # fmt: skip

LIMITS = Limits(opset=(7, 26), ir_version=13, origin="measured", refused=REFUSED, rules=RULES)

VARIANTS = (Variant("fp16", floor=0.999), Variant("fp32", floor=0.9999))
WIDTH = {"fp16": 2, "fp32": 4}  # bytes of a weight
LONGEST_S = 600


@dataclass(frozen=True)
class Ncnn:
    """Without chips of its own: the two files run on any processor, and on GPUs by Vulkan."""

    name: str = "ncnn"
    targets: tuple[str, ...] = ()
    limits: Limits = LIMITS
    distributions: tuple[str, ...] = ("ncnn", "pnnx")

    def variants(self, target: str) -> Sequence[Variant]:
        """How weights are stored; the packages bring no tools that make int8 of a network."""
        del target
        return VARIANTS

    def convert(self, job: Job) -> Converted:
        """`model.param` and `model.bin`, and their outputs by ncnn in float32."""
        if job.variant not in WIDTH:
            raise PipelineError(f"ncnn does not convert to {job.variant!r}", f"it has {' and '.join(WIDTH)}")
        from pipelines.arrays import load_arrays
        from pipelines.graph.facts import Graph
        from pipelines.graph.load import load_model
        from pipelines.inference import save_outputs

        graph = Graph(load_model(Path(job.model)))
        shapes = [graph.static(name) for name in graph.outputs]
        if None in shapes:
            raise PipelineError(f"{Path(job.model).name}: the shape of an output is not known", "make it static")
        param, weights = Path(job.out, "model.param"), Path(job.out, "model.bin")
        began = time.monotonic()
        _converted(Path(job.model), param, weights, Path(job.work), fp16=job.variant == "fp16")
        elapsed_s = round(time.monotonic() - began, 3)
        _known(param)
        outputs = Path(job.work, "outputs.npz")
        images = load_arrays(Path(job.judged))["images"]
        save_outputs(outputs, _outputs(param, weights, images, [one for one in shapes if one is not None], job.threads))
        return Converted(
            file=weights.name,
            beside=(param.name,),
            outputs=str(outputs),
            ran_by=f"ncnn {installed(('ncnn',))['ncnn']} on the CPU, float32 arithmetic",
            weight_bytes=weights.stat().st_size,
            sparsity="" if job.form == "dense" else _sparsity(graph, weights.stat().st_size, WIDTH[job.variant]),
            elapsed_s=elapsed_s,
        )

    def cause(self, log: str) -> str:
        """pnnx's or ncnn's own line: both say `failed`, and print long tables before it."""
        return last_error_line(log, ("failed", "not exists", "not supported", "unsupported", "error"))


VENDOR = Ncnn()


def _converted(model: Path, param: Path, weights: Path, work: Path, *, fp16: bool) -> None:
    """Both files, or PipelineError with pnnx's own line. It leaves other files beside the model: it is given a copy."""
    found = importlib.util.find_spec("pnnx")  # does not import it
    if found is None or found.origin is None:
        raise PipelineError("pnnx is not installed", "run it in the environment ncnn")
    copy, log = work / "network.onnx", work / "pnnx.log"
    shutil.copyfile(model, copy)
    program = Path(found.origin).with_name("pnnx")
    options = (f"ncnnparam={param}", f"ncnnbin={weights}", f"ncnnpy={work / 'network.py'}", f"fp16={int(fp16)}")
    code = run_tool([program, copy, *options], log, timeout_s=LONGEST_S, folder=work)
    said = log.read_text("utf-8", errors="replace")
    sys.stdout.write(said)
    sys.stdout.flush()
    if code or not param.is_file() or not weights.is_file():
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise PipelineError(f"pnnx {how}: {VENDOR.cause(said) or 'it does not say why'}")


def _known(param: Path) -> None:
    """PipelineError where a layer is none of ncnn's: pnnx hands on by name what it can't translate."""
    import ncnn

    layers = [line.split()[:2] for line in param.read_text("utf-8").splitlines()[2:]]  # after magic and counts
    if strange := sorted({kind for kind, _ in layers if ncnn.layer_to_index(kind) < 0}):
        name = next(name for kind, name in layers if kind == strange[0])
        raise PipelineError(
            f"ncnn has no layer {', '.join(strange)} (the first is {name})", "express it by other operators"
        )


def _outputs(param: Path, weights: Path, images: Array, shapes: Sequence[tuple[int, ...]], threads: int) -> list[Array]:
    """Every output as [N, ...], its rows in the ONNX file's shape: ncnn drops the first dimension, which is 1."""
    import ncnn
    import numpy as np

    net = ncnn.Net()
    net.opt.num_threads = threads
    for half in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):  # by default, where the CPU has it
        setattr(net.opt, half, False)
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise PipelineError("ncnn can't load what pnnx made", "see its log")
    names = [f"out{place}" for place in range(len(shapes))]
    if sorted(net.output_names()) != sorted(names):
        raise PipelineError(f"pnnx made {len(net.output_names())} outputs of {len(names)}", "see its log")
    rows = [[_extracted(net, image, name) for name in names] for image in images]
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    return [_shaped(column, shape) for column, shape in zip(columns, shapes, strict=True)]


def _extracted(net: Any, image: Array, name: str) -> Array:
    import ncnn
    import numpy as np

    with net.create_extractor() as extractor:
        extractor.input("in0", ncnn.Mat(np.ascontiguousarray(image)).clone())
        code, found = extractor.extract(name)
        if code:
            raise PipelineError(f"ncnn could not compute {name} ({code})", "see its log")
        return np.array(found)


def _shaped(column: Array, shape: tuple[int, ...]) -> Array:
    count = len(column)
    if column.size != count * math.prod(shape):
        raise PipelineError(f"ncnn makes {list(column.shape[1:])} of an output of shape {list(shape)}")
    return column.reshape(count * shape[0], *shape[1:])


def _sparsity(graph: Graph, stored: int, width: int) -> str:
    """What became of the zeros, by counting: ncnn's format has no form for them."""
    from pipelines.vendors.zeros import weights_and_zeros

    count, zeros = weights_and_zeros(graph)
    if not count:
        return ""
    share = f"{zeros / count:.1%} of {count} weights are zeros"
    if stored < width * (count - zeros / 2):
        return f"{share}; {stored} bytes for all of them, in place of {width} each"
    return f"{share}, stored as any value: {stored / count:.2f} bytes each"
