"""`invoke run` on the host's side, with a fake at the Engine seam: what is asked, what is shown, what can go wrong."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_engine import FakeEngine
from making import small_lock

import envs.run as runs
from envs.build import Built
from envs.contract import Artifact, Event, PatternRow, RunReport, RunRequest, StageResult, encode, stages_of
from envs.engines.base import Environment, Mount, Sink, Task
from envs.engines.choose import Chosen
from envs.errors import EngineError, WorkspaceError, WrongUse
from envs.files import sha256_file
from envs.lock import EnvLock, LockedHubWeights, LockedInterpreter
from envs.progress import Silent
from envs.run import run_model
from envs.run_options import RunOptions
from envs.run_parts import Lines
from envs.run_table import print_report
from envs.tree import TreeRecord
from envs.workspace import new_run, pipeline_digest

Answer = Callable[[RunRequest, Path, Sink, Sink], int]


def good(request: RunRequest, folder: Path, stdout: Sink, stderr: Sink) -> int:
    stages = tuple(StageResult(name=name, status="ok", elapsed_s=0.0, cached=False) for name in stages_of(request))
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
        monkeypatch.setattr(runs, "environment", lambda name, chosen, progress, **how: (its, tmp_path / "data"))
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
        ("/app/native", False),
    ]
    assert task.variables["PYTHONPATH"] == "/app"


def test_kernels_are_on_the_import_path_after_the_pipelines(go: Any, compiled: Path, cache: Path) -> None:
    shutil.copytree(compiled, cache / "native" / compiled.name)
    go()
    (task,) = go.engine.tasks
    assert task.variables["PYTHONPATH"] == f"/app:/app/native/{compiled.name}"
    assert Mount(cache / "native", "/app/native") in task.mounts


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


def test_a_request_holds_what_was_asked_of_sparsity(go: Any, workspace: Path) -> None:
    report = go(permute=False, keep="/fc/Gemm,/conv*", patterns=True)
    request = msgspec.json.decode((workspace / report.run_folder / "request.json").read_bytes(), type=RunRequest)
    assert (request.permute, request.keep, request.budget) == (False, ("/fc/Gemm", "/conv*"), None)
    assert (request.correct, request.calibration, request.patterns) == ("none", (), True)
    assert [stage.name for stage in report.stages] == list(stages_of(request))


def test_correction_without_calibration_pictures_is_refused_before_anything_runs(go: Any, workspace: Path) -> None:
    with pytest.raises(WrongUse, match="no calibration pictures"):
        go(correct="match")
    assert not list(workspace.glob("*/*/request.json"))


@pytest.mark.parametrize("sparsity", ["2-4", "", "4:2", "2:2", "0:4", "two:four"])
def test_a_pattern_that_is_none_is_wrong_use(go: Any, sparsity: str) -> None:
    with pytest.raises(WrongUse, match="--sparsity"):
        go(sparsity=sparsity)


def test_the_user_s_own_calibration_pictures_are_copied_into_the_run(go: Any, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo ü.jpg").write_bytes(b"\xff\xd8\xff a photograph")
    report = go(correct="match", calibration=str(tmp_path / "mine"))
    folder = workspace / report.run_folder
    request = msgspec.json.decode((folder / "request.json").read_bytes(), type=RunRequest)
    assert [(one.path, one.place) for one in request.calibration] == [("input/calibration/0001.jpg", "run")]
    assert sha256_file(folder / request.calibration[0].path) == request.calibration[0].sha256


def test_calibration_pictures_that_nothing_looks_at_are_refused(go: Any, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"nothing is calibrated in the environment 'light'"):
        go(env="light", calibration=str(tmp_path))


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


SPARSE_FACTS = {
    "pattern": "2:4",
    "pattern_warning": "",
    "weights_at_pattern_share": 0.864,
    "prunable_at_pattern_share": 0.9,
    "macs_at_pattern_share": 0.6,
    "layers_kept_dense": 2,
    "kept_dense": "/a/Conv, /b/Conv",
    "made_by": "obs",
    "calibration_crops": 256,
    "calibration_pictures": 41,
    "dense_weights_bytes": 4 * 2**20,
    "compressed_bytes": 2 * 2**20,
    "groups_permuted": 12,
    "groups_left": 3,
    "retained_as_exported_share": 0.752,
    "retained_reordered_share": 0.768,
    "retained_bound_share": 0.803,
    "gather_nodes": 33,
    "folded_ms": 2.0,
    "gather_ms": 3.0,
}


def test_the_table_says_what_is_sparse_what_is_not_and_how_it_was_made(
    go: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    report = go()
    stages = tuple(
        msgspec.structs.replace(stage, facts=SPARSE_FACTS) if stage.name == "sparsify" else stage
        for stage in report.stages
    )
    print_report(msgspec.structs.replace(report, stages=stages))
    out = capsys.readouterr().out
    for line in (
        "2:4 on 90.0% of the weights that could have it, 86.4% of weights, 60.0% of MACs",
        "2 layers: /a/Conv, /b/Conv",
        "reordered, corrected (obs) on 256 crops of 41 calibration pictures, not retrained",
        "12, 3 left (permutation.json says why)",
        "75.20% as exported, 76.80% reordered, 80.30% if each row had its own order",
        "33 Gather nodes: 3.00 ms, without them 2.00 ms (1.50x)",
    ):
        assert line in out


def test_compared_patterns_are_a_table_of_their_own(
    go: Any, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = PatternRow(
        pattern="2:4",
        reordered=True,
        made_by="match",
        layers=33,
        weights_share=0.96,
        retained_share=0.768,
        efficacy=0.289,
        index_bits=4,
        entropy_bits=3,
        metadata_bytes=2**19,
        entropy_bytes=3 * 2**17,
        compressed_bytes=9 * 2**20,
        agreement_top1=None,
        cosine_centred=0.5,
        top1=7,
    )
    report = go()
    path = "artifacts/patterns/patterns.json"
    file = workspace / report.run_folder / path
    file.parent.mkdir(parents=True)
    file.write_bytes(msgspec.json.encode([row]))
    shown = msgspec.structs.replace(report, artifacts=(Artifact(path=path, sha256="0" * 64, bytes=1),))
    print_report(shown)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("2:4, reordered")]
    assert " ".join(line.split()) == "2:4, reordered 33 76.80% 28.9% 4, 3 0.50 MiB, 0.38 MiB 9.00 MiB - 0.500 7"
    file.write_text("[{}]")
    with pytest.raises(EngineError, match="not what this tool writes there"):
        print_report(shown)


def test_progress_is_said_when_a_stage_is_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from envs import display

    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    lines = display.EventLines(Console(file=out, width=80))
    lines.show(Event(kind="stage_started", stage="sparsify"))
    for second in range(40):
        now[0] = float(second)
        lines.show(Event(kind="progress", stage="sparsify", message="layer", done=second, total=40))
    lines.show(Event(kind="stage_finished", stage="sparsify", status="ok", elapsed_s=40.0, message="done"))
    said = out.getvalue().splitlines()
    assert [line.split() for line in said[:2]] == [["sparsify", "15/40", "layer"], ["sparsify", "30/40", "layer"]]
    assert said[2].endswith("done")


def test_on_a_terminal_progress_is_one_line_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from envs import display

    monkeypatch.setattr(display, "SILENT_ON_TERMINAL_S", 0.0)
    out = io.StringIO()
    lines = display.EventLines(Console(file=out, width=30, force_terminal=True, color_system=None))
    lines.show(Event(kind="progress", stage="sparsify", message="a layer with a very long name", done=1, total=2))
    lines.show(Event(kind="stage_finished", stage="sparsify", status="ok", message="done"))
    text = out.getvalue()
    shown, _, rest = text.partition("\r\x1b[2K")
    assert len(shown) < 30 and "\n" not in shown
    assert rest.count("\n") == 1
