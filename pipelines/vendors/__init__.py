"""The toolchains, by name. An adapter's module is imported when it is asked for."""

from __future__ import annotations

import importlib

from pipelines.errors import PipelineError
from pipelines.vendors.base import Vendor

MODULES = {
    "acuity": "pipelines.vendors.acuity",
    "mnn": "pipelines.vendors.mnn",
    "ncnn": "pipelines.vendors.ncnn",
    "openvino": "pipelines.vendors.openvino",
    "rknn": "pipelines.vendors.rknn",
    "sigmastar": "pipelines.vendors.sigmastar",
    "tpu-mlir": "pipelines.vendors.tpu_mlir",
    "vela": "pipelines.vendors.vela",
}


# toolchains that run in an image of their vendor's, and what is said where that is not there
ABSENT = {"sigmastar": "SigmaStar SDK not present, add it with `invoke sdk add sigmastar PATH`"}


def vendor(name: str) -> Vendor:
    """The adapter of that toolchain. PipelineError where there is none."""
    if name not in MODULES:
        raise PipelineError(f"no toolchain is called {name!r}", f"these are: {', '.join(MODULES)}")
    found: Vendor = importlib.import_module(MODULES[name]).VENDOR
    return found
