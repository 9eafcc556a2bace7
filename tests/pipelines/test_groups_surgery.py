"""Axes cut, merged, moved and mixed at random: whatever comes out, any order of its groups leaves the outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from pipelines.graph.groups import channel_groups
from tests.pipelines.reordering import difference, reordered

Shape = tuple[int, ...]


class Surgery:
    """A graph in the making. `x` is the tensor at hand; every step makes another of it."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.seen: list[tuple[str, Shape]] = []
        self.name, self.shape = "x", (1, 4, 3, 4)
        self.convolution()

    def pick(self, *options: Any) -> Any:
        return options[self.random.integers(len(options))]

    def weight(self, array: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(array), f"w{len(self.weights)}"))
        return f"w{len(self.weights) - 1}"

    def normal(self, *shape: int) -> str:
        return self.weight(self.random.standard_normal(shape).astype(np.float32))

    def node(self, op: str, *others: str, shape: Shape, **attributes: Any) -> None:
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [self.name, *others], [out], **attributes))
        self.name, self.shape = out, shape
        self.seen.append((out, shape))

    def convolution(self) -> None:
        if len(self.shape) == 4:
            outputs = self.pick(4, 6, 8, 12)
            self.node(
                "Conv", self.normal(outputs, self.shape[1], 1, 1), shape=(self.shape[0], outputs, *self.shape[2:])
            )

    def grouped(self) -> None:
        if len(self.shape) == 4 and self.shape[1] % 2 == 0:
            groups = self.pick(2, self.shape[1])
            outputs = groups * self.pick(1, 2, 3)
            weight = self.normal(outputs, self.shape[1] // groups, 1, 1)
            self.node("Conv", weight, shape=(self.shape[0], outputs, *self.shape[2:]), group=groups)

    def matmul(self) -> None:
        outputs = self.pick(4, 6, 8)
        self.node("MatMul", self.normal(self.shape[-1], outputs), shape=(*self.shape[:-1], outputs))

    def with_itself(self) -> None:
        if len(self.shape) > 2:
            flipped = [*range(len(self.shape) - 2), len(self.shape) - 1, len(self.shape) - 2]
            mine, shape = self.name, self.shape
            self.node("Transpose", shape=(*shape[:-2], shape[-1], shape[-2]), perm=flipped)
            other = self.name
            self.name = mine
            self.node("MatMul", other, shape=(*shape[:-1], shape[-2]))
            self.node("Softmax", shape=self.shape)  # squares of squares would overflow

    def transpose(self) -> None:
        order = [int(axis) for axis in self.random.permutation(len(self.shape))]
        self.node("Transpose", shape=tuple(self.shape[axis] for axis in order), perm=order)

    def split_axis(self) -> None:
        axis = int(self.random.integers(len(self.shape)))
        factors = [one for one in (2, 3, 4) if self.shape[axis] % one == 0]
        if factors and len(self.shape) < 6:
            first = self.pick(*factors)
            self.reshape((*self.shape[:axis], first, self.shape[axis] // first, *self.shape[axis + 1 :]))

    def merge_axes(self) -> None:
        axis = int(self.random.integers(len(self.shape) - 1)) if len(self.shape) > 2 else None
        if axis is not None:
            self.reshape((*self.shape[:axis], self.shape[axis] * self.shape[axis + 1], *self.shape[axis + 2 :]))

    def refold(self) -> None:
        """Across all borders."""
        size = int(np.prod(self.shape))
        first = self.pick(*(one for one in range(1, size + 1) if size % one == 0))
        self.reshape((first, size // first))

    def reshape(self, shape: Shape) -> None:
        self.node("Reshape", self.weight(np.asarray(shape, np.int64)), shape=shape)

    def slice_axis(self) -> None:
        axis = int(self.random.integers(len(self.shape)))
        if self.shape[axis] > 2:
            start, stop, step = int(self.random.integers(0, 2)), self.shape[axis] - self.pick(0, 1), self.pick(1, 1, 2)
            bounds = [self.weight(np.asarray([one], np.int64)) for one in (start, stop, axis, step)]
            kept = len(range(start, stop, step))
            self.node("Slice", *bounds, shape=(*self.shape[:axis], kept, *self.shape[axis + 1 :]))

    def roll_and_add(self) -> None:
        axis = int(self.random.integers(len(self.shape)))
        length = self.shape[axis]
        if length > 1:
            index = np.roll(np.arange(length), self.pick(1, length // 2))
            mine = self.name
            self.node("Gather", self.weight(index.astype(np.int64)), shape=self.shape, axis=axis)
            self.node("Add", mine, shape=self.shape)

    def concat(self) -> None:
        axis = int(self.random.integers(len(self.shape)))
        fits = [
            (name, shape)
            for name, shape in self.seen
            if len(shape) == len(self.shape)
            and shape[:axis] + shape[axis + 1 :] == self.shape[:axis] + self.shape[axis + 1 :]
        ]
        if fits and np.prod(self.shape) < 2000:
            name, shape = self.pick(*fits)
            both = self.shape[axis] + shape[axis]
            self.node("Concat", name, shape=(*self.shape[:axis], both, *self.shape[axis + 1 :]), axis=axis)

    def add_earlier(self) -> None:
        fits = [name for name, shape in self.seen if shape == self.shape]
        if fits:
            self.node("Add", self.pick(*fits), shape=self.shape)

    def scale(self) -> None:
        axis = int(self.random.integers(len(self.shape)))
        self.node("Mul", self.normal(self.shape[axis], *[1] * (len(self.shape) - axis - 1)), shape=self.shape)

    def tile(self) -> None:
        if np.prod(self.shape) < 1000:
            times = [int(one) for one in self.random.integers(1, 3, len(self.shape))]
            shape = tuple(one * length for one, length in zip(times, self.shape, strict=True))
            self.node("Tile", self.weight(np.asarray(times, np.int64)), shape=shape)

    def pad(self) -> None:
        pads = self.random.integers(0, 2, 2 * len(self.shape))
        shape = tuple(
            int(sum(one)) for one in zip(self.shape, pads[: len(self.shape)], pads[len(self.shape) :], strict=True)
        )
        self.node("Pad", self.weight(pads.astype(np.int64)), shape=shape, mode=self.pick("constant", "edge"))

    def reduce(self) -> None:
        if len(self.shape) > 2:
            axis = int(self.random.integers(len(self.shape)))
            shape = (*self.shape[:axis], *self.shape[axis + 1 :])
            self.node("ReduceMax", shape=shape, axes=[axis], keepdims=0)

    def soften(self) -> None:
        self.node(self.pick("Softmax", "Tanh", "Relu"), shape=self.shape)

    def back_to_a_picture(self) -> None:
        self.reshape((1, int(np.prod(self.shape)) // self.shape[-1], 1, self.shape[-1]))
        self.convolution()

    def finished(self) -> Any:
        self.reshape((1, int(np.prod(self.shape))))
        self.node("MatMul", self.normal(self.shape[1], 3), shape=(1, 3))
        given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 4, 3, 4))
        made = onnx.ValueInfoProto(name=self.name)
        net = helper.make_graph(self.nodes, "surgery", [given], [made], self.weights)
        return helper.make_model(net, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


STEPS: list[Callable[[Surgery], None]] = [
    Surgery.add_earlier,
    Surgery.back_to_a_picture,
    Surgery.concat,
    Surgery.convolution,
    Surgery.grouped,
    Surgery.matmul,
    Surgery.merge_axes,
    Surgery.pad,
    Surgery.reduce,
    Surgery.refold,
    Surgery.roll_and_add,
    Surgery.scale,
    Surgery.slice_axis,
    Surgery.soften,
    Surgery.split_axis,
    Surgery.tile,
    Surgery.transpose,
    Surgery.with_itself,
]


def surgery(seed: int, steps: list[int]) -> Any:
    made = Surgery(seed)
    for step in steps:
        STEPS[step](made)
    return made.finished()


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, len(STEPS) - 1), min_size=1, max_size=10))
def test_any_order_of_permutable_groups_leaves_the_outputs(seed: int, steps: list[int]) -> None:
    model = surgery(seed, steps)
    assert difference(model, reordered(model, seed=seed)) < 1e-3


def test_surgery_leaves_groups_that_may_be_reordered() -> None:
    random = np.random.default_rng(0)
    free = [
        any(group.permutable for group in channel_groups(surgery(seed, list(random.integers(0, len(STEPS), 5)))))
        for seed in range(60)
    ]
    assert sum(free) > 20
