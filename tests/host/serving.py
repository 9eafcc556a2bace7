"""A package index and file server on loopback, and wheels small enough to make in a test."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from envs.lock import LockedWheel


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by path; honours Range; counts requests; `break_after` cuts the first reply short."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.socket.setblocking(False)  # a client that leaves between select and accept must not stop the server
        self.files: dict[str, tuple[str, bytes]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.break_after: int | None = None
        self.block_s = 0.0  # a pause after every 64 KiB
        self.token = ""  # where set, /v2/ wants it and /token gives it

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add_wheels(self, folder: Path, html: bool = False) -> None:
        """List all wheels of a folder as an index under /simple."""
        projects: dict[str, list[Path]] = {}
        for wheel in sorted(folder.glob("*.whl")):
            projects.setdefault(wheel.name.split("-")[0].replace("_", "-").lower(), []).append(wheel)
        for project, wheels in projects.items():
            listed = []
            for wheel in wheels:
                content = wheel.read_bytes()
                self.files[f"/files/{wheel.name}"] = ("application/zip", content)
                listed.append((wheel.name, hashlib.sha256(content).hexdigest(), len(content)))
            if html:
                links = "".join(f'<a href="../../files/{n}#sha256={h}">{n}</a><br>' for n, h, _ in listed)
                self.files[f"/simple/{project}/"] = ("text/html", links.encode())
            else:
                entries = [
                    {"filename": n, "url": f"../../files/{n}", "hashes": {"sha256": h}, "size": size}
                    for n, h, size in listed
                ]
                kind = "application/vnd.pypi.simple.v1+json"
                body = {"meta": {"api-version": "1.0"}, "name": project, "files": entries}
                self.files[f"/simple/{project}/"] = (kind, json.dumps(body).encode())


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        if self.path.startswith("/token?") and self.server.token:
            self.server.files[self.path] = ("application/json", json.dumps({"token": self.server.token}).encode())
        elif self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", f'Bearer realm="{self.server.url}/token",service="s",scope="pull"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path not in self.server.files:
            self.send_error(404)
            return
        kind, content = self.server.files[self.path]
        first, _, last = (wanted or "bytes=0-").removeprefix("bytes=").partition("-")
        begin = int(first) if first else max(len(content) - int(last), 0)
        end = min(int(last) + 1, len(content)) if first and last else len(content)
        if wanted and begin >= len(content):
            self.send_error(416)
            return
        body = content[begin:end]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.break_after is not None and kind != "application/vnd.pypi.simple.v1+json":
            body, self.server.break_after = body[: self.server.break_after], None
            self.close_connection = True
        for start in range(0, len(body), 1 << 16):
            self.wfile.write(body[start : start + (1 << 16)])
            time.sleep(self.server.block_s)

    def log_message(self, format: str, *args: object) -> None:
        return


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def make_wheel(folder: Path, name: str, version: str, files: dict[str, bytes], requires: str = "") -> LockedWheel:
    """A pure wheel with a true RECORD, and its lock entry."""
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    whole = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, content in whole.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(content)}\n")
    whole[f"{info}/RECORD"] = ("".join(rows) + f"{info}/RECORD,,\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, content in whole.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), content)
    content = target.read_bytes()
    return LockedWheel(
        name=name, version=version, file=target.name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)
    )
