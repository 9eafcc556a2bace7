"""Debian's docker-registry on loopback: plain, with TLS of a self-made authority, with passwords or tokens."""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from envs.image import ImagePlan
from envs.layers import Layer
from envs.progress import Silent
from envs.registry.client import Client
from envs.registry.push import Pushed, push_image
from envs.registry.reference import parse_reference

USER, PASSWORD = "kiln-user", "s3cret-of-the-tests"


def needs(*programs: str) -> None:
    """Skip, with the reason, where a program is missing; never where CI=true."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing and os.environ.get("CI") != "true":
        pytest.skip(f"not installed here: {', '.join(missing)}")
    assert not missing, f"CI lacks {missing}"


class Registry:
    """A registry program with its storage; the address stays when it is stopped and started again."""

    def __init__(self, folder: Path, *, tls: Path | None = None, users: bool = False, token: str = "") -> None:
        self.folder = folder
        self.storage = folder / "storage"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self._program: subprocess.Popen[bytes] | None = None
        settings: dict[str, object] = {"addr": self.host, "secret": "fixed"}
        if tls:
            settings["tls"] = {"certificate": f"{tls}/server.crt", "key": f"{tls}/server.key"}
        auth: dict[str, object] = {}
        if users:
            lines = subprocess.run(["htpasswd", "-Bbn", USER, PASSWORD], capture_output=True, check=True).stdout
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "users").write_bytes(lines)
            auth = {"htpasswd": {"realm": "tests", "path": str(folder / "users")}}
        if token:
            service = {"service": "tests", "issuer": "tests", "rootcertbundle": str(authority() / "ca.crt")}
            auth = {"token": {"realm": token, **service}}
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}},
            "http": settings,
            **({"auth": auth} if auth else {}),
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML

    def start(self) -> None:
        self.stop()
        with (self.folder / "log").open("ab") as log:
            self._program = subprocess.Popen(
                ["docker-registry", "serve", str(self.folder / "config.yml")], stdout=log, stderr=log
            )
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._program.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.02)
        raise AssertionError("the registry does not listen")

    def stop(self) -> None:
        """At once, as when a machine dies."""
        if self._program is not None:
            self._program.send_signal(signal.SIGKILL)
            self._program.wait()
            self._program = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def blob_path(self, digest: str) -> Path:
        """Where it keeps a blob or manifest."""
        hexadecimal = digest.removeprefix("sha256:")
        return self.storage / "docker/registry/v2/blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"


@contextlib.contextmanager
def registry(folder: Path, *, tls: bool = False, users: bool = False, token: str = "") -> Iterator[Registry]:
    needs("docker-registry", *(["htpasswd"] if users else []))
    made = Registry(folder, tls=authority() if tls else None, users=users, token=token)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@functools.cache
def authority() -> Path:
    """A folder with ca.crt, and server.crt and server.key for 127.0.0.1 that it signed."""
    needs("openssl")
    folder = Path(tempfile.mkdtemp(prefix="edgekiln-ca-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_authority(folder)
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tests", "-keyout", "server.key", "-out", "csr", at=folder
    )
    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "3650", "-extfile", "names")
    openssl("x509", "-req", "-in", "csr", *signed, "-out", "server.crt", at=folder)
    return folder


def make_authority(folder: Path) -> None:
    """ca.crt and ca.key."""
    folder.mkdir(parents=True, exist_ok=True)
    made = ("-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=authority of the tests")
    openssl("req", "-x509", *made, "-keyout", "ca.key", "-out", "ca.crt", at=folder)


def openssl(*words: str, at: Path, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], cwd=at, input=stdin, capture_output=True, check=True).stdout


def signed_token(access: list[dict[str, object]], user: str) -> str:
    """A token as docker-registry wants it, signed by the authority of the tests."""
    der = openssl("x509", "-in", "ca.crt", "-outform", "DER", at=authority())
    now = int(time.time())
    header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
    claims = {"iss": "tests", "sub": user, "aud": "tests", "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1"}
    text = f"{_part(header)}.{_part({**claims, 'access': access})}"
    signature = openssl("dgst", "-sha256", "-sign", "ca.key", at=authority(), stdin=text.encode())
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _part(fields: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).rstrip(b"=").decode()


def log_in(folder: Path, host: str, user: str = USER, password: str = PASSWORD) -> Path:
    """A docker config.json as `docker login` leaves it; DOCKER_CONFIG is to name the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": encoded}}}))
    return folder


def plan_of(*contents: bytes, name: str = "pushed", lock_digest: str = "sha256:" + "1" * 64) -> ImagePlan:
    """An image of these layers, whose digests nobody knows yet."""
    layers = tuple(
        Layer(f"part-{place}", "a part", len(content), Path("test"), lambda content=content: iter([content]))
        for place, content in enumerate(contents)
    )
    return ImagePlan(name, lock_digest, "linux/amd64", 1767225600, "a test", layers)


def push(plan: ImagePlan, target: str) -> Pushed:
    """Push it as the verb does."""
    reference = parse_reference(target)
    client = Client.of_host(reference.host, reference.repository, "pull,push")
    return push_image(client, plan, reference, Silent())


Answer = tuple[int, dict[str, str], bytes]


class Scripted(http.server.ThreadingHTTPServer):
    """Answers as a function says, and keeps what it was asked: method, path, headers."""

    daemon_threads = True

    def __init__(self, answer: Callable[[str, str, dict[str, str], bytes], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Scripted)
        self.answer = answer
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.host = f"127.0.0.1:{self.server_address[1]}"


class _Scripted(http.server.BaseHTTPRequestHandler):
    server: Scripted
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        self.server.seen.append((self.command, self.path, headers))
        status, replied, content = self.server.answer(self.command, self.path, headers, body)
        self.send_response(status)
        for name, value in replied.items():
            self.send_header(name, value)
        if "Content-Length" not in replied:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def log_message(self, format: str, *args: object) -> None:
        return


@contextlib.contextmanager
def scripted(answer: Callable[[str, str, dict[str, str], bytes], Answer]) -> Iterator[Scripted]:
    server = Scripted(answer)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
