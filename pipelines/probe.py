"""What a set of versions can do together: `python -m pipelines.probe JSON` imports, exports, checks and runs.

The argument is {"imports": [...], "tries": [{"exporter", "opset", "irs"}, ...]}; the answer is a list of results, as
JSON on the last line of stdout. It needs nothing but the packages under test, and takes part in no run.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MODULES = {"protobuf": "google.protobuf", "ml-dtypes": "ml_dtypes"}  # package -> module where the names differ
SIDE = 64  # pixels of the picture that the network is shown
LONGEST = 200  # characters of an error
TOLERANCE = 1e-4  # of the largest output: float32 through some fifty layers

IMPORT = """
import importlib, json, sys
package, module, modules = json.loads(sys.argv[1])
error = ""
try:
    importlib.import_module(module)
    if package == "torch":
        import torch
        torch.from_numpy(torch.ones(2).numpy())  # built for another NumPy, it imports and then can't
except BaseException as failure:
    lines = str(failure).strip().splitlines() or [""]
    error = f"{type(failure).__name__}: {lines[0]}"
loaded = [name for name, one in modules.items() if one in sys.modules and name != package]
print(json.dumps({"loaded": loaded, "error": error}))
"""


def main() -> int:
    """Answer on stdout; what goes wrong in a package is an answer too."""
    asked = json.loads(sys.argv[1])
    results = [try_import(package, asked["imports"]) for package in asked["imports"]]
    broken = {one["package"] for one in results if one["error"]}
    if not broken & {"torch", "torchvision", "onnx"}:
        results += try_exports(asked["tries"], runs="onnxruntime" not in broken)
    sys.stdout.write(json.dumps(results) + "\n")
    return 0


def try_import(package: str, packages: list[str]) -> dict[str, Any]:
    """Import it in a process of its own, and see which of the others that brought in."""
    modules = {name: MODULES.get(name, name) for name in packages}
    argument = json.dumps([package, modules[package], modules])
    done = subprocess.run([sys.executable, "-c", IMPORT, argument], capture_output=True, text=True, check=False)
    try:
        told = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        told = {"loaded": [], "error": f"the process ended with {done.returncode}"}
    error = told["error"]
    if error.endswith(": ") and (said := done.stderr.strip().splitlines()):
        error += said[-1]  # NumPy tells stderr why it is not taken, and raises an ImportError without a word
    return {"what": "import", "package": package, "loaded": sorted(told["loaded"]), "error": one_line(error)}


def try_exports(tries: list[dict[str, Any]], runs: bool) -> list[dict[str, Any]]:
    """Export the same network once per try; check each file and run it."""
    network, picture, expected = make_network()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(tries):
            results += try_export(network, picture, expected, one, Path(folder, f"{number}.onnx"), runs)
    return results


def try_export(
    network: Any, picture: Any, expected: Any, one: dict[str, Any], path: Path, runs: bool
) -> list[dict[str, Any]]:
    """The results of one export: as it was written, and with the IR versions asked for."""
    import onnx

    about = {"exporter": one["exporter"], "opset": one["opset"]}
    try:
        export(network, picture, one["exporter"], one["opset"], path)
        model = onnx.load(str(path))
        written = {entry.domain: entry.version for entry in model.opset_import}.get("")
        error = "" if written == one["opset"] else f"wrote opset {written}"
    except Exception as failure:
        return [{"what": "export", **about, "error": one_line(failure)}]
    results: list[dict[str, Any]] = [{"what": "export", **about, "ir": model.ir_version, "error": error}]
    for ir_version in [] if error else dict.fromkeys((model.ir_version, *one["irs"])):
        model.ir_version = ir_version
        results.append({"what": "check", **about, "ir": ir_version, "error": check(model)})
        if runs:
            results.append({"what": "run", **about, "ir": ir_version, **run(model, picture, expected)})
    return results


def make_network() -> tuple[Any, Any, Any]:
    """A MobileNetV3 with seeded weights and normalised activations, a picture [1, 3, 64, 64] and its output [1, 1000].

    Without the pass in training mode its activations would fade layer by layer, and any two outputs be alike.
    """
    import torch
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v3_small()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(16, 3, SIDE, SIDE))
        picture = torch.randn(1, 3, SIDE, SIDE)
        expected = network.eval()(picture).numpy()
    return network, picture, expected


def export(network: Any, picture: Any, exporter: str, opset: int, path: Path) -> None:
    """By torch's own exporter of that name."""
    import torch

    knows = "dynamo" in inspect.signature(torch.onnx.export).parameters
    if exporter == "dynamo" and not knows:
        raise ValueError("torch.onnx.export has no dynamo exporter")
    more: dict[str, Any] = {"dynamo": exporter == "dynamo"} if knows else {}
    with torch.no_grad():
        torch.onnx.export(network, (picture,), str(path), opset_version=opset, input_names=["picture"], **more)


def check(model: Any) -> str:
    """What onnx.checker has against it; "" for nothing."""
    import onnx

    try:
        onnx.checker.check_model(model)
    except Exception as failure:
        return one_line(failure)
    return ""


def run(model: Any, picture: Any, expected: Any) -> dict[str, Any]:
    """onnxruntime's largest difference to torch as a share of the largest output, or why there is none."""
    import numpy as np
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {session.get_inputs()[0].name: picture.numpy()})
    except Exception as failure:
        return {"error": one_line(failure)}
    difference = float(np.abs(output - expected).max() / np.abs(expected).max())
    error = "" if difference <= TOLERANCE else f"differs from torch by {difference:.1e} of the largest output"
    return {"max_difference": float(f"{difference:.2e}"), "error": error}


def one_line(failure: object) -> str:
    """The first line of an error, without this machine's paths; of a long one the middle is left out."""
    text = str(failure) if isinstance(failure, str) else f"{type(failure).__name__}: {failure}"
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = re.sub(r"/\S*/", "", line)
    return line if len(line) <= LONGEST else f"{line[:40]} ... {line[-(LONGEST - 45) :]}"


if __name__ == "__main__":
    sys.exit(main())
