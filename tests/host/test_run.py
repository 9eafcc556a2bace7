"""`invoke run` on the host's side, with a fake at the Engine seam: what is asked, what is shown, what can go wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_engine import FakeEngine
from making import small_lock

import envs.run as runs
from envs.build import Built
from envs.contract import STAGES, Event, RunReport, RunRequest, StageResult, encode
from envs.engines.base import Environment, Sink, Task
from envs.engines.choose import Chosen
from envs.errors import EngineError, WorkspaceError, WrongUse
from envs.lock import EnvLock, LockedHubWeights, LockedInterpreter
from envs.progress import Silent
from envs.run import Lines, RunOptions, run_model
from envs.run_table import print_report
from envs.tree import TreeRecord
from envs.workspace import new_run, pipeline_digest

Answer = Callable[[RunRequest, Path, Sink, Sink], int]


def good(request: RunRequest, folder: Path, stdout: Sink, stderr: Sink) -> int:
    stages = tuple(StageResult(name=name, status="ok", elapsed_s=0.0, cached=False) for name in STAGES)
    report = RunReport(
        run_id=request.run_id,
        model=request.model,
        env=request.env,
        engine=request.engine,
        lock_digest=request.lock_digest,
        pipeline_digest=request.pipeline_digest,
        run_folder=request.run_folder,
        weights=request.weights,
        versions={},
        stages=stages,
        artifacts=(),
        drift=request.drift,
    )
    stdout(msgspec.json.encode(Event(kind="stage_finished", stage="fetch", status="ok")) + b"\n")
    (folder / "report.json").write_bytes(encode(report))
    return 0


def answering(answer: Answer) -> Callable[[Task, Sink, Sink], int]:
    """What a container would do with the request it is given."""

    def run(task: Task, stdout: Sink, stderr: Sink) -> int:
        workspace = next(mount.source for mount in task.mounts if mount.target == "/workspace")
        path = workspace / task.command[3]
        return answer(msgspec.json.decode(path.read_bytes(), type=RunRequest), path.parent, stdout, stderr)

    return run


@pytest.fixture
def go(cache: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs run_model against a fake engine; gives the report (or raises) and keeps engine and events."""
    hub = LockedHubWeights(model="resnet18", name="V1", file="resnet18-00000000.pth", sha256_prefix="00000000")
    lock: EnvLock = small_lock(tmp_path / "wheels", name="sigmastar", hub=(hub,))
    record = TreeRecord(
        env="sigmastar",
        lock_digest=lock.digest,
        interpreter=LockedInterpreter(source="installed", version="3.10.13", sha256=""),
        tried=(),
        size_bytes=1,
        elapsed_s=0.0,
    )
    environment = Environment(name="sigmastar", lock_digest=lock.digest, tree=tmp_path / "tree", image="sha256:1")
    built = Built(environment=environment, lock=lock, record=record, image_bytes=1)

    def call(answer: Answer = good, drift: tuple[str, ...] = (), **changes: Any) -> Any:
        its = msgspec.structs.replace(built, lock=msgspec.structs.replace(lock, drift=drift))
        engine = FakeEngine(answering(answer))
        call.engine = engine  # type: ignore[attr-defined]
        call.events = []  # type: ignore[attr-defined]
        monkeypatch.setattr(runs, "choose", lambda kind: Chosen(engine, "engine: fake"))  # type: ignore[arg-type]
        monkeypatch.setattr(runs, "read_lock", lambda name: lock)
        monkeypatch.setattr(runs, "environment", lambda name, chosen, progress, allow_drift: (its, tmp_path / "data"))
        fields = {"model": "onnx_tv_resnet18", "env": "sigmastar", "engine": "auto", "weights": "random:3"}
        options = RunOptions(**{**fields, "sparsity": "2:4", "use_cache": True, **changes})
        return run_model(options, Silent(), call.events.append)  # type: ignore[attr-defined]

    return call


def test_the_report_comes_back_and_latest_points_at_it(go: Any, workspace: Path) -> None:
    report = go()
    assert report.ok
    assert (workspace / "onnx_tv_resnet18" / "latest").resolve() == workspace / report.run_folder
    assert [event.stage for event in go.events] == ["fetch"]


def test_the_container_sees_workspace_data_and_pipelines_and_only_the_first_is_writable(go: Any) -> None:
    go()
    (task,) = go.engine.tasks
    assert [(mount.target, mount.writable) for mount in task.mounts] == [
        ("/workspace", True),
        ("/data", False),
        ("/app/pipelines", False),
    ]
    assert task.variables["PYTHONPATH"] == "/app"


def test_a_request_holds_what_decides_the_result(go: Any, workspace: Path) -> None:
    report = go(sparsity="1:4", weights="random:7", use_cache=False)
    request = msgspec.json.decode((workspace / report.run_folder / "request.json").read_bytes(), type=RunRequest)
    assert (request.sparsity, request.weights.seed, request.use_cache) == ("1:4", 7, False)
    assert (request.export.opset, request.export.simplifier) == (13, "onnxsim")
    assert request.pipeline_digest == pipeline_digest()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("onnx_tv_resnet81", r"did you mean onnx_tv_resnet18"),
        ("resnet18", r"did you mean onnx_tv_resnet18"),
        ("no/such/folder", r"no Python module there"),
        ("./missing.py", r"no Python module there"),
    ],
)
def test_a_model_that_is_none_is_wrong_use(go: Any, workspace: Path, model: str, said: str) -> None:
    with pytest.raises(WrongUse, match=said):
        go(model=model)
    assert not list(workspace.glob("*/*/request.json"))


