"""Layers that a person wants left dense, by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

import onnx

from pipelines.errors import PipelineError
from pipelines.graph.weights import split
from pipelines.sparsity.pattern import NMPattern


def kept_layers(model: onnx.ModelProto, pattern: NMPattern, asked: Sequence[str]) -> frozenset[str]:
    """Node names of the layers that `asked` names, by node or by weight; `*` and `?` as in a shell.

    PipelineError for a name that no layer which takes the pattern has.
    """
    layers = split(model, pattern)[0]
    kept: set[str] = set()
    for name in asked:
        found = {one.node for one in layers if fnmatchcase(one.node, name) or fnmatchcase(one.initializer, name)}
        if not found:
            near = difflib.get_close_matches(name, [one.node for one in layers], n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(near)}? " if near else ""
            raise PipelineError(
                f"--keep: no layer that takes {pattern} is called {name!r}", f"{hint}sparsify.json of a run names them"
            )
        kept |= found
    return frozenset(kept)
