"""What `invoke lock` decides by itself: which wheel, which weights, what moved."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import sys_tags

from envs import hubweights, lock
from envs.resolve_python import best_wheel, wheel_tags

TAGS = wheel_tags("3.10", "x86_64", 36)


@pytest.mark.parametrize(
    ("files", "best"),
    [
        (["a-1-py3-none-any.whl", "a-1-cp310-cp310-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"], 1),
        (["a-1-cp310-cp310-manylinux_2_28_x86_64.whl", "a-1-cp310-cp310-manylinux_2_17_x86_64.whl"], 0),
        (["a-1-cp310-cp310-manylinux_2_39_x86_64.whl", "a-1-cp310-cp310-manylinux1_x86_64.whl"], 1),
        (["a-1-cp38-abi3-manylinux_2_17_x86_64.whl", "a-1-cp311-cp311-manylinux_2_17_x86_64.whl"], 0),
        (["a-1-1-py3-none-any.whl", "a-1-2-py3-none-any.whl"], 1),
    ],
)
def test_the_most_specific_wheel_that_fits_is_taken(files: list[str], best: int) -> None:
    assert best_wheel(files, TAGS) == files[best]


@given(st.permutations(["a-1-py3-none-any.whl", "a-1-py2.py3-none-any.whl", "a-1-cp310-cp310-linux_x86_64.whl"]))
def test_the_choice_does_not_depend_on_the_order(files: list[str]) -> None:
    assert best_wheel(files, TAGS) == "a-1-cp310-cp310-linux_x86_64.whl"


def test_no_wheel_fits_another_machine() -> None:
    assert best_wheel(["a-1-cp310-cp310-manylinux_2_17_aarch64.whl", "a-1-cp312-none-any.whl"], TAGS) is None


def test_tags_agree_with_packaging_on_this_machine() -> None:
    """packaging reads them off a running interpreter; ours are made for another one, by the same rules."""
    import platform
    import sys

    minor = int(platform.libc_ver()[1].split(".")[1])
    ours = wheel_tags(f"3.{sys.version_info.minor}", platform.machine(), minor)
    theirs = [tag for tag in sys_tags() if tag.interpreter != "py2"]
    assert [tag for tag in theirs if tag not in ours and "musl" not in tag.platform] == []


MODULE = """
class Net_Weights(WeightsEnum):
    IMAGENET1K_V1 = Weights(url="https://hub.example/models/net-owt-0123abcd.pth", transforms=None)
    IMAGENET1K_V2 = Weights(url="https://hub.example/models/net-89abcdef.pth", transforms=None)
    DEFAULT = IMAGENET1K_V2

def net(*, weights: Optional[Net_Weights] = None, progress: bool = True) -> Net: ...
def _net(weights: Optional[Net_Weights]): ...
def helper(x): ...
"""


def test_published_weights_are_read_without_running_the_framework(tmp_path: Path) -> None:
    wheel = tmp_path / "torchvision-0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("torchvision/models/net.py", MODULE)
        archive.writestr("torchvision/models/_utils.py", MODULE)
        archive.writestr("torchvision/models/detection/net.py", MODULE)
    (found,) = hubweights.published(wheel)
    assert (found.model, found.name, found.file) == ("net", "IMAGENET1K_V2", "net-89abcdef.pth")
    assert found.sha256_prefix == "89abcdef"


@pytest.mark.parametrize(("env", "count"), [("sigmastar", 80), ("light", 67)])
def test_shipped_locks_know_every_classification_model(env: str, count: int) -> None:
    hub = lock.read_lock(env).hub
    assert len(hub) == len({one.model for one in hub}) >= count - 5
    assert {"resnet18", "mobilenet_v2", "vit_b_16", "alexnet", "inception_v3"} <= {one.model for one in hub}
    assert all(one.file.endswith(f"{one.sha256_prefix}.pth") for one in hub)
