"""The engine's raw streams: what a container writes as it writes it, and a command that talks with our own terminal."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import termios
import threading
import time
import tty as terminal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BufferedReader
from types import FrameType
from typing import Any

from docker.errors import APIError, DockerException

import docker
from envs.engines.interrupts import held
from envs.errors import EngineError

HEADER_BYTES = 8  # stream number, three zeros, length: the engine's framing where there is no terminal
STDERR = 2
BLOCK_BYTES = 1 << 16
MARK = "EDGEKILN_EXEC"  # by it a signal finds the command and its children
SEND_SIGNAL = """
for p in /proc/[0-9]*; do
  if tr '\\0' '\\n' 2>/dev/null <"$p/environ" | grep -qx "$0"; then kill -s "$1" "${p#/proc/}" && found=1; fi
done
test "$found"
"""
GONE = "start it and run the same command again"


class Stream:
    """One connection that the engine turned into a two-way stream."""

    def __init__(self, opened: Any, *, tty: bool) -> None:
        self._opened = opened  # what the SDK returns; it keeps the HTTP response, and with it the connection
        self._socket: socket.socket = getattr(opened, "_sock", opened)
        self._socket.settimeout(None)  # a command may be silent for hours
        # not the socket itself: the reader may hold bytes that came together with the reply's headers
        self._reader: BufferedReader = opened._response.raw._fp.fp
        self._tty = tty

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def blocks(self) -> Iterator[tuple[bool, bytes]]:
        """(is stderr, bytes) until the other side closes."""
        return guarded(self._raw() if self._tty else self._frames())

    def _raw(self) -> Iterator[tuple[bool, bytes]]:
        while block := self._reader.read1(BLOCK_BYTES):
            yield False, block

    def _frames(self) -> Iterator[tuple[bool, bytes]]:
        while header := self._reader.read(HEADER_BYTES):
            left = int.from_bytes(header[4:], "big")
            while left or len(header) < HEADER_BYTES:
                block = self._reader.read1(min(left, BLOCK_BYTES))
                if not block:
                    raise ConnectionError("it closed inside a frame")
                yield header[0] == STDERR, block
                left -= len(block)

    def send(self, block: bytes) -> None:
        """Bytes for the command's stdin."""
        self._socket.sendall(block)

    def end_input(self) -> None:
        """The command sees the end of its input; its output still comes."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close it, also under a thread that sends."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._opened._response.close()


def attach(client: docker.DockerClient, container: str) -> Stream:
    """Stdout and stderr of a container; before it starts, so that nothing is missed."""
    params = {"stdout": 1, "stderr": 1, "stream": 1}
    return Stream(client.api.attach_socket(container, params=params), tty=False)


def guarded(blocks: Iterable[Any]) -> Iterator[Any]:
    """The same blocks; an engine that goes away while one is awaited is said so (what a taker raises is its own)."""
    waiting = iter(blocks)
    while True:
        try:
            block = next(waiting)
        except StopIteration:
            return
        except OSError as error:
            raise EngineError(f"the engine went away in the middle of a stream ({error})", GONE) from error
        yield block


def converse(
    client: docker.DockerClient,
    container: str,
    command: Sequence[str],
    variables: Mapping[str, str],
    workdir: str | None,
) -> int:
    """Run a command in a running container with this process's stdin, stdout and stderr; its exit code.

    A terminal's keys go to it as they are typed; off a terminal Ctrl-C and SIGTERM are passed on to it.
    """
    api: Any = client.api  # the stubs lack half of exec's arguments
    tty = os.isatty(0) and os.isatty(1)
    mark = {MARK: secrets.token_hex(8)}
    term = {"TERM": os.environ.get("TERM", "xterm")} if tty else {}
    environment = {**term, **variables, **mark}

    def pass_on(number: int) -> threading.Thread:
        # bash at a terminal ignores SIGTERM
        name = signal.Signals(signal.SIGHUP if tty and number == signal.SIGTERM else number).name.removeprefix("SIG")
        line = f"{MARK}={mark[MARK]}"
        thread = threading.Thread(target=_send_signal, args=(api, container, line, name), daemon=True)
        thread.start()
        return thread

    with held() as signals:
        made = api.exec_create(container, list(command), stdin=True, tty=tty, environment=environment, workdir=workdir)[
            "Id"
        ]
        with Stream(api.exec_start(made, tty=tty, socket=True), tty=tty) as stream, signals.passed_to(pass_on):
            with _raw_terminal(api, made) if tty else contextlib.nullcontext(), _stdin_to(stream):
                for is_error, block in stream.blocks():
                    try:
                        _write(2 if is_error else 1, block)
                    except OSError:  # whoever read our output is gone; unread output would hold up the engine
                        stream.close()
                        pass_on(signal.SIGTERM).join()
                        return 128 + signal.SIGPIPE
            return _exit_code(api, made)


def _write(descriptor: int, block: bytes) -> None:
    while block:
        block = block[os.write(descriptor, block) :]


@contextlib.contextmanager
def _stdin_to(stream: Stream) -> Iterator[None]:
    """Forward what arrives on stdin while the block runs, and not a byte more."""
    ended, end = os.pipe()
    thread = threading.Thread(target=_forward, args=(stream, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(end)
        stream.close()
        thread.join()
        os.close(ended)


def _forward(stream: Stream, ended: int) -> None:
    with contextlib.suppress(OSError):  # the command ended first, or there is no stdin
        while ended not in select.select([0, ended], [], [])[0] and (block := os.read(0, BLOCK_BYTES)):
            stream.send(block)
    with contextlib.suppress(OSError):
        stream.end_input()


@contextlib.contextmanager
def _raw_terminal(api: Any, made: str) -> Iterator[None]:
    """Keys go to the command as they are typed; its terminal has our size, also after ours changes."""

    def changed(number: int, frame: FrameType | None) -> None:
        del number, frame
        resize()

    def resize() -> None:
        threading.Thread(target=_resize, args=(api, made), daemon=True).start()

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
    size = os.get_terminal_size(1)

    def attempt() -> bool:
        with contextlib.suppress(APIError):
            api.exec_resize(made, height=size.lines, width=size.columns)
            return True
        return False

    _retry(attempt)


def _send_signal(api: Any, container: str, mark: str, name: str) -> None:
    def attempt() -> bool:
        made = api.exec_create(container, ["sh", "-c", SEND_SIGNAL, mark, name])["Id"]
        api.exec_start(made)
        return bool(api.exec_inspect(made)["ExitCode"] == 0)

    _retry(attempt)


def _retry(attempt: Callable[[], bool]) -> None:
    """Until it succeeds: the engine says that a command was started a moment before it is."""
    with contextlib.suppress(DockerException, OSError):  # an engine that went away is seen by who waits for it
        for _ in range(20):
            if attempt():
                return
            time.sleep(0.05)


def _exit_code(api: Any, made: str) -> int:
    """How the command ended; one that closed its streams may go on without them."""
    pause_s = 0.005
    while (state := api.exec_inspect(made))["Running"]:
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.5)
    return int(state["ExitCode"])