@pytest.mark.parametrize("sparsity", ["2-4", "", "4:2", "2:2", "0:4", "two:four"])
def test_a_pattern_that_is_none_is_wrong_use(go: Any, sparsity: str) -> None:
    with pytest.raises(WrongUse, match="--sparsity"):
        go(sparsity=sparsity)


def test_a_person_s_file_is_copied_into_the_run(go: Any, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "my_net.py").write_text("x = 1\n")
    report = go(model=str(tmp_path / "my_net.py"), weights="auto")
    folder = workspace / report.run_folder
    assert report.model == "my_net"
    assert report.weights.kind == "module"
    assert (folder / "input/module/my_net.py").read_text() == "x = 1\n"


def test_a_person_s_folder_is_copied_whole(go: Any, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model.py").write_text("")
    (tmp_path / "net" / "layers.py").write_text("")
    report = go(model=str(tmp_path / "net"))
    assert report.model == "net"
    assert (workspace / report.run_folder / "input/module/layers.py").exists()


def test_a_pipeline_that_leaves_no_report_is_an_engine_error_with_its_last_words(go: Any) -> None:
    def die(request: RunRequest, folder: Path, stdout: Sink, stderr: Sink) -> int:
        stderr(b"something\nKilled\n")
        return 137

    with pytest.raises(EngineError, match=r"ended with 137 and left no report: Killed; see .*log.txt"):
        go(die)


def test_a_report_that_is_none_is_refused(go: Any) -> None:
    def scribble(request: RunRequest, folder: Path, stdout: Sink, stderr: Sink) -> int:
        (folder / "report.json").write_text('{"model": 1}')
        return 0

    with pytest.raises(EngineError, match="not a report"):
        go(scribble)


def test_a_report_of_another_run_is_refused(go: Any) -> None:
    def other(request: RunRequest, folder: Path, stdout: Sink, stderr: Sink) -> int:
        return good(msgspec.structs.replace(request, run_id="other"), folder, stdout, stderr)

    with pytest.raises(EngineError, match="belongs to another request"):
        go(other)


def test_a_report_that_misses_a_stage_is_refused(go: Any) -> None:
    def short(request: RunRequest, folder: Path, stdout: Sink, stderr: Sink) -> int:
        good(request, folder, stdout, stderr)
        report = msgspec.json.decode((folder / "report.json").read_bytes(), type=RunReport)
        (folder / "report.json").write_bytes(encode(msgspec.structs.replace(report, stages=report.stages[:-1])))
        return 0

    with pytest.raises(EngineError, match="not every stage"):
        go(short)


def test_a_workspace_that_can_not_be_written_is_named(go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKILN_RUNS", str(tmp_path / "file" / "runs"))
    with pytest.raises(WorkspaceError, match=r"file/runs.*is a file, not a folder; name another folder"):
        go()


def test_run_ids_are_never_given_twice(workspace: Path) -> None:
    ids = [new_run("m")[0] for _ in range(20)]
    assert len(set(ids)) == 20
    assert ids == sorted(ids)


def test_events_are_found_however_the_stream_is_cut() -> None:
    seen: list[Event] = []
    lines = Lines(seen.append)
    text = b"noise\n" + msgspec.json.encode(Event(kind="run_started", message="\xe4")) + b"\n"
    for place in range(len(text)):
        lines.take(text[place : place + 1])
    assert [event.message for event in seen] == ["\xe4"]


def test_the_table_says_why_there_is_no_accuracy(go: Any, capsys: pytest.CaptureFixture[str]) -> None:
    report = go()
    facts = {"dense_top1": None, "accuracy_reason": "weights: random (hub unreachable)", "dense_bytes": 2**20}
    stages = tuple(
        msgspec.structs.replace(stage, facts=facts) if stage.name == "verify" else stage for stage in report.stages
    )
    print_report(msgspec.structs.replace(report, stages=stages))
    out = capsys.readouterr().out
    assert "skipped: weights: random (hub unreachable)" in out
    assert "1.00 MiB" in out


def test_drift_is_in_request_report_and_table(go: Any, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ("base: libssl3 3.0.15-1 -> 3.0.17-1", "packages: a 1 -> 2")
    report = go(drift=lines)
    request = msgspec.json.decode((workspace / report.run_folder / "request.json").read_bytes(), type=RunRequest)
    assert request.drift == report.drift == lines
    print_report(report)
    out = capsys.readouterr().out
    assert "drifted from the lock" in out
    assert all(line in out for line in lines)
    assert "ok, drifted (2 replaced)" in out


def test_a_report_that_hides_its_drift_is_refused(go: Any) -> None:
    def hide(request: RunRequest, folder: Path, stdout: Sink, stderr: Sink) -> int:
        return good(msgspec.structs.replace(request, drift=()), folder, stdout, stderr)

    with pytest.raises(EngineError, match="belongs to another request"):
        go(hide, drift=("base: a 1 -> 2",))
