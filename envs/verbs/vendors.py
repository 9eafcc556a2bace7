"""`vendors`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from envs.cli import print_json
from envs.display import mib, print_rows, print_title
from envs.errors import WrongUse

if TYPE_CHECKING:
    from envs.vendors import Toolchain

SHOWN = ("python", "torch", "torchvision", "onnx", "onnxruntime", "numpy", "protobuf", "opset", "ir")


def vendors(table: bool, model: str, markdown: bool, as_json: bool) -> int:
    """The toolchains, or what they made of a model."""
    if markdown and as_json:
        raise WrongUse("--markdown and --json exclude each other", "give one of them")
    if not table and (model or markdown):
        raise WrongUse(f"--{'model' if model else 'markdown'} is for --table", "give it too, or neither")
    return _table(model or "onnx_tv_resnet18", markdown, as_json) if table else _list(as_json)


def _list(as_json: bool) -> int:
    from envs.vendors import toolchains

    listed = toolchains()
    if as_json:
        print_json(listed)
    else:
        rows = [(one.name, one.title, one.runs, one.state, _size(one), _pins(one), one.next_step) for one in listed]
        print_rows(rows, ("TOOLCHAIN", "CONVERTER", "RUNS IN", "STATE", "SIZE", "PINS", "NEXT STEP"))
    return 0


def _size(one: Toolchain) -> str:
    if one.tree_bytes is not None:
        return mib(one.tree_bytes)
    return f"{mib(one.download_bytes)} to download" if one.download_bytes is not None else "-"


def _pins(one: Toolchain) -> str:
    """Those that have to fit each other; --json has all."""
    return ", ".join(f"{name} {one.pins[name]}" for name in SHOWN if name in one.pins)


def _table(model: str, markdown: bool, as_json: bool) -> int:
    from envs import vendor_table

    converted = vendor_table.newest(model)
    if as_json:
        print_json({"model": model, "conversions": converted})
    elif markdown:
        sys.stdout.write(vendor_table.markdown(model, converted))
    else:
        for title, headings, body in vendor_table.tables(model, converted):
            print_title(title)
            print_rows(body, headings)
    return 0
