"""Every family of operators: which channels go together, and that any order of them leaves onnxruntime's outputs.

A case lists its permutable groups and, for the others, a piece of the reason. Each place is needed: leaving one out
changes the outputs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from pipelines.graph.groups import ChannelGroup, channel_groups
from tests.pipelines.reordering import difference, graph, reordered

A = "a = Conv <pads=[1,1,1,1]> (x, w) "  # 8 channels out of 4
IN, OUT = "it is an input of the graph", "it is an output of the graph"
ENDS = {"inputs of Conv of a": IN, "Conv of out": OUT}
W = (8, 4, 3, 3)
ONES = np.ones(1, np.float32)


def ints(*values: int) -> Any:
    return np.asarray(values, np.int64)


# name: (text, weights, permutable groups, reasons of the others, further arguments of `graph`)
CASES: dict[str, tuple[str, dict[str, Any], dict[str, int], dict[str, str], dict[str, Any]]] = {
    "conv": (A + "r = Relu(a) out = Conv(r, v)", {"w": W, "v": (6, 8, 1, 1)}, {"Conv of a": 8}, ENDS, {}),
    "bias": (
        "a = Conv <pads=[1,1,1,1]> (x, w, b) r = Relu(a) out = Conv(r, v)",
        {"w": W, "b": (8,), "v": (6, 8, 1, 1)},
        {"Conv of a": 8},
        ENDS,
        {},
    ),
    "residual": (
        A + "r = Relu(a) b = Conv <pads=[1,1,1,1]> (r, u) s = Add(a, b) t = Relu(s) out = Conv(t, v)",
        {"w": W, "u": (8, 8, 3, 3), "v": (6, 8, 1, 1)},
        {"Conv of a": 8},
        ENDS,
        {},
    ),
    "concat": (
        A + "b = Conv <pads=[1,1,1,1]> (x, u) c = Concat <axis=1> (a, b) out = Conv(c, v)",
        {"w": W, "u": (5, 4, 3, 3), "v": (6, 13, 1, 1)},
        {"Conv of a": 8, "Conv of b": 5},
        ENDS,
        {},
    ),
    "split": (
        A + "p, q = Split <axis=1> (a, s) r = Relu(p) c = Conv(r, u) out = Conv(q, v)",
        {"w": W, "s": ints(3, 5), "u": (6, 3, 1, 1), "v": (6, 5, 1, 1)},
        {"Conv of a[0:3]": 3, "Conv of a[3:8]": 5},
        {**ENDS, "Conv of c": OUT},
        {"made": "out c"},
    ),
    "slice": (
        A + "p = Slice(a, from, to, at) q = Slice(a, start, from, at) c = Conv(q, u) out = Conv(p, v)",
        {
            "w": W,
            "start": ints(0),
            "from": ints(-6),
            "to": ints(2**62),
            "at": ints(1),
            "u": (5, 2, 1, 1),
            "v": (6, 6, 1, 1),
        },
        {"Conv of a[0:2]": 2, "Conv of a[2:8]": 6},
        {**ENDS, "Conv of c": OUT},
        {"made": "out c"},
    ),
    "slice with a step": (
        A + "p = Slice(a, from, to, at, step) r = DepthToSpace <blocksize=1> (p) out = Conv(r, v)",
        {"w": (256, 4, 3, 3), "from": ints(1), "to": ints(256), "at": ints(1), "step": ints(2), "v": (6, 128, 1, 1)},
        {"Conv of a": 128},
        ENDS,
        {},
    ),
    "gather of runs": (
        A + "p = Gather <axis=1> (a, i) out = Conv(p, v)",
        {"w": W, "i": ints(4, 5, 6, 7, 0, 1, 2, 3), "v": (6, 8, 1, 1)},
        {"Conv of a[0:4]": 4, "Conv of a[4:8]": 4},
        ENDS,
        {},
    ),
    "depthwise": (
        A + "d = Conv <group=8> (a, u, b) out = Conv(d, v)",
        {"w": W, "u": (16, 1, 3, 3), "b": (16,), "v": (6, 16, 1, 1)},
        {"Conv of a": 8},
        ENDS,
        {},
    ),
    "grouped": (
        A + "d = Conv <group=2> (a, u, b) out = Conv(d, v)",
        {"w": W, "u": (6, 4, 3, 3), "b": (6,), "v": (6, 6, 1, 1)},
        {"Conv of a[0:4]": 4, "Conv of a[4:8]": 4, "Conv of d[0:3]": 3, "Conv of d[3:6]": 3},
        ENDS,
        {},
    ),
    "transposed": (
        A + "d = ConvTranspose(a, u, b) out = Conv(d, v)",
        {"w": W, "u": (8, 6, 2, 2), "b": (6,), "v": (6, 6, 1, 1)},
        {"Conv of a": 8, "ConvTranspose of d": 6},
        ENDS,
        {},
    ),
    "grouped transposed": (
        A + "d = ConvTranspose <group=2> (a, u, b) out = Conv(d, v)",
        {"w": W, "u": (8, 3, 2, 2), "b": (6,), "v": (6, 6, 1, 1)},
        {
            "Conv of a[0:4]": 4,
            "Conv of a[4:8]": 4,
            "ConvTranspose of d of rows [0:4]": 3,
            "ConvTranspose of d of rows [4:8]": 3,
        },
        ENDS,
        {},
    ),
    "depthwise transposed": (
        A + "d = ConvTranspose <group=8> (a, u) out = Conv(d, v)",
        {"w": W, "u": (8, 2, 2, 2), "v": (6, 16, 1, 1)},
        {"Conv of a": 8},
        ENDS,
        {},
    ),
    "norms": (
        A + "n = BatchNormalization(a, s, b, m, d) r = Relu(n) k = InstanceNormalization(r, s2, b2) out = Conv(k, v)",
        {"w": W, "v": (6, 8, 1, 1), **dict.fromkeys(("s", "b", "m", "d", "s2", "b2"), (8,))},
        {"Conv of a": 8},
        ENDS,
        {},
    ),
    "slope and constants": (
        A + "p = PRelu(a, s) m = Mul(c, p) d = Div(m, e) t = Pow(d, two) out = Conv(t, v)",
        {"w": W, "s": (8, 1, 1), "c": (1, 8, 1, 1), "e": (), "two": ONES * 2, "v": (6, 8, 1, 1)},
        {"Conv of a": 8},
        ENDS,
        {},
    ),
    "where and clip": (
        A + "l = Less(a, c) p = Where(l, a, e) k = Clip(p, low) y = Sum(k, c, a) out = Conv(y, v)",
        {"w": W, "c": (8, 1, 1), "e": (8, 1, 1), "low": np.float32(-1), "v": (6, 8, 1, 1)},
        {"Conv of a": 8},
        ENDS,
        {},
    ),
    "flatten": (
        A + "f = Flatten(a) out = Gemm <transB=1> (f, v, b)",
        {"w": W, "v": (6, 288), "b": (6,)},
        {"Conv of a": 8},
        {"inputs of Conv of a": IN, "Gemm of out": OUT},
        {},
    ),
    "gemm": (
        A + "g = GlobalAveragePool(a) f = Flatten(g) h = Gemm(f, u, b) r = Relu(h) out = Gemm <transA=1> (v, r)",
        {"w": W, "u": (8, 5), "b": (1, 5), "v": (1, 6)},
        {"Conv of a": 8},
        {"inputs of Conv of a": IN, "Gemm of h": OUT, "Gemm of out": OUT},
        {},
    ),
    "matmul on either side": (
        A + "f = Reshape(a, t) y = MatMul(u, f) r = Relu(y) out = MatMul(v, r)",
        {"w": W, "t": ints(8, 36), "u": (5, 8), "v": (6, 5)},
        {"Conv of a": 8, "MatMul of y": 5},
        {"inputs of Conv of a": IN, "MatMul of out": OUT},
        {},
    ),
    "tokens": (
        A
        + """f = Reshape(a, t) y = Transpose <perm=[0,2,1]> (f) p = Add(y, e) m = ReduceMean <axes=[-1]> (p)
        d = Sub(p, m) s = Mul(d, d) k = ReduceMean <axes=[2]> (s) z = Add(k, eps) q = Sqrt(z) n = Div(d, q)
        g = Mul(n, gain) h = Add(g, bias) out = MatMul(h, v)""",
        {
            "w": W,
            "t": ints(0, 8, -1),
            "e": (1, 36, 8),
            "eps": ONES * 1e-5,
            "gain": (8,),
            "bias": (8,),
            "v": (8, 6),
        },
        {"Conv of a": 8},
        {"inputs of Conv of a": IN, "MatMul of out": OUT},
        {},
    ),
    "layer norm": (
        "a = MatMul(x, w) n = LayerNormalization(a, gain, bias) out = MatMul(n, v)",
        {"w": (4, 8), "gain": (8,), "bias": (8,), "v": (8, 6)},
        {"MatMul of a": 8},
        {"inputs of MatMul of a": IN, "MatMul of out": OUT},
        {"given": "float[2,5,4] x", "opset": 17},
    ),
    "group norm of torch": (
        A
        + """f = Reshape(a, t) n = InstanceNormalization(f, s, b) y = Reshape(n, t2) m = Mul(y, gain) k = Add(m, bias)
        out = Conv(k, v)""",
        {
            "w": W,
            "t": ints(0, 2, -1),
            "s": np.ones(2, np.float32),
            "b": np.zeros(2, np.float32),
            "t2": ints(1, 8, 6, 6),
            "gain": (8, 1, 1),
            "bias": (8, 1, 1),
            "v": (6, 8, 1, 1),
        },
        {"Conv of a[0:4]": 4},
        ENDS,
        {},
    ),
    "attention": (
        """a = MatMul(x, w) h = Reshape(a, t) y = Transpose <perm=[2,0,3,1,4]> (h)
        q = Gather <axis=0> (y, zero) k = Gather <axis=0> (y, one) u = Gather <axis=0> (y, two)
        l = Transpose <perm=[0,1,3,2]> (k) m = MatMul(q, l) s = Softmax <axis=-1> (m) c = MatMul(s, u)
        d = Transpose <perm=[0,2,1,3]> (c) e = Reshape(d, t2) out = MatMul(e, v)""",
        {
            "w": (4, 24),
            "t": ints(2, 5, 3, 2, 4),
            "t2": ints(2, 5, 8),
            "v": (8, 6),
            **{name: np.int64(at) for at, name in enumerate(("zero", "one", "two"))},
        },
        {"MatMul of a[0:4]": 4},
        {"inputs of MatMul of a": IN, "MatMul of out": OUT},
        {"given": "float[2,5,4] x"},
    ),
    "channel shuffle": (
        A
        + """b = Conv <pads=[1,1,1,1]> (x, u) c = Concat <axis=1> (a, b) r = Reshape(c, t)
        y = Transpose <perm=[0,2,1,3,4]> (r) s = Reshape(y, t2) p, q = Split <axis=1> (s) d = Conv(p, k)
        out = Conv(q, v)""",
        {
            "w": W,
            "u": W,
            "t": ints(1, 2, 8, 6, 6),
            "t2": ints(1, 16, 6, 6),
            "k": (5, 8, 1, 1),
            "v": (6, 8, 1, 1),
        },
        {"Conv of a[0:4]": 4, "Conv of a[4:8]": 4},
        {**ENDS, "Conv of d": OUT},
        {"made": "out d"},
    ),
    "squeeze and excite": (
        A
        + """g = ReduceMean <axes=[2,3], keepdims=0> (a) h = Gemm(g, u) r = Relu(h) k = Gemm(r, p) e = HardSigmoid(k)
        i = Unsqueeze(e, at) m = Mul(a, i) out = Conv(m, v)""",
        {"w": W, "u": (8, 3), "p": (3, 8), "at": ints(2, 3), "v": (6, 8, 1, 1)},
        {"Conv of a": 8, "Gemm of h": 3},
        ENDS,
        {},
    ),
    "pooling, resizing and padding": (
        A
        + """m = MaxPool <kernel_shape=[2,2], strides=[2,2]> (a) r = Resize(m, , scales)
        p = Pad <mode="reflect"> (r, pads) k = AveragePool <kernel_shape=[2,2]> (p) out = Conv(k, v)""",
        {
            "w": W,
            "scales": np.asarray([1, 1, 2, 2], np.float32),
            "pads": ints(0, 0, 1, 1, 0, 0, 1, 1),
            "v": (6, 8, 1, 1),
        },
        {"Conv of a": 8},
        ENDS,
        {},
    ),
    "padded channels": (
        A + "p = Pad(a, pads, one) b = Conv <pads=[1,1,1,1]> (x, u) s = Add(p, b) out = Conv(s, v)",
        {"w": W, "one": ONES[0], "pads": ints(0, 2, 0, 0, 0, 3, 0, 0), "u": (13, 4, 3, 3), "v": (6, 13, 1, 1)},
        {"Conv of a": 8, "Conv of b[0:2]": 2, "Conv of b[10:13]": 3},
        ENDS,
        {},
    ),
    "blocks of positions": (
        A
        + """d = DepthToSpace <blocksize=2, mode="CRD"> (a) e = Conv(d, u) s = SpaceToDepth <blocksize=2> (e)
        k = Conv(s, p) y = DepthToSpace <blocksize=2> (k) out = Conv(y, v)""",
        {"w": (12, 4, 3, 3), "u": (5, 3, 1, 1), "p": (12, 20, 1, 1), "v": (6, 3, 1, 1)},
        {"Conv of a": 3, "Conv of e": 5, "Conv of k[0:3]": 3},
        ENDS,
        {},
    ),
    "einsum": (
        """a = MatMul(x, w) b = MatMul(x, u) s = Einsum <equation="bic,bjc->bij"> (a, b)
        c = MatMul(x, k) t = Einsum <equation="bij,bjc->bic"> (s, c) out = Einsum <equation="bic,ck->bik"> (t, v)""",
        {"w": (4, 8), "u": (4, 8), "k": (4, 5), "v": (5, 6)},
        {"MatMul of a": 8, "MatMul of c": 5},
        {"inputs of MatMul of a": IN, "Einsum of out": OUT},
        {"given": "float[2,3,4] x"},
    ),
    "recurrent": (
        """a = MatMul(x, w) h, l, c = LSTM <hidden_size=5, direction="bidirectional"> (a, k, r, b)
        y = Transpose <perm=[0,2,1,3]> (h) z = Reshape(y, t) g = GRU <hidden_size=3> (z, k2, r2) s = Squeeze(g, one)
        out = MatMul(s, v)""",
        {
            "w": (4, 6),
            "k": (2, 20, 6),
            "r": (2, 20, 5),
            "b": (2, 40),
            "t": ints(0, 0, -1),
            "k2": (1, 9, 10),
            "r2": (1, 9, 3),
            "one": ints(1),
            "v": (3, 6),
        },
        {"MatMul of a": 6, "LSTM of h[0:5]": 5, "GRU of g[0:3]": 3},
        {"inputs of MatMul of a": IN, "MatMul of out": OUT},
        {"given": "float[3,2,4] x"},
    ),
    "quantised": (
        """f = DequantizeLinear <axis=0> (w, s, z) a = Conv(x, f, b) q = QuantizeLinear(a, sa, za)
        d = DequantizeLinear(q, sa, za) g = DequantizeLinear <axis=0> (v, sv, zv) out = Conv(d, g)""",
        {
            "w": np.arange(-72, 72, dtype=np.int8).reshape(8, 2, 3, 3)[:, [0, 1, 0, 1]],
            "s": (8,),
            "z": np.arange(8, dtype=np.int8),
            "b": (8,),
            "sa": np.float32(20),
            "za": np.uint8(100),
            "v": np.arange(-24, 24, dtype=np.int8).reshape(6, 8, 1, 1),
            "sv": (6,),
            "zv": np.zeros(6, np.int8),
        },
        {"Conv of a": 8},
        ENDS,
        {},
    ),
    "quantised, grouped": (
        A + "u = DequantizeLinear <axis=0> (w2, s, z) d = Conv <group=2> (a, u) out = Conv(d, v)",
        {
            "w": W,
            "w2": np.arange(-12, 12, dtype=np.int8).reshape(6, 4, 1, 1),
            "s": (6,),
            "z": np.arange(6, dtype=np.int8),
            "v": (6, 6, 1, 1),
        },
        {"Conv of a[0:4]": 4, "Conv of a[4:8]": 4, "Conv of d[0:3]": 3, "Conv of d[3:6]": 3},
        ENDS,
        {},
    ),
    "tile and expand": (
        A + "t = Tile(a, r) g = GlobalMaxPool(t) e = Expand(g, to) m = Add(e, t) out = Conv(m, v)",
        {"w": W, "r": ints(1, 2, 1, 1), "to": ints(1, 16, 6, 6), "v": (6, 16, 1, 1)},
        {"Conv of a": 8},
        ENDS,
        {},
    ),
    "shared weight": (
        A
        + "r = Relu(a) b = Conv <pads=[1,1,1,1]> (r, u) k = Relu(b) c = Conv <pads=[1,1,1,1]> (k, u) out = Conv(c, v)",
        {"w": W, "u": (8, 8, 3, 3), "v": (6, 8, 1, 1)},
        {"Conv of a": 8},
        ENDS,
        {},
    ),
    "transposed weight": (
        "y = Transpose <perm=[1,0]> (w) a = MatMul(x, y) r = Relu(a) out = MatMul(r, v)",
        {"w": (8, 4), "v": (8, 6)},
        {"MatMul of a": 8},
        {"inputs of MatMul of a": IN, "MatMul of out": OUT},
        {"given": "float[3,4] x"},
    ),
    "embedding": (
        "a = Gather(w, x) r = Relu(a) out = MatMul(r, v)",
        {"w": (10, 8), "v": (8, 6)},
        {"Gather of a": 8},
        {"MatMul of out": OUT},
        {"given": "int64[2,3] x"},
    ),
    "shape arithmetic": (
        A
        + """s = Shape(a) n = Gather(s, zero) n1 = Unsqueeze(n, at) c = Gather(s, one) h = Div(c, two)
        c1 = Unsqueeze(h, at) k = Mul(c1, two) t = Concat <axis=0> (n1, c1, rest) f = Reshape(a, t)
        p = Slice(f, at, c1, one1) g = Mul(p, p) y = ReduceSum(g, last) z = Squeeze(y, last) out = MatMul(z, v)""",
        {
            "w": W,
            "zero": np.int64(0),
            "one": np.int64(1),
            "two": np.int64(2),
            "at": ints(0),
            "one1": ints(1),
            "rest": ints(-1),
            "last": ints(2),
            "v": (4, 6),
        },
        {"Conv of a": 4},
        {"inputs of Conv of a": IN, "MatMul of out": OUT},
        {},
    ),
    "unknown batch": (
        A
        + """g = GlobalAveragePool(a) f = Flatten(g) t = Reshape(f, s) k = Softmax(t) y = Reshape(k, s2)
        out = MatMul(y, v)""",
        {"w": W, "s": ints(0, 2, -1), "s2": ints(-1, 8), "v": (8, 6)},
        {"Conv of a[0:4]": 4},
        {"inputs of Conv of a": IN, "MatMul of out": OUT},
        {"given": "float[N,4,H,K] x"},
    ),
    # what pins
    "response to neighbours": (
        A + "n = LRN <size=3> (a) out = Conv(n, v)",
        {"w": W, "v": (6, 8, 1, 1)},
        {},
        {**ENDS, "Conv of a": "LRN of n (LRN) mixes neighbouring channels"},
        {},
    ),
    "positions of a maximum": (
        A
        + """m = ArgMax <axis=1> (a) k = Cast <to=1> (m) b = Conv <pads=[1,1,1,1]> (x, u) y, i = TopK <axis=1> (b, n)
        out = Add(k, y)""",
        {"w": W, "u": W, "n": ints(1)},
        {},
        {"inputs of Conv of a": IN, "Conv of a": "ArgMax", "Conv of b": "TopK"},
        {},
    ),
    "running sum": (
        A + "c = CumSum(a, at) out = Conv(c, v)",
        {"w": W, "at": np.int64(1), "v": (6, 8, 1, 1)},
        {},
        {**ENDS, "Conv of a": "CumSum of c (CumSum) depends on the order along it"},
        {},
    ),
    "single channels": (
        A + "g = Gather <axis=1> (a, i) out = Conv(g, v)",
        {"w": (128, 4, 3, 3), "i": ints(*range(127, -1, -1)), "v": (6, 128, 1, 1)},
        {},
        {**ENDS, "Conv of a": "takes single channels", "inputs of Conv of out": "takes single channels"},
        {},
    ),
    "weights over positions": (
        A + "f = Reshape(a, t) y = MatMul(f, u) r = Relu(y) z = MatMul(r, p) out = MatMul(z, q)",
        {"w": W, "t": ints(1, 8, 36), "u": (36, 5), "p": (5, 3), "q": (3, 2)},
        {"MatMul of y": 5, "MatMul of z": 3},
        {
            "inputs of Conv of a": IN,
            "Conv of a": OUT,
            "inputs of MatMul of y": "positions in a picture",
            "MatMul of out": OUT,
        },
        {},
    ),
    "nested graph": (
        A
        + """k = ReduceMax <keepdims=0> (a) y = Greater(k, k) out = If <
        then_branch = one () => (float[1] r1) { r1 = Relu(a) }, else_branch = two () => (float[1] r2) { r2 = Neg(a) }
        > (y)""",
        {"w": W},
        {},
        {"inputs of Conv of a": IN, "Conv of a": "If of out is a If with a graph inside"},
        {},
    ),
}


def case(name: str) -> tuple[Any, dict[str, int], dict[str, str]]:
    text, weights, permutable, others, further = CASES[name]
    return graph(text, **further, **weights), permutable, others


@pytest.mark.parametrize("name", CASES)
def test_groups_and_reasons_are_these(name: str) -> None:
    model, permutable, others = case(name)
    groups = channel_groups(model)
    assert {group.name: group.size for group in groups if group.permutable} == permutable
    assert {group.name for group in groups if not group.permutable} == set(others)
    for group in groups:
        assert others.get(group.name, "") in group.reason


@pytest.mark.parametrize("name", CASES)
def test_any_order_of_permutable_groups_leaves_the_outputs(name: str) -> None:
    model, permutable, _ = case(name)
    changed = reordered(model)
    assert difference(model, changed) < 1e-5
    assert (changed.SerializeToString() == model.SerializeToString()) == (not permutable)


@pytest.mark.parametrize("name", CASES)
def test_every_place_is_needed(name: str) -> None:
    model, *_ = case(name)
    for group in channel_groups(model):
        if group.permutable:
            for place in group.places:
                rest = tuple(one for one in group.places if one != place)
                left_out: ChannelGroup = dataclasses.replace(group, places=rest)
                assert difference(model, reordered(model, [left_out], seed=1)) > 1e-4, (group.name, place)
