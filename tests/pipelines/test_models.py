"""Models by name and by file, and what is said where they are not what they should be."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision
from conftest import MODULE, by_name
from onnx import TensorProto, helper, numpy_helper

from pipelines.contract import RunReport, RunRequest, Weights
from pipelines.errors import PipelineError
from pipelines.models import names
from pipelines.models.person import PersonsModel
from pipelines.models.tv import PREFIX, TorchvisionModel, builders
from pipelines.safe_load import load_state

Make = Callable[..., RunRequest]
Go = Callable[..., RunReport]


def test_every_classification_model_of_torchvision_is_there() -> None:
    known = builders()
    assert {"resnet18", "mobilenet_v2", "vit_b_16", "inception_v3", "alexnet", "densenet121"} <= set(known)
    assert not any("rcnn" in name or "deeplab" in name or "raft" in name for name in known)
    listed = getattr(torchvision.models, "list_models", None)  # since 0.14
    if listed is not None:
        assert set(known) == set(listed(module=torchvision.models))


def test_every_model_declares_its_preprocessing() -> None:
    for name in builders():
        how = TorchvisionModel(PREFIX + name).preprocessing()
        assert 0 < how.crop <= how.resize, name
        assert how.interpolation in ("bilinear", "bicubic"), name


@pytest.mark.parametrize("name", ["onnx_tv_resnet81", "resnet18", "onnx_tv_"])
def test_an_unknown_name_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(PipelineError, match=f"no model is called '{name}'") as caught:
        TorchvisionModel(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
@pytest.mark.parametrize("published", [False, True])
def test_auxiliary_heads_are_gone_after_loading(name: str, published: bool) -> None:
    model = TorchvisionModel(PREFIX + name)
    network = model.build(published)
    assert any("aux" in key.lower() for key in network.state_dict()) == published
    ready = model.ready(network)
    side = model.preprocessing().crop
    with torch.no_grad():
        output = ready(torch.zeros(1, 3, side, side))
    assert tuple(output.shape) == (1, 1000)


def test_published_densenets_load_though_their_names_are_old() -> None:
    """Their files say norm.1 where the network says norm1, and count no batches."""
    model = TorchvisionModel("onnx_tv_densenet121")
    torch.manual_seed(1)
    wanted = model.build(published=True).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.)(norm|conv)([12])", r"\1\2.\3", name): value
        for name, value in wanted.items()
        if "num_batches" not in name
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    network = model.build(published=True)
    network.load_state_dict(model.fitting(old))
    assert all(torch.equal(value, wanted[name]) for name, value in network.state_dict().items())


def test_transformers_are_built_for_the_picture_size_of_their_weights() -> None:
    """Their position embeddings fit no other: vit_h_14's weights want 518 pixels, the builder's default is 224."""
    asked = {}
    for name in (one for one in builders() if one.startswith("vit_")):
        model = TorchvisionModel(PREFIX + name)
        model._builder = lambda name=name, **given: asked.update({name: given["image_size"]})
        model.build(published=True)
        assert asked[name] == model.preprocessing().crop, name
    assert {"vit_b_16", "vit_h_14"} <= set(asked)


def test_the_names_that_can_be_given_are_listed_for_machines_too() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "pipelines.models", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(listed.stdout) == names()
    assert {"onnx_tv_resnet18", "onnx_efficientnet_lite0"} <= set(names())


def module_at(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(textwrap.dedent(text))
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("def onnx_preprocess", "def preprocess", "mine.py has no function onnx_preprocess"),
        ("def build_model", "def model", "mine.py has neither build_model nor onnx_model"),
        ("import torch", "import torch\n    1 / 0", "mine.py can't be imported: ZeroDivisionError"),
        ("import torch", "import torch\n    raise SystemExit('bye')", "mine.py can't be imported: SystemExit: bye"),
    ],
)
def test_a_module_without_what_it_needs_says_so(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = module_at(tmp_path, MODULE.replace(old, new, 1))
    with pytest.raises(PipelineError, match=said):
        PersonsModel("mine", path)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("np.zeros((1, 3, 4, 4))", r"gives float64\[1, 3, 4, 4\]"),
        ("np.zeros((3, 4, 4), np.float32)", r"gives float32\[3, 4, 4\]"),
        ("np.full((1, 3, 4, 4), np.nan, np.float32)", "not finite"),
        ("[1, 2]", "gives list"),
    ],
)
def test_what_a_module_gives_is_checked(tmp_path: Path, answer: str, said: str) -> None:
    text = MODULE.replace("return image_preprocess(path).transpose(0, 3, 1, 2)", f"return {answer}")
    with pytest.raises(PipelineError, match=said):
        PersonsModel("mine", module_at(tmp_path, text)).preprocess(Path("x.png"))


GIVEN = MODULE[: MODULE.index("    def build_model")] + "    def onnx_model():\n        return 'given.onnx'\n"


def test_other_weights_for_an_onnx_file_are_refused_and_not_passed_over(
    request_for: Make, run_all: Go, workspace: Path
) -> None:
    request = request_for(module=GIVEN, weights=Weights(kind="random", seed=0))
    (workspace / request.run_folder / "input/module/given.onnx").touch()
    stage = by_name(run_all(request))["fetch"]
    assert stage.status == "failed"
    assert stage.reason.startswith("small is an ONNX file and holds its weights: random ones have no place")


def test_a_model_may_come_as_an_onnx_file(request_for: Make, run_all: Go, workspace: Path) -> None:
    request = request_for(module=GIVEN, weights=Weights(kind="module"))
    weight = np.random.default_rng(0).standard_normal((8, 3 * 16 * 16)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["picture"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 12)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=7)
    onnx.save(model, str(workspace / request.run_folder / "input/module/given.onnx"))
    report = run_all(request)
    assert report.ok, [(stage.name, stage.reason) for stage in report.stages]
    facts = by_name(report)["export"].facts
    assert (facts["opset"], facts["reference"]) == (13, "the given ONNX file in onnxruntime")


def test_weights_of_another_model_are_refused_in_one_line(request_for: Make, run_all: Go, workspace: Path) -> None:
    import hashlib

    request = request_for()
    file = workspace / request.run_folder / "input/weights.pth"
    torch.save({"other": torch.zeros(2)}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    weights = Weights(kind="file", file="input/weights.pth", sha256=digest)
    stage = by_name(run_all(request_for(weights=weights)))["fetch"]
    assert stage.status == "failed"
    assert "weights.pth does not fit small: " in stage.reason
    assert "\n" not in stage.reason


# loading weights


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch pwned",)


def test_tensors_load_whether_plain_or_wrapped(tmp_path: Path) -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}
    for number, saved in enumerate((state, {"state_dict": state, "epoch": 3})):
        torch.save(saved, tmp_path / f"{number}.pth")
        loaded = load_state(tmp_path / f"{number}.pth")
        assert all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_weights_file_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil()}, "evil.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(PipelineError, match=r"evil.pth can't be loaded as weights"):
        load_state(Path("evil.pth"))
    assert not Path("pwned").exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04broken"])
def test_a_file_that_is_no_weights_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(PipelineError, match=r"x.pth (can't be loaded as weights|holds no state dict)") as caught:
        load_state(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_whatever_is_broken_in_a_weights_file_it_loads_or_is_refused_in_one_line(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.arange(6.0), "b": torch.ones(2)}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    chance = random.Random(0)
    for _ in range(300):
        broken = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        path.write_bytes(broken)
        try:
            load_state(path)
        except PipelineError as error:
            assert "\n" not in str(error)


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(2), tmp_path / "x.pth")
    with pytest.raises(PipelineError, match="holds no state dict"):
        load_state(tmp_path / "x.pth")


def test_published_weights_of_lite0_load(locked_data: Path) -> None:
    (file,) = locked_data.glob("efficientnet_lite0/*/models/*.pth")
    assert sum(value.numel() for value in load_state(file).values()) > 4_600_000
