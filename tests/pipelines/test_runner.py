"""The runner: cache, failures and interruptions never change what a report says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from conftest import MODULE, by_name
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cache import Cache, Entry, key_of, sha256_file
from pipelines.contract import STAGES, Event, RunReport, RunRequest, encode

Make = Callable[..., RunRequest]
Go = Callable[..., RunReport]


def told(report: RunReport) -> Any:
    """A report without what may differ between two runs of the same request."""
    stages = [msgspec.structs.replace(stage, elapsed_s=0.0, cached=False) for stage in report.stages]
    return msgspec.structs.replace(report, run_id="", run_folder="", stages=tuple(stages))


def test_a_run_ends_well_and_every_stage_is_reported(request_for: Make, run_all: Go, workspace: Path) -> None:
    events: list[Event] = []
    report = run_all(request_for(), events)
    assert report.ok, [(stage.name, stage.reason) for stage in report.stages]
    assert tuple(stage.name for stage in report.stages) == STAGES
    assert [(s.name, s.reason) for s in report.stages if s.status == "skipped"] == [
        ("check", "environment test has no toolchain"),
        ("convert", "check was skipped"),
    ]
    assert [event.stage for event in events if event.kind == "stage_finished"] == list(STAGES)
    for artifact in report.artifacts:
        path = workspace / report.run_folder / artifact.path
        assert (sha256_file(path), path.stat().st_size) == (artifact.sha256, artifact.bytes)


def test_a_second_run_is_answered_from_the_cache_with_the_same_report(request_for: Make, run_all: Go) -> None:
    first, second = run_all(request_for(1)), run_all(request_for(2))
    assert all(stage.cached for stage in second.stages if stage.reason != "check was skipped")
    assert told(first) == told(second)


def test_without_the_cache_everything_runs_again_and_gives_the_same_files(request_for: Make, run_all: Go) -> None:
    first, second = run_all(request_for(1)), run_all(request_for(2, use_cache=False))
    assert not any(stage.cached for stage in second.stages)
    assert first.artifacts == second.artifacts


def test_a_change_of_pattern_runs_only_what_depends_on_it(request_for: Make, run_all: Go) -> None:
    run_all(request_for(1))
    cached = {name: stage.cached for name, stage in by_name(run_all(request_for(2, sparsity="1:4"))).items()}
    assert cached == {
        **dict.fromkeys(("fetch", "preprocess", "export"), True),
        **dict.fromkeys(("sparsify", "verify", "check", "convert", "collect"), False),
    }


@pytest.mark.parametrize("change", [{"lock_digest": "sha256:other"}, {"pipeline_digest": "sha256:other"}])
def test_another_lock_or_pipeline_shares_nothing(request_for: Make, run_all: Go, change: dict[str, str]) -> None:
    run_all(request_for(1))
    assert not any(stage.cached for stage in run_all(request_for(2, **change)).stages)


def test_a_change_in_a_person_s_module_is_a_change_of_input(request_for: Make, run_all: Go) -> None:
    run_all(request_for(1))
    again = by_name(run_all(request_for(2, module=MODULE + "\n    # a thought\n")))
    assert not again["export"].cached


def test_another_name_of_a_file_beside_the_module_is_a_change_of_input(
    request_for: Make, run_all: Go, workspace: Path
) -> None:
    for number, name in ((1, "table.txt"), (2, "other.txt")):
        request = request_for(number)
        (workspace / request.run_folder / "input/module" / name).write_text("what the module reads")
        assert not by_name(run_all(request))["export"].cached


def test_a_corrupt_object_is_made_again(request_for: Make, run_all: Go, workspace: Path) -> None:
    first = run_all(request_for(1))
    model = next(a for a in first.artifacts if a.path == "artifacts/export/model.onnx")
    held = Cache(workspace / ".cache").object(model.sha256)
    held.unlink()  # the run folder keeps its own link
    held.write_bytes(b"corrupt")
    second = run_all(request_for(2))
    assert not by_name(second)["export"].cached
    assert told(first) == told(second)
    assert sha256_file(held) == model.sha256


def test_outputs_can_not_be_written_by_accident(request_for: Make, run_all: Go, workspace: Path) -> None:
    report = run_all(request_for())
    for artifact in report.artifacts:
        assert (workspace / report.run_folder / artifact.path).stat().st_mode & 0o222 == 0


def test_a_missing_picture_is_named_and_stops_what_needs_it(request_for: Make, run_all: Go, data: Path) -> None:
    request = request_for()
    (data / "two" / "b.png").unlink()
    report = by_name(run_all(request))
    assert report["fetch"].status == "failed"
    assert "b.png is missing" in report["fetch"].reason
    assert (report["export"].status, report["export"].reason) == ("skipped", "fetch failed")


def test_a_corrupt_picture_is_named(request_for: Make, run_all: Go, data: Path) -> None:
    request = request_for()
    (data / "two" / "a.png").write_bytes(b"no picture")
    assert "a.png is corrupt" in by_name(run_all(request))["preprocess"].reason


def test_a_fault_of_a_stage_is_one_line_and_its_traceback_an_artifact(
    request_for: Make, run_all: Go, workspace: Path
) -> None:
    broken = MODULE.replace("np.asarray(Image", "1 / 0, np.asarray(Image")
    report = run_all(request_for(module=broken))
    stage = by_name(report)["preprocess"]
    assert stage.status == "failed"
    assert "\n" not in stage.reason
    assert "ZeroDivisionError" in stage.reason
    text = (workspace / report.run_folder / "artifacts/preprocess/error.txt").read_text()
    assert "Traceback" in text
    assert not report.ok


def test_a_model_that_ends_the_process_is_a_failed_stage(request_for: Make, run_all: Go) -> None:
    leaving = MODULE.replace("def build_model():", "def build_model():\n        raise SystemExit('bye')")
    stage = by_name(run_all(request_for(module=leaving)))["fetch"]
    assert stage.status == "failed"
    assert stage.reason.startswith("SystemExit: bye")


def test_a_full_disk_is_named_whatever_the_library_said(
    request_for: Make, run_all: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:603] unexpected pos 1024 vs 918")

    monkeypatch.setattr("torch.save", full)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=4096))
    report = run_all(request_for())
    stage = by_name(report)["fetch"]
    assert (stage.status, stage.outputs) == ("failed", ())
    assert stage.reason == "the workspace's disk is full; free some space and run again"


def test_a_failure_is_not_remembered(request_for: Make, run_all: Go, data: Path) -> None:
    picture = (data / "two" / "b.png").read_bytes()
    request = request_for(1)
    (data / "two" / "b.png").unlink()
    assert not run_all(request).ok
    (data / "two" / "b.png").write_bytes(picture)
    assert run_all(request_for(2)).ok


def start(request: RunRequest, workspace: Path, data: Path, *more: str) -> subprocess.Popen[bytes]:
    folder = workspace / request.run_folder
    (folder / "request.json").write_bytes(encode(request))
    command = [sys.executable, "-m", "pipelines", f"{request.run_folder}/request.json"]
    command += ["--workspace", str(workspace), "--data", str(data), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("after_events", [2, 4, 7])
def test_killed_at_any_point_the_next_run_gives_the_same_report(
    request_for: Make, run_all: Go, workspace: Path, data: Path, after_events: int
) -> None:
    killed = start(request_for(1), workspace, data)
    assert killed.stdout is not None
    for _ in range(after_events):
        killed.stdout.readline()
    killed.kill()
    killed.communicate()
    assert not (workspace / "small/1/report.json").exists()
    after = run_all(request_for(2))
    fresh = run_all(request_for(3, use_cache=False))
    assert after.ok
    assert told(after) == told(fresh)
    assert list((workspace / ".cache/scratch").iterdir()) == []  # what the killed one left is gone as well


def test_the_process_gives_events_and_a_report_and_its_exit_code(
    request_for: Make, workspace: Path, data: Path
) -> None:
    noisy = MODULE.replace("def build_model():", "def build_model():\n        print('noise')")
    running = start(request_for(module=noisy), workspace, data)
    out, err = running.communicate()
    assert running.returncode == 0, err
    events = [msgspec.json.decode(line, type=Event) for line in out.splitlines()]  # the noise is not among them
    assert (events[0].kind, events[-1].kind, events[-1].status) == ("run_started", "run_finished", "ok")
    assert b"noise" in err
    folder = workspace / "small/1"
    assert (folder / "events.jsonl").read_bytes() == out
    assert msgspec.json.decode((folder / "report.json").read_bytes(), type=RunReport).ok


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_no_half_files(
    request_for: Make, workspace: Path, data: Path, sent: signal.Signals
) -> None:
    running = start(request_for(), workspace, data)
    assert running.stdout is not None
    running.stdout.readline()
    time.sleep(0.2)
    running.send_signal(sent)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 128 + sent
    assert b"Traceback" not in err
    assert list((workspace / ".cache/scratch").glob("*")) == []


def test_two_runs_at_once_do_not_harm_each_other(request_for: Make, workspace: Path, data: Path) -> None:
    both = [start(request_for(number), workspace, data) for number in (1, 2)]
    ends = [one.communicate() for one in both]
    assert [one.returncode for one in both] == [0, 0], ends
    reports = [
        msgspec.json.decode((workspace / f"small/{number}/report.json").read_bytes(), type=RunReport)
        for number in (1, 2)
    ]
    assert told(reports[0]) == told(reports[1])


def test_the_same_request_may_run_again_in_its_own_folder(request_for: Make, run_all: Go, workspace: Path) -> None:
    request = request_for()
    first = run_all(request)
    (workspace / request.run_folder / "artifacts" / "left-over").touch()
    assert told(run_all(request)) == told(first)
    made = (workspace / request.run_folder / "artifacts").rglob("*")
    assert {path.relative_to(workspace / request.run_folder).as_posix() for path in made if path.is_file()} == {
        artifact.path for artifact in first.artifacts
    }


@pytest.mark.parametrize("folder", ["gone", "../elsewhere", "/tmp"])
def test_a_run_folder_outside_the_workspace_is_refused(
    request_for: Make, workspace: Path, data: Path, folder: str
) -> None:
    (workspace.parent / "elsewhere").mkdir()
    request = msgspec.structs.replace(request_for(), run_folder=folder)
    (workspace / "request.json").write_bytes(encode(request))
    command = [sys.executable, "-m", "pipelines", "request.json", "--workspace", str(workspace), "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"request.json: its run folder {folder} is not in the workspace\n"


def refused(arguments: list[str]) -> str:
    done = subprocess.run([sys.executable, "-m", "pipelines", *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr.strip().splitlines()[-1]


def test_a_model_s_name_is_no_path(request_for: Make, workspace: Path, data: Path) -> None:
    request = msgspec.structs.replace(request_for(), model="../small")
    (workspace / "request.json").write_bytes(encode(request))
    said = refused(["request.json", "--workspace", str(workspace), "--data", str(data)])
    assert said == "request.json: '../small' is no plain name, and files are named after it"


def test_no_threads_are_refused() -> None:
    assert "--threads: 0 is less than 1" in refused(["request.json", "--workspace", ".", "--data", ".", "--threads=0"])


def test_threads_bound_what_the_stages_use(
    request_for: Make, workspace: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    telling = MODULE.replace(
        "def build_model():", "def build_model():\n        print('threads', torch.get_num_threads())"
    )
    running = start(request_for(module=telling), workspace, data, "--threads=1")
    _, err = running.communicate()
    assert running.returncode == 0, err
    assert b"threads 1\n" in err


@pytest.mark.parametrize("blocked", [".cache", "small/1/events.jsonl"])
def test_a_workspace_that_can_not_be_written_is_one_line(
    request_for: Make, workspace: Path, data: Path, blocked: str
) -> None:
    """A thing of the wrong kind stands where the run writes: that stops root, too."""
    request = request_for()
    if blocked == ".cache":
        (workspace / blocked).touch()
    else:
        (workspace / blocked).mkdir()
    running = start(request, workspace, data)
    _, err = running.communicate()
    assert running.returncode == 1
    assert err.decode().startswith("the workspace can't be written: ")
    assert len(err.decode().strip().splitlines()) == 1


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 99}', "no json"])
def test_a_request_that_is_none_is_refused_in_one_line(workspace: Path, data: Path, text: str) -> None:
    workspace.mkdir(exist_ok=True)
    (workspace / "request.json").write_text(text)
    command = [sys.executable, "-m", "pipelines", "request.json", "--workspace", str(workspace), "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_answer_from_the_cache_imports_nothing_heavy(
    request_for: Make, run_all: Go, workspace: Path, data: Path
) -> None:
    run_all(request_for(1))
    request = request_for(2)
    (workspace / request.run_folder / "request.json").write_bytes(encode(request))
    words = ["pipelines", f"{request.run_folder}/request.json", "--workspace", str(workspace), "--data", str(data)]
    ask = f"import sys; sys.argv = {words!r}\nfrom pipelines.__main__ import main\ncode = main()\n"
    ask += "print(code, sorted({'torch', 'onnx', 'onnxruntime', 'numpy', 'PIL'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("0 []")


facts = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5))


@given(facts)
def test_what_is_put_into_the_cache_comes_out_again(values: dict[str, Any]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder))
        entry = Entry(status="ok", reason="", summary="s", facts=values, outputs=())
        key = key_of("stage", values)
        cache.put(key, entry)
        assert cache.find(key) == entry
        assert cache.find(key_of("stage", values, 1)) is None


def test_an_output_survives_where_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no links here")

    cache = Cache(tmp_path / "cache")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_bytes(b"content")
    outputs = cache.take(tmp_path / "out")
    monkeypatch.setattr(os, "link", refuse)
    laid = cache.lay_out(outputs, tmp_path / "run")
    assert laid["file"].read_bytes() == b"content"
    assert list((tmp_path / "run").iterdir()) == [laid["file"]]


def test_what_verify_found_is_written_down_though_it_failed(request_for: Make, run_all: Go, workspace: Path) -> None:
    other = MODULE.replace("return image_preprocess(path).transpose", "return -image_preprocess(path).transpose")
    report = run_all(request_for(module=other))
    assert (by_name(report)["verify"].status, by_name(report)["collect"].status) == ("failed", "ok")
    assert not report.ok
    text = (workspace / report.run_folder / "artifacts/collect/small_results.txt").read_text()
    assert "failed  onnx_preprocess equals image_preprocess" in text
