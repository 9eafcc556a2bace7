"""Random small networks, with all that makes channels belong together: hypothesis draws what stands where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipelines.arrays import Array

SIDE = 6  # every picture is SIDE x SIDE; the layers keep that, so that any two may be added or joined
OPSET = 13


@dataclass(frozen=True)
class Picture:
    """A tensor [1, channels, SIDE, SIDE]."""

    name: str
    channels: int


@dataclass
class Net:
    """A network that grows; weights come from the seed."""

    draw: st.DrawFn
    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def one(self) -> Picture:
        return self.draw(st.sampled_from(self.pictures[-4:]))

    def stored(self, array: Array) -> str:
        """A new tensor: an initializer, or at times what a Constant node holds."""
        name = f"t{len(self.tensors) + len(self.nodes)}"
        tensor = numpy_helper.from_array(array, name)
        if self.number(0, 7) == 0:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.tensors.append(tensor)
        return name

    def weight(self, *shape: int) -> str:
        fan_in = max(1, int(np.prod(shape[1:])))
        return self.stored((self.random.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32))

    def positive(self, *shape: int) -> str:
        return self.stored(self.random.uniform(0.5, 1.5, shape).astype(np.float32))

    def node(self, op: str, inputs: list[str], outputs: int = 1, **attributes: object) -> list[str]:
        names = [f"{op.lower()}{len(self.nodes)}_{place}" for place in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=names[0], **attributes))
        return names

    def picture(self, name: str, channels: int) -> Picture:
        made = Picture(name, channels)
        self.pictures.append(made)
        return made

    def like(self, before: Picture, op: str, *inputs: str, **attributes: object) -> Picture:
        return self.picture(self.node(op, [before.name, *inputs], **attributes)[0], before.channels)


def convolution(net: Net) -> None:
    before, groups = net.one(), 1
    if net.number(0, 3) == 0:
        groups = net.draw(st.sampled_from([one for one in (2, 3, 4) if before.channels % one == 0] or [1]))
    out = groups * net.number(1, 16 // groups)
    side = net.draw(st.sampled_from([1, 3]))
    inputs = [before.name, net.weight(out, before.channels // groups, side, side)]
    if net.number(0, 1):
        inputs.append(net.weight(out))
    made = net.node("Conv", inputs, group=groups, pads=[side // 2] * 4, kernel_shape=[side, side])
    net.picture(made[0], out)


def repeated(net: Net) -> None:
    """Two layers with one weight, and at times one bias."""
    before, times = net.one(), net.number(2, 3)
    weight, bias = net.weight(before.channels, before.channels, 1, 1), net.weight(before.channels)
    name = before.name
    for _ in range(times):
        name = net.node("Relu", net.node("Conv", [name, weight, *([bias] if net.number(0, 1) else [])]))[0]
    net.picture(name, before.channels)


def depthwise(net: Net) -> None:
    before, times = net.one(), net.draw(st.sampled_from([1, 1, 2]))
    inputs = [before.name, net.weight(before.channels * times, 1, 3, 3), net.weight(before.channels * times)]
    net.picture(net.node("Conv", inputs, group=before.channels, pads=[1] * 4)[0], before.channels * times)


def transposed_convolution(net: Net) -> None:
    before = net.one()
    groups = 2 if before.channels % 2 == 0 and net.number(0, 1) else 1
    out = net.number(1, 8)
    inputs = [before.name, net.weight(before.channels, out, 3, 3), net.weight(out * groups)]
    net.picture(net.node("ConvTranspose", inputs, group=groups, pads=[1] * 4)[0], out * groups)


def norm(net: Net) -> None:
    before = net.one()
    size = before.channels
    net.like(before, "BatchNormalization", net.positive(size), net.weight(size), net.weight(size), net.positive(size))


def activation(net: Net) -> None:
    op = net.draw(st.sampled_from(["Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Identity", "Softmax"]))
    net.like(net.one(), op, **({"axis": 1} if op == "Softmax" else {}))


def prelu(net: Net) -> None:
    before = net.one()
    net.like(before, "PRelu", net.positive(before.channels, 1, 1) if net.number(0, 1) else net.positive(1))


def scaled(net: Net) -> None:
    before = net.one()
    shape = net.draw(st.sampled_from([(1,), (before.channels, 1, 1), (1, before.channels, 1, 1), (1, 1, SIDE, SIDE)]))
    net.like(before, net.draw(st.sampled_from(["Mul", "Add", "Sub", "Div"])), net.positive(*shape))


def residual(net: Net) -> None:
    before = net.one()
    same = [one for one in net.pictures if one.channels == before.channels]
    net.like(before, net.draw(st.sampled_from(["Add", "Mul", "Max"])), net.draw(st.sampled_from(same)).name)


def joined(net: Net) -> None:
    parts = [net.one() for _ in range(net.number(2, 3))]
    if sum(one.channels for one in parts) <= 40:
        names = [one.name for one in parts]
        net.picture(net.node("Concat", names, axis=1)[0], sum(one.channels for one in parts))


def divided(net: Net) -> None:
    before = net.one()
    if before.channels < 2:
        return
    at = net.number(1, before.channels - 1)
    sizes = [at, before.channels - at]
    lengths = net.stored(np.array(sizes, np.int64))
    for name, size in zip(net.node("Split", [before.name, lengths], 2, axis=1), sizes, strict=True):
        net.picture(name, size)


def cut(net: Net) -> None:
    before = net.one()
    first = net.number(0, before.channels - 1)
    last = net.number(first + 1, before.channels)
    bounds = [net.stored(np.array([one], np.int64)) for one in (first, last, 1)]
    net.picture(net.node("Slice", [before.name, *bounds])[0], last - first)


def pooled(net: Net) -> None:
    op = net.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    net.like(net.one(), op, kernel_shape=[3, 3], pads=[1] * 4)


def squeeze_excite(net: Net) -> None:
    before, inner = net.one(), net.number(1, 8)
    small = net.node("GlobalAveragePool", [before.name])
    small = net.node("Conv", [*small, net.weight(inner, before.channels, 1, 1), net.weight(inner)])
    small = net.node("Relu", small)
    small = net.node("Conv", [*small, net.weight(before.channels, inner, 1, 1), net.weight(before.channels)])
    net.like(before, "Mul", *net.node("Sigmoid", small))


def shuffled(net: Net) -> None:
    before = net.one()
    if ways := [one for one in (2, 3) if before.channels % one == 0]:
        way = net.draw(st.sampled_from(ways))
        parted = net.stored(np.array([1, way, before.channels // way, SIDE, SIDE], np.int64))
        whole = net.stored(np.array([1, before.channels, SIDE, SIDE], np.int64))
        made = net.node("Reshape", [before.name, parted])
        made = net.node("Transpose", made, perm=[0, 2, 1, 3, 4])
        net.picture(net.node("Reshape", [*made, whole])[0], before.channels)


def padded(net: Net) -> None:
    before = net.one()
    more = net.draw(st.sampled_from([0, 0, 2]))  # zero channels after the others
    pads = net.stored(np.array([0, 0, 0, 0, 0, more, 0, 0], np.int64))
    net.picture(net.node("Pad", [before.name, pads])[0], before.channels + more)


def channels_last(net: Net) -> None:
    """A matrix product over the channels, as exported from other frameworks, and a norm over them."""
    before, out = net.one(), net.number(1, 16)
    made = net.node("Transpose", [before.name], perm=[0, 2, 3, 1])
    if net.number(0, 1):
        centred = net.node("Sub", [*made, *net.node("ReduceMean", made, axes=[-1], keepdims=1)])
        made = net.node("Mul", [*centred, net.positive(before.channels)])
    if net.number(0, 1):
        weight = net.node("Transpose", [net.weight(out, before.channels)])[0]  # as torch exports a linear layer
    else:
        weight = net.weight(before.channels, out)
    made = net.node("MatMul", [*made, weight])
    made = net.node("Add", [*made, net.weight(out)])
    net.picture(net.node("Transpose", made, perm=[0, 3, 1, 2])[0], out)


STEPS: tuple[Callable[[Net], None], ...] = (
    convolution,
    repeated,
    depthwise,
    transposed_convolution,
    norm,
    activation,
    prelu,
    scaled,
    residual,
    joined,
    divided,
    cut,
    pooled,
    squeeze_excite,
    shuffled,
    padded,
    channels_last,
)


def flattened(net: Net) -> str:
    before = net.one()
    flat = net.node("Flatten", [before.name], axis=1)
    shape = (before.channels * SIDE * SIDE, 10)
    if net.number(0, 1):
        return net.node("Gemm", [*flat, net.weight(*shape[::-1]), net.weight(10)], transB=1)[0]
    return net.node("Gemm", [*flat, net.weight(*shape)])[0]


def classified(net: Net) -> str:
    before, hidden = net.one(), net.number(1, 16)
    if net.number(0, 1):
        flat = net.node("Flatten", net.node("GlobalAveragePool", [before.name]), axis=1)
    else:
        flat = net.node("ReduceMean", [before.name], axes=[2, 3], keepdims=0)
    flat = net.node(
        "Relu", net.node("Gemm", [*flat, net.weight(hidden, before.channels), net.weight(hidden)], transB=1)
    )
    return net.node("MatMul", [*flat, net.weight(hidden, 10)])[0]


def as_it_is(net: Net) -> str:
    return net.one().name


@st.composite
def networks(draw: st.DrawFn, most: int = 14) -> onnx.ModelProto:
    """A network of one picture "x" [1, channels, SIDE, SIDE] and up to three outputs; opset 13, float32."""
    net = Net(draw, np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    channels = draw(st.integers(1, 4))
    net.picture("x", channels)
    convolution(net)  # else an early draw of steps that only touch the picture leaves nothing to reorder
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=most)):
        step(net)
    heads = draw(st.lists(st.sampled_from([flattened, classified, as_it_is]), min_size=1, max_size=3))
    outputs = [name for name in dict.fromkeys(head(net) for head in heads) if name != "x"]
    if not outputs:
        convolution(net)
        outputs = [net.pictures[-1].name]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, SIDE, SIDE])
    wanted = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(net.nodes, "random", [given], wanted, net.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=7)
    onnx.checker.check_model(inferred := onnx.shape_inference.infer_shapes(model, strict_mode=True))
    return inferred
