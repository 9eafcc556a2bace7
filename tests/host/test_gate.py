"""`invoke check` on the host's side: what the container sees, what is shown and written, and the exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from looking import answering

import envs.gate as gate
from envs.contract import GateFinding, GateReport, Refusal, encode
from envs.engines.base import Task
from envs.errors import EngineError, WrongUse
from envs.progress import Silent
from envs.verbs import gate as verb


def finding(**changes: Any) -> GateFinding:
    fields: dict[str, Any] = {
        "form": "dense",
        "severity": "error",
        "node": "conv1",
        "op": "Conv",
        "limit": "kernel 8x8: at most 63 in all",
        "remedy": "use a smaller kernel",
        "origin": "documentation",
    }
    return GateFinding(**{**fields, **changes})


def report(*findings: GateFinding, **more: Any) -> GateReport:
    return GateReport(
        file="m.onnx",
        toolchain="sigmastar",
        checked_by="onnx 1.15.0",
        opset=13,
        ir_version=7,
        nodes=49,
        findings=findings,
        **more,
    )


ERROR, WARNING = finding(), finding(severity="warning", limit="depthwise kernel 5x5")
MENDED = finding(node="", op="opset", limit="opset 14: 7 to 13 is taken", fix="convert_opset", fixed=True)
MENDABLE = finding(node="", op="opset", limit="opset 14: 7 to 13 is taken", fix="convert_opset")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "m.onnx"
    path.parent.mkdir()
    path.write_bytes(b"model")
    return path


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeEngine]:
    def make(code: int, out: bytes, **more: Any) -> FakeEngine:
        return answering(monkeypatch, tmp_path, code, out, **more)

    return make


def check(model: Path | str, **changes: Any) -> GateReport:
    words: dict[str, Any] = {"output": "", "shape": "", "fix": False, "env": "light", "engine": "auto"}
    return gate.check_file(str(model), "sigmastar", **{**words, **changes}, progress=Silent())


def writes(content: bytes) -> Callable[[Task], None]:
    """What the module does with its --output, in the folder that the command sees as writable."""

    def does(task: Task) -> None:
        (writable,) = (mount for mount in task.mounts if mount.writable)
        assert writable.target == "/output"
        name = Path(task.command[task.command.index("--output") + 1]).name
        (writable.source / name).write_bytes(content)

    return does


def test_without_fix_nothing_is_writable(engine: Any, model: Path) -> None:
    fake = engine(0, encode(report()))
    assert check(model, shape="1,3,8,8") == report()
    (task,) = fake.tasks
    assert not any(mount.writable for mount in task.mounts)
    assert task.command[2:] == (
        ["pipelines.checks.gate_file", "/model/m.onnx", "--toolchain", "sigmastar", "--shape", "1,3,8,8"]
    )


@pytest.mark.parametrize("name", ["docker", "local"])
def test_the_mended_file_lies_where_it_was_asked_for_and_nothing_else(
    engine: Any, model: Path, tmp_path: Path, name: str
) -> None:
    engine(0, encode(report(MENDED)), does=writes(b"mended"), name=name)
    check(model, fix=True, output=str(tmp_path / "elsewhere" / "out.onnx"))
    assert sorted(one.name for one in model.parent.iterdir()) == ["m.onnx", "out.onnx"]
    assert (model.parent / "out.onnx").read_bytes() == b"mended"
    assert model.read_bytes() == b"model"


@pytest.mark.parametrize(
    ("code", "out", "error"),
    [
        (2, encode(Refusal(message="m.onnx is no ONNX file", remedy="export it again")), WrongUse),
        (137, b"", EngineError),
    ],
)
def test_what_fails_leaves_no_file(engine: Any, model: Path, code: int, out: bytes, error: type[Exception]) -> None:
    engine(code, out, err=b"Killed\n", does=writes(b"half"))
    with pytest.raises(error):
        check(model, fix=True, output=str(model.parent / "out.onnx"))
    assert [one.name for one in model.parent.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"model": ""}, "check has no file"),
        ({"fix": True}, "--fix writes the mended network to --output FILE: they go together"),
        ({"output": "x.onnx"}, "--fix writes the mended network to --output FILE: they go together"),
        ({"fix": True, "output": "/no/such/folder/x.onnx"}, "its folder is not there"),
        ({"fix": True, "output": "/tmp"}, "--output /tmp: a folder"),
        ({"model": "no/such.onnx"}, "no/such.onnx: no such file"),
    ],
)
def test_wrong_words_are_one_line(model: Path, words: dict[str, Any], said: str) -> None:
    with pytest.raises(WrongUse) as caught:
        check(**{"model": model, **words})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_file_itself_is_never_overwritten(model: Path) -> None:
    with pytest.raises(WrongUse, match="is the file itself"):
        check(model, fix=True, output=str(model.parent / "." / "m.onnx"))


def test_a_toolchain_must_be_named(model: Path) -> None:
    with pytest.raises(WrongUse, match="check has no --toolchain; name one: `invoke vendors`"):
        gate.check_file(str(model), "", output="", shape="", fix=False, env="light", engine="auto", progress=Silent())


@pytest.mark.parametrize(
    ("made", "code", "said"),
    [
        (report(), 0, ["within the limits of sigmastar: m.onnx, opset 13, IR 7, 49 nodes; 0 warnings"]),
        (report(WARNING), 0, ["depthwise kernel 5x5", "; 1 warnings"]),
        (report(ERROR, WARNING), 1, ["conv1", "kernel 8x8", "sigmastar does not take m.onnx", "1 errors, 1 warnings"]),
        (report(MENDABLE), 1, ["(or --fix: convert_opset)"]),
        (
            report(MENDED, changes=("convert_opset: opset 14 is 13",), proofs=8),
            0,
            ["mended", "opset 14 is 13", "proved equal over 8 inputs"],
        ),
    ],
)
def test_the_table_the_last_line_and_the_code(
    engine: Any, model: Path, capsys: pytest.CaptureFixture[str], made: GateReport, code: int, said: list[str]
) -> None:
    engine(code, encode(made))
    assert verb.check(str(model), "sigmastar", False, "", "", "light", "auto", False) == code
    shown = " ".join(capsys.readouterr().out.split())
    for words in said:
        assert words in shown


def test_json_is_the_report_and_nothing_else(engine: Any, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine(1, encode(report(ERROR)))
    assert verb.check(str(model), "sigmastar", False, "", "", "light", "auto", True) == 1
    assert capsys.readouterr().out.encode() == encode(report(ERROR))
