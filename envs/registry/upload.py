"""A blob into a registry: not sent where it is there, lent by another repository, else in pieces that can go on."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Literal

import requests

from envs.errors import RegistryError
from envs.layers import Known, Layer
from envs.progress import Bar
from envs.registry import memory
from envs.registry.client import Client, digest_of, location
from envs.registry.trust import Away

PIECE = 16 << 20  # bytes of one request: a break costs at most these
PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # before each new try; one that moved on starts them anew

Outcome = Literal["there", "lent", "sent"]


def bytes_blob(content: bytes, name: str) -> Layer:
    """A small document as a blob."""
    return Layer(name, "", Known(digest_of(content), len(content)), Path(name), lambda: iter([content]))


def push_blob(client: Client, blob: Layer, bar: Bar) -> Outcome:
    """The registry has the blob afterwards. RegistryError where it refuses or stays away."""
    if blob.diff_id and client.has_blob(blob.diff_id, blob.bytes):
        bar.advance(blob.bytes)
        return "there"
    if blob.diff_id:
        for repository in memory.lenders(client.host, client.repository, blob.diff_id):
            if _lent(client, blob.diff_id, repository):
                bar.advance(blob.bytes)
                return "lent"
    _Upload(client, blob, bar).run()
    return "sent"


def _lent(client: Client, digest: str, repository: str) -> bool:
    """A registry that does not lend opens an upload instead, or refuses: both mean no."""
    try:
        url = client.url(f"blobs/uploads/?mount={digest}&from={repository}")
        response = client.send("POST", url)
        if response.status_code == 202:
            with contextlib.suppress(Away):
                client.send("DELETE", location(response))
    except Away:
        raise
    except RegistryError:
        return False
    return response.status_code == 201


class _Upload:
    """One blob on its way: `_place` is where the registry takes more, `_offset` how much it said it has."""

    def __init__(self, client: Client, blob: Layer, bar: Bar) -> None:
        self._client = client
        self._blob = blob
        self._bar = bar
        self._place = ""
        self._offset = 0
        self._shown = 0
        self._least = 0
        self._own = client.url(f"blobs/{blob.diff_id}") if blob.diff_id else ""

    def run(self) -> None:
        """Until it is there; a registry that breaks off is asked how much it has, a few times."""
        tries = 0
        if self._own and (known := memory.upload_of(self._own)):
            self._place = known
            self._ask()
        try:
            while True:
                reached = self._offset
                try:
                    self._go_on()
                    break
                except Away:
                    tries = 0 if self._offset > reached else tries
                    if tries == len(PAUSES_S):
                        raise
                    sleep(PAUSES_S[tries])
                    tries += 1
                    with contextlib.suppress(Away):  # still away: the next try says so
                        if self._own and self._client.has_blob(str(self._blob.diff_id), self._blob.bytes):
                            break
                        self._ask()
        except BaseException:
            if self._own and self._offset:
                memory.note_upload(self._own, self._place)
            raise
        if self._own:
            memory.forget_upload(self._own)
        self._show(self._blob.bytes)

    def _go_on(self) -> None:
        if not self._place:
            self._begin()
        for piece in _pieces(self._blob.stream(), self._offset, max(PIECE, self._least)):
            self._patch(piece)
        if self._offset != self._blob.bytes:
            raise self._start_over(f"took {self._offset} of {self._blob.bytes} bytes")
        mark = "&" if "?" in self._place else "?"
        url = f"{self._place}{mark}digest={self._blob.diff_id}"
        response = self._client.send("PUT", url, headers={"Content-Type": "application/octet-stream"})
        self._check(response, url, (201, 204))

    def _begin(self) -> None:
        url = self._client.url("blobs/uploads/")
        response = self._client.send("POST", url)
        if response.status_code != 202:
            raise self._client.refused(response, url)
        self._place, self._offset = location(response), 0
        self._least = int(response.headers.get("OCI-Chunk-Min-Length") or 0)

    def _patch(self, piece: bytes) -> None:
        end = self._offset + len(piece)
        headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{self._offset}-{end - 1}"}
        response = self._client.send("PATCH", self._place, data=piece, headers=headers)
        self._check(response, self._place, (202,))
        has = _received(response)
        if has not in (None, end):  # a registry may take a wrong offset without a word
            raise self._start_over(f"has {has} bytes where {end} were sent")
        self._place, self._offset = location(response), end
        self._show(end)

    def _check(self, response: requests.Response, url: str, good: tuple[int, ...]) -> None:
        if response.status_code in good:
            return
        error = self._client.refused(response, url)
        if response.status_code in (400, 404, 409, 416):  # the upload is lost: not the registry
            self._place, self._offset = "", 0
            raise Away(error.message, error.remedy)
        raise error

    def _ask(self) -> None:
        """How much the registry has; an upload it no longer knows begins anew."""
        has = None
        if self._place:
            response = self._client.send("GET", self._place)
            if response.status_code == 204 and (has := _received(response)) is not None:
                self._place = location(response)
        if has is None or has <= 1 or has > self._blob.bytes:  # 0-0 is said of none and of one byte
            self._place, self._offset = "", 0
        else:
            self._offset = has
            self._show(has)

    def _start_over(self, why: str) -> Away:
        self._place, self._offset = "", 0
        return Away(f"{self._client.name}: the registry {why}", "push again")

    def _show(self, offset: int) -> None:
        self._bar.advance(max(0, offset - self._shown))
        self._shown = max(self._shown, offset)


def _received(response: requests.Response) -> int | None:
    """How many bytes the registry says it has, None where it does not say."""
    said = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", ""))
    return int(said[1]) + 1 if said else None


def _pieces(chunks: Iterator[bytes], skip: int, size: int) -> Iterator[bytes]:
    """What follows the first `skip` bytes, in pieces of `size`; the last may be shorter."""
    buffer = bytearray()
    for chunk in chunks:
        if skip >= len(chunk):
            skip -= len(chunk)
            continue
        buffer += chunk[skip:]
        skip = 0
        while len(buffer) >= size:
            yield bytes(buffer[:size])
            del buffer[:size]
    if buffer:
        yield bytes(buffer)
