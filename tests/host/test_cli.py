"""The command line as a person and as a machine meet it: one line, one document, the right exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import invoke as invoke_package
import pytest
from serving import serving

from envs.cli import after_dashes

ROOT = Path(__file__).resolve().parents[2]


def invoke(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "invoke", *words]
    env = {**os.environ, **variables}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


WRONG = [
    (["lokc"], "No idea what 'lokc' is"),
    (["run"], "run has no model"),
    (["run", "--modle", "x"], "--modle"),
    (["build", "--env", "sigmstar"], "did you mean sigmastar"),
    (["models", "--env", "nope"], "no environment is called 'nope'"),
    (["ps", "--engine", "dokcer"], "--engine 'dokcer' is not one of auto, docker, local"),
    (["exec", "--engine", "local"], "exec has no command"),
    (["lock", "--newest", "yesterday"], "--newest 'yesterday' is no day"),
    (["run", "--model", "x", "--sparsity", "2/4", "--engine", "local"], "--sparsity '2/4' is not N:M"),
    (["run", "--model", "x", "--keep", "auto", "--budget", "90%"], "--budget '90%' is no share"),
    (["run", "--model", "x", "--correct", "obd"], "--correct 'obd' is no method; did you mean obs?"),
    (["check-pattern", "no-such.onnx"], "no-such.onnx: no such file"),
    (["check-pattern", "README.md", "--sparsity", "2:2"], "--sparsity '2:2' is not N:M"),
    (["logs", "--engine", "local", "--name", "nobody"], "no container is called 'nobody'"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_wrong_use_is_one_line_and_code_2(words: list[str], said: str, tmp_path: Path) -> None:
    done = invoke(*words, EDGEKILN_CACHE=str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert said in line


def test_errors_are_documents_for_machines(tmp_path: Path) -> None:
    done = invoke("models", "--env", "nope", "--json", EDGEKILN_CACHE=str(tmp_path))
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert set(error) == {"code", "message", "remedy"}
    assert error["code"] == "wrong-use"


@pytest.mark.parametrize("verb", ["envs", "models"])
def test_json_is_one_document_and_nothing_else(verb: str, tmp_path: Path) -> None:
    done = invoke(verb, "--json", EDGEKILN_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) > 1


@pytest.mark.parametrize("verb", ["ps", "images"])
def test_an_empty_list_is_a_document_too(verb: str, tmp_path: Path) -> None:
    done = invoke(verb, "--engine", "local", "--json", EDGEKILN_CACHE=str(tmp_path))
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_an_unreachable_engine_is_code_3_and_says_what_to_do(tmp_path: Path) -> None:
    done = invoke("ps", "--engine", "docker", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.returncode == 3
    assert "no Docker Engine answers" in done.stderr
    assert "--engine local" in done.stderr


def test_auto_goes_on_without_an_engine_and_says_so(tmp_path: Path) -> None:
    variables = {"DOCKER_HOST": f"unix://{tmp_path}/none.sock", "EDGEKILN_CACHE": str(tmp_path)}
    done = invoke("ps", "--json", **variables)
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_an_unreachable_index_is_code_3(tmp_path: Path) -> None:
    variables = {
        "EDGEKILN_CACHE": str(tmp_path),
        "EDGEKILN_INDEX_URL": "http://127.0.0.1:9/simple",
        "EDGEKILN_INTERPRETER_URL": "http://127.0.0.1:9",
    }
    done = invoke("build", "--env", "light", "--engine", "local", **variables)
    assert done.returncode == 3, done.stderr
    assert "127.0.0.1 can't be reached" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "trees").glob("*")) == []


def test_no_space_left_is_one_line(tmp_path: Path) -> None:
    """/dev/full refuses every byte as a full disk does."""
    code = "from envs.cli import verb\n@verb\ndef task():\n    open('/dev/full', 'w').write('x' * 9999)\ntask()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "no space left on the disk; free some space" in done.stderr
    assert "error:" in done.stderr


def test_a_cache_that_can_not_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = invoke("build", "--env", "light", "--engine", "local", EDGEKILN_CACHE=str(tmp_path / "file" / "cache"))
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_words_after_dashes_keep_their_quoting() -> None:
    assert after_dashes(["invoke", "exec", "--", "sh", "-c", "echo 'a  b'"]) == ["sh", "-c", "echo 'a  b'"]
    assert after_dashes(["invoke", "exec"]) == []


def test_an_invoke_from_elsewhere_hands_over_to_the_tool_s_own(tmp_path: Path) -> None:
    """A Python that has invoke and nothing else: tasks.py becomes the tool's own interpreter."""
    if not (ROOT / ".venv/bin/python").exists():
        pytest.skip("./inv has not made .venv in this checkout")
    site = tmp_path / "site"
    site.mkdir()
    package = Path(invoke_package.__file__).parent
    for part in (package, *package.parent.glob("invoke-*.dist-info")):
        (site / part.name).symlink_to(part)
    python = Path(sys.base_prefix) / "bin" / "python3"
    command = [str(python), "-S", "-c", "import invoke.main; invoke.main.program.run()", "envs", "--json"]
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {one["env"] for one in json.loads(done.stdout)} >= {"light", "sigmastar"}


def test_ctrl_c_in_a_download_ends_at_once_and_leaves_what_resumes(tmp_path: Path) -> None:
    code = (
        "import signal, sys\nfrom envs.cli import verb\nfrom envs.fetch import Wanted, fetch\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # nohup and `&` leave it ignored
        "from envs.progress import Silent\nfrom invoke.exceptions import Exit\n"
        "@verb\ndef task():\n    fetch([Wanted('big', 'a' * 64, 0, lambda: sys.argv[1])], 'big', Silent())\n"
        "try:\n    task()\nexcept Exit as end:\n    sys.exit(end.code)\n"
    )
    with serving() as server:
        server.files["/big"] = ("application/octet-stream", bytes(64 << 20))
        server.block_s = 0.01
        env = {**os.environ, "EDGEKILN_CACHE": str(tmp_path)}
        command = [sys.executable, "-c", code, f"{server.url}/big"]
        child = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
        part = tmp_path / "store" / f"{'a' * 64}.part"
        while not (part.exists() and part.stat().st_size):
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=20)
    assert child.returncode == 130
    assert err.strip() == "interrupted"
    assert part.stat().st_size < 64 << 20
