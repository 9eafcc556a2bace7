"""`invoke check-pattern` on the host's side: what the container sees, what is shown, and what ends with which code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from looking import answering

import envs.check_pattern as checks
import envs.one_file as looks
from envs.contract import LayerPattern, PatternReport, Refusal, encode
from envs.errors import EngineError, WrongUse
from envs.progress import Silent
from envs.verbs import pattern as verb


def layer(status: Any, **more: Any) -> LayerPattern:
    return LayerPattern(node="conv", op="Conv", weight="w", shape=(8, 8, 3, 3), axis=1, status=status, **more)


def report(*layers: LayerPattern, warning: str = "") -> PatternReport:
    return PatternReport(
        file="m.onnx", pattern="2:4", index_bits=4, entropy_bits=3, warning=warning, layers=tuple(layers)
    )


HOLDS = layer("holds", groups=144, density=0.5)
BROKEN = layer(
    "broken", groups=144, broken=3, density=0.6, detail="row [1, 0, 2], group 1 (channels 4 to 7) keeps 3 of 4"
)
NEVER = layer("not applicable", detail="3 input channels, fewer than 4")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeEngine]:
    """An engine whose check answers as the test says, in place of the real ones."""

    def make(code: int, out: bytes, err: bytes = b"", name: Any = "docker") -> FakeEngine:
        return answering(monkeypatch, tmp_path, code, out, err, name)

    return make


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "m.onnx"
    path.parent.mkdir()
    path.write_bytes(b"model")
    return path


@pytest.mark.parametrize("name", ["docker", "local"])
def test_the_file_s_folder_and_the_pipelines_are_seen_and_neither_is_writable(
    engine: Any, model: Path, name: str
) -> None:
    fake = engine(0, encode(report(HOLDS)), name=name)
    checks.check_pattern(str(model), "2:4", "light", "auto", Silent())
    (task,) = fake.tasks
    assert [(mount.source, mount.target, mount.writable) for mount in task.mounts] == [
        (model.parent, "/model", False),
        (looks.pipelines_mount().source, "/app/pipelines", False),
    ]
    assert task.command[3] == ("/model/m.onnx" if name == "docker" else str(model))


def test_a_link_is_followed_so_that_its_external_data_is_found(engine: Any, model: Path, tmp_path: Path) -> None:
    fake = engine(0, encode(report(HOLDS)))
    (tmp_path / "link.onnx").symlink_to(model)
    checks.check_pattern(str(tmp_path / "link.onnx"), "2:4", "light", "auto", Silent())
    assert fake.tasks[0].mounts[0].source == model.parent


@pytest.mark.parametrize(
    ("layers", "code", "said"),
    [
        (
            (HOLDS, NEVER),
            0,
            "2:4 holds in all 1 layers that can have it (4 position bits a group as stored, 3 at least)",
        ),
        ((HOLDS, BROKEN), 1, "2:4 is broken in 1 of 2 layers that could have it"),
        ((NEVER,), 1, "2:4 applies to no layer of m.onnx"),
        ((), 1, "2:4 applies to no layer of m.onnx"),
    ],
)
def test_the_table_the_last_line_and_the_code(
    engine: Any, model: Path, capsys: pytest.CaptureFixture[str], layers: Any, code: int, said: str
) -> None:
    engine(code, encode(report(*layers)))
    assert verb.check_pattern(str(model), "2:4", "light", "auto", False) == code
    out = capsys.readouterr().out
    assert said in out
    for one in layers:
        assert one.detail in out


def test_a_bad_ratio_is_warned_about(engine: Any, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine(0, encode(report(HOLDS, warning="2:6: no hardware path")))
    verb.check_pattern(str(model), "2:6", "light", "auto", False)
    assert "warning: 2:6: no hardware path" in capsys.readouterr().err


def test_a_file_that_can_not_be_checked_is_wrong_use_in_its_own_words(engine: Any, model: Path) -> None:
    engine(2, encode(Refusal(message="m.onnx is no ONNX file", remedy="export it again")))
    with pytest.raises(WrongUse, match=r"^m.onnx is no ONNX file; export it again$"):
        checks.check_pattern(str(model), "2:4", "light", "auto", Silent())


@pytest.mark.parametrize(("code", "out"), [(137, b""), (1, b"{}"), (2, b"usage: ...")])
def test_a_check_that_died_is_an_engine_error_with_its_last_words(
    engine: Any, model: Path, code: int, out: bytes
) -> None:
    engine(code, out, b"first\nKilled\n")
    with pytest.raises(EngineError, match=rf"m.onnx: the check ended with {code}: Killed"):
        checks.check_pattern(str(model), "2:4", "light", "auto", Silent())


@pytest.mark.parametrize(
    ("file", "sparsity", "said"),
    [
        ("", "2:4", "check-pattern has no file"),
        ("no/such.onnx", "2:4", "no/such.onnx: no such file"),
        (".", "2:4", "a folder, not an ONNX file"),
        ("m.onnx", "4:2", "--sparsity '4:2' is not N:M"),
    ],
)
def test_wrong_use_is_found_before_anything_is_built(file: str, sparsity: str, said: str) -> None:
    with pytest.raises(WrongUse, match=said):
        checks.check_pattern(file, sparsity, "light", "auto", Silent())
