"""The engine's raw streams: what a container writes as it writes it, and a command that talks with our own terminal."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import sys
import termios
import threading
import time
import tty as terminal
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader
from types import FrameType, TracebackType
from typing import Any

import docker

HEADER_BYTES = 8  # stream number, three zeros, length: the engine's framing where there is no terminal
STDERR = 2


class Attached:
    """A container's stdout and stderr, attached before it starts so that nothing is missed."""

    def __init__(self, client: docker.DockerClient, container: str, *, stdin: bool) -> None:
        params = {"stdout": 1, "stderr": 1, "stream": 1, "stdin": int(stdin)}
        self._socket: Any = client.api.attach_socket(container, params=params)

    def __enter__(self) -> Attached:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _close(self._socket)

    def blocks(self) -> Iterator[tuple[bool, bytes]]:
        """(is stderr, bytes) until the container closes its streams."""
        yield from _frames(_reader(self._socket))


def converse(
    client: docker.DockerClient,
    container: str,
    command: Sequence[str],
    variables: Mapping[str, str],
    workdir: str | None,
    *,
    tty: bool,
) -> int:
    """Run a command in a running container with this process's stdin, stdout and stderr; its exit code."""
    api: Any = client.api  # the stubs lack half of exec's arguments
    mark = f"/tmp/.exec-{secrets.token_hex(8)}"  # noqa: S108 - the container's own tmpfs
    # without a terminal nothing else tells which process to pass a Ctrl-C to
    words = list(command) if tty else ["sh", "-c", 'echo $$ >"$0"; exec "$@"', mark, *command]
    made = api.exec_create(
        container, words, stdin=True, tty=tty, environment=dict(variables), workdir=workdir, stdout=True, stderr=True
    )["Id"]
    stream = api.exec_start(made, tty=tty, socket=True)
    with contextlib.ExitStack() as undo:
        undo.callback(_close, stream)
        if tty:
            undo.enter_context(_raw_terminal(lambda: _resize(api, made)))
        threading.Thread(target=_forward_stdin, args=(stream,), daemon=True).start()
        while True:
            try:
                _show(_reader(stream), tty)
                break
            except KeyboardInterrupt:
                _signal(api, container, mark, "INT")
            except SystemExit:
                _signal(api, container, mark, "TERM")
                raise
    return _exit_code(api, made)


def _reader(stream: Any) -> BufferedReader:
    """The buffered reader under the SDK's socket: it may hold bytes that came with the reply's headers."""
    reader: BufferedReader = stream._response.raw._fp.fp
    return reader


def _frames(reader: BufferedReader) -> Iterator[tuple[bool, bytes]]:
    while len(header := reader.read(HEADER_BYTES)) == HEADER_BYTES:
        left = int.from_bytes(header[4:], "big")
        while left:
            block = reader.read1(min(left, 1 << 16))
            if not block:
                raise ConnectionError("the engine closed the stream inside a frame")
            yield header[0] == STDERR, block
            left -= len(block)
    if header:
        raise ConnectionError("the engine closed the stream inside a frame")


def _show(reader: BufferedReader, tty: bool) -> None:
    if tty:
        while block := reader.read1(1 << 16):
            _write(sys.stdout.fileno(), block)
        return
    for is_error, block in _frames(reader):
        _write(sys.stderr.fileno() if is_error else sys.stdout.fileno(), block)


def _write(descriptor: int, block: bytes) -> None:
    while block:
        block = block[os.write(descriptor, block) :]


def _forward_stdin(stream: Any) -> None:
    raw: socket.socket = getattr(stream, "_sock", stream)
    with contextlib.suppress(OSError, ValueError):  # the command ended first, or there is no stdin
        while block := os.read(0, 1 << 16):
            raw.sendall(block)
    with contextlib.suppress(OSError):
        raw.shutdown(socket.SHUT_WR)  # the command sees the end of its input, its output still comes


@contextlib.contextmanager
def _raw_terminal(resize: Any) -> Iterator[None]:
    """Keys go to the command as they are typed; its terminal has our size, also after ours changes."""

    def changed(number: int, frame: FrameType | None) -> None:
        del number, frame
        resize()

    before = termios.tcgetattr(0)
    handler = signal.signal(signal.SIGWINCH, changed)
    terminal.setraw(0)
    try:
        resize()
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, handler)


def _resize(api: Any, made: str) -> None:
    size = shutil.get_terminal_size()
    with contextlib.suppress(docker.errors.APIError):  # it ended meanwhile
        api.exec_resize(made, height=size.lines, width=size.columns)


def _signal(api: Any, container: str, mark: str, name: str) -> None:
    """Pass a signal on to the command, and to its group where it leads one."""
    script = 'p=$(cat "$0") && { kill -s "$1" -- "-$p" 2>/dev/null || kill -s "$1" "$p"; }'
    with contextlib.suppress(docker.errors.APIError):
        made = api.exec_create(container, ["sh", "-c", script, mark, name])["Id"]
        api.exec_start(made)


def _exit_code(api: Any, made: str) -> int:
    for _ in range(100):  # the streams may close a moment before the engine has noted the end
        state = api.exec_inspect(made)
        if not state["Running"] and state["ExitCode"] is not None:
            return int(state["ExitCode"])
        time.sleep(0.02)
    raise ConnectionError("the engine does not say how the command ended")


def _close(stream: Any) -> None:
    with contextlib.suppress(OSError):
        stream.close()
