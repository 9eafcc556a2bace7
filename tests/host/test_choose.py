"""Which engine is taken, and what is said of the others."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from envs.engines import docker_connect
from envs.engines.choose import choose
from envs.errors import EngineError, WrongUse

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s"))
        made.listen()
        yield made


def answering(listening: socket.socket, answer: bytes) -> None:
    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with client:
                client.recv(1000)
                client.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()


def use_context(folder: Path, name: str, host: str) -> Path:
    meta = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host}}}))
    return meta


def test_an_unknown_kind_names_the_known() -> None:
    with pytest.raises(WrongUse, match="'podman' is not one of auto, docker, local"):
        choose("podman")


def test_local_as_asked() -> None:
    chosen = choose("local")
    assert (chosen.engine.name, chosen.docker) == ("local", None)
    assert chosen.why == "engine: local (as asked): this machine itself; no isolation of network or files"


def test_without_an_engine_auto_is_local_at_once(tmp_path: Path) -> None:
    script = (
        "import sys, time; began = time.monotonic()\n"
        "from envs.engines.choose import choose\n"
        "chosen = choose('auto'); print(time.monotonic() - began, 'docker' in sys.modules, chosen.why)"
    )
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DOCKER_HOST": f"unix://{tmp_path}/none", "HOME": "/"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    elapsed_s, imported, why = done.stdout.split(" ", 2)
    assert float(elapsed_s) < 0.3
    assert imported == "False"
    assert why.startswith(
        f"engine: local (no Docker Engine answers: no socket at {tmp_path}/none (DOCKER_HOST)): this machine itself"
    )


def test_docker_as_asked_does_not_fall_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    with pytest.raises(EngineError, match=r"no Docker Engine answers: .*; start or install one, or use --engine local"):
        choose("docker")


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("tcp://127.0.0.1:9", "127.0.0.1:9: Connection refused"),
        ("tcp://no.such.host.invalid:2375", "no.such.host.invalid:2375: "),
        ("tcp://127.0.0.1:many", "127.0.0.1:many: Port could not be cast"),
        ("carrier-pigeon://x", "carrier-pigeon://x"),
        ("ssh://nobody@127.0.0.1:9", "ssh://nobody@127.0.0.1:9"),
    ],
)
def test_hosts_that_cant_be_used_are_one_line(monkeypatch: pytest.MonkeyPatch, host: str, reason: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(EngineError) as caught:
        choose("docker")
    assert reason in caught.value.message
    assert "\n" not in str(caught.value)
    assert choose("auto").engine.name == "local"


def test_a_socket_that_says_nothing(monkeypatch: pytest.MonkeyPatch, listening: socket.socket) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{listening.getsockname()}")
    monkeypatch.setattr(docker_connect, "ANSWER_S", 0.2)
    began = time.monotonic()
    assert "says nothing" in choose("auto").why
    assert time.monotonic() - began < 2


def test_a_socket_of_something_else(monkeypatch: pytest.MonkeyPatch, listening: socket.socket) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{listening.getsockname()}")
    answering(listening, b"SSH-2.0-x\r\n")
    assert "what answers is no engine" in choose("auto").why


def test_an_engine_that_is_too_old_says_so(monkeypatch: pytest.MonkeyPatch, listening: socket.socket) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{listening.getsockname()}")
    body = b'{"Version": "19.03.9", "ApiVersion": "1.40", "MinAPIVersion": "1.12"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    answering(listening, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    with pytest.raises(EngineError, match=r"Docker Engine 19.03.9 at .* is too old; 20.10 and newer"):
        choose("docker")


def test_a_refused_permission_is_named_and_mended(tmp_path: Path) -> None:
    """In a process that is no root: root may open any socket."""
    folder = Path("/tmp") / f"choose-{os.getpid()}"
    folder.mkdir()
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(folder / "s"))
            (folder / "s").chmod(0)
            folder.chmod(0o755)
            script = (
                "import os\n"
                "from envs.engines.choose import choose\n"  # before: nobody may not read where packages lie
                f"if os.getuid() == 0: os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
                "print(choose('auto').why)\n"
                "try: choose('docker')\n"
                "except Exception as error: print(type(error).__name__, error)"
            )
            env = {**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": f"unix://{folder}/s"}
            done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    finally:
        (folder / "s").unlink()
        folder.rmdir()
    auto, asked = done.stdout.splitlines()
    assert auto.startswith(f"engine: local (no Docker Engine answers: no permission on {folder}/s"), done.stderr
    assert asked.startswith("EngineError no Docker Engine answers: no permission on ")
    assert "usermod -aG docker" in asked
    assert "newgrp docker" in asked
    assert "--engine local" in asked


def test_the_context_in_use_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listening: socket.socket) -> None:
    answering(listening, b"HTTP/1.0 200 OK\r\n\r\nOK")
    url = f"unix://{listening.getsockname()}"
    use_context(tmp_path / "docker", "mine", url)
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"currentContext": "mine", "auths": {}}))
    assert docker_connect.find() == docker_connect.Endpoint(url, "docker context mine")
    monkeypatch.setenv("DOCKER_CONTEXT", "theirs")
    with pytest.raises(EngineError, match="context 'theirs' can't be read; see `docker context ls`"):
        docker_connect.find()
    use_context(tmp_path / "docker", "theirs", "unix:///none")
    with pytest.raises(EngineError, match=r"no socket at /none \(docker context theirs\)"):
        docker_connect.find()
    monkeypatch.setenv("DOCKER_HOST", url)  # as for the docker command: it wins over contexts
    assert docker_connect.find().named_by == "DOCKER_HOST"


def test_a_context_with_tls_brings_its_files(tmp_path: Path) -> None:
    meta = use_context(tmp_path / "docker", "far", "ssh://far")
    (tmp_path / "docker" / "config.json").write_text('{"currentContext": "far"}')
    files = tmp_path / "docker" / "contexts" / "tls" / meta.parent.name / "docker"
    files.mkdir(parents=True)
    assert docker_connect.find().tls_folder == files


def test_a_broken_docker_config_is_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text("{")
    assert docker_connect._context() is None


@pytest.mark.engine
def test_auto_takes_the_engine_that_answers() -> None:
    chosen = choose("auto")
    assert chosen.engine is chosen.docker
    assert chosen.why == f"engine: docker ({chosen.engine.describe()} answers)"
