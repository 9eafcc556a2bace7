"""A server on loopback that answers word for word what a test wrote down, right or wrong, with or without TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator


class Scripted:
    """Answers each connection with the next of `answers` (the last one goes on for ever) and hangs up."""

    def __init__(self, answers: list[bytes], context: ssl.SSLContext | None = None) -> None:
        self.answers = list(answers)
        self.requests: list[str] = []
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        scheme = "https" if self._context else "http"
        return f"{scheme}://localhost:{self._listening.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                talk = self._context.wrap_socket(connection, server_side=True) if self._context else connection
                asked = b""
                while b"\r\n\r\n" not in asked:
                    asked += talk.recv(65536) or b"\r\n\r\n"
                self.requests.append(asked.decode("latin-1"))
                talk.sendall(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@contextlib.contextmanager
def answering(*answers: bytes, context: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """A scripted server for the time of a block."""
    made = Scripted(list(answers), context)
    try:
        yield made
    finally:
        made.close()


def reply(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """An answer whose Content-Length is true unless the test gives another; `_` in a name stands for `-`."""
    fields = {"Content_Length": str(len(body)), "Connection": "close", **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body
