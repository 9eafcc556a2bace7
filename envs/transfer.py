"""One transfer: bytes of one address into one file, whatever the server at the other end does.

Nothing here knows a lock. Whoever calls compares the hash, and only then uses the bytes.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

import requests
import urllib3

from envs import sources
from envs.errors import FetchError

TIMEOUT_S = (5, 60)  # connect, read
PARALLEL = 4
BLOCK = 1 << 20
BREAKS = 5  # so often one transfer may break and go on, if it moved each time
SLACK_BYTES = 1 << 20  # over the expected size, before a sender is cut off
LARGEST_BYTES = 32 << 30  # of a file whose size nobody said
LARGEST_DOCUMENT_BYTES = 256 << 20
MIRROR = f"check the network, or name a mirror ({', '.join(sources.VARIABLES.values())})"


class Unavailable(Exception):
    """An address gave no file; `reason` names the host and what it did, and nothing of the address besides."""

    def __init__(self, reason: str, *, host_is_down: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.host_is_down = host_is_down


class Body:
    """A file being received: what came is kept, so that a broken transfer goes on where it broke."""

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("a+b")
        self._advance = advance
        self._digest = hashlib.sha256()
        self.bytes = 0
        self._file.seek(0)
        while block := self._file.read(BLOCK):
            self._count(block)

    def __enter__(self) -> Body:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if not self.bytes:
            self._path.unlink()

    @property
    def sha256(self) -> str:
        """Hex sha256 of the bytes so far."""
        return self._digest.hexdigest()

    def add(self, block: bytes) -> None:
        """The next bytes."""
        self._file.write(block)
        self._count(block)

    def start_over(self) -> None:
        """Forget what is there."""
        self._file.truncate(0)
        self._advance(-self.bytes)
        self._digest, self.bytes = hashlib.sha256(), 0

    def is_html(self) -> bool:
        """Whether a web page came: what a login page, a proxy or an error page answers instead of a file."""
        self._file.flush()
        self._file.seek(0)
        return looks_like_html(self._file.read(512))

    def _count(self, block: bytes) -> None:
        self._digest.update(block)
        self.bytes += len(block)
        self._advance(len(block))


def looks_like_html(start: bytes) -> bool:
    """Whether these first bytes are those of a web page."""
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))


def receive(
    url: str,
    body: Body,
    *,
    expected_bytes: int = 0,
    auth: requests.auth.AuthBase | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Complete `body` from that address; a transfer that breaks is taken up again while it moves.

    Unavailable where it can't be had or the sender does not end. Ends early, and silently, once `stop` is set.
    """
    for _ in range(BREAKS):
        before = body.bytes
        try:
            for block in _blocks(url, body, auth):
                if stop is not None and stop.is_set():
                    return
                body.add(block)
                if body.bytes > (expected_bytes + SLACK_BYTES if expected_bytes else LARGEST_BYTES):
                    body.start_over()
                    size = f"the {expected_bytes:,} bytes that are locked" if expected_bytes else "any file has"
                    raise Unavailable(f"{host_of(url)} sends more than {size}")
        except _Broken as error:
            if body.bytes > before:
                continue
            raise Unavailable(f"{host_of(url)} breaks off: {error}") from error
        except requests.RequestException as error:
            raise unavailable(url, error) from error
        return
    raise Unavailable(f"{host_of(url)} breaks off again and again")


class _Broken(Exception):
    """The connection ended before the body did."""


def _blocks(url: str, body: Body, auth: requests.auth.AuthBase | None) -> Iterator[bytes]:
    if url.startswith("file://"):
        body.start_over()
        path = Path(unquote(urlsplit(url).path))
        try:
            with path.open("rb") as file:
                yield from iter(functools.partial(file.read, BLOCK), b"")
        except OSError as error:
            raise Unavailable(f"{path}: {error.strerror}") from error
        return
    response = _ask(url, body.bytes, auth)
    if body.bytes and (response.status_code == 416 or (response.status_code == 206 and _begin(response) != body.bytes)):
        response.close()  # more is here than there, or it would go on elsewhere: start over
        body.start_over()
        response = _ask(url, 0, auth)
    response.raise_for_status()
    if body.bytes and response.status_code != 206:
        body.start_over()
    promised = response.headers.get("Content-Length", "")
    came = 0
    try:
        # not decoded: the locked hash is of the file as it lies on the server
        for block in response.raw.stream(BLOCK, decode_content=False):
            came += len(block)
            yield block
    except urllib3.exceptions.HTTPError as error:
        raise _Broken("no answer in time" if "timed out" in str(error) else "the connection was lost") from error
    finally:
        response.close()
    if promised.isdigit() and came < int(promised):
        raise _Broken(f"{came:,} of {int(promised):,} bytes came")


def _ask(url: str, begin: int, auth: requests.auth.AuthBase | None) -> requests.Response:
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={begin}-"} if begin else {})
    return session().get(url, headers=headers, stream=True, timeout=TIMEOUT_S, auth=auth)


def _begin(response: requests.Response) -> int | None:
    """Where a partial answer begins; None where it is not told."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def unavailable(url: str, error: requests.RequestException) -> Unavailable:
    """Why an address gives nothing, in the reader's words."""
    host = host_of(url)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return Unavailable(f"{host} answers {error.response.status_code}")
    if isinstance(error, requests.exceptions.SSLError):
        return Unavailable(f"{host} fails its TLS check{_tls_reason(str(error))}", host_is_down=True)
    if isinstance(error, requests.Timeout):
        return Unavailable(f"{host} does not answer in time", host_is_down=True)
    is_down = re.search("establish a new connection|Failed to resolve", str(error)) is not None
    return Unavailable(f"{host} can't be reached", host_is_down=is_down)


def _tls_reason(text: str) -> str:
    now = dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    if "not yet valid" in text:
        return f": its certificate is not valid yet; this machine's clock says {now}, set it right"
    if "has expired" in text:
        return f": its certificate has expired; this machine's clock says {now}, set it right if it is wrong"
    if "self-signed" in text or "self signed" in text or "local issuer" in text:
        return ": its certificate is signed by nobody this machine knows (REQUESTS_CA_BUNDLE names more)"
    return ""


def host_of(url: str) -> str:
    """The host of an address, without whatever credentials it carries."""
    return urlsplit(url).hostname or "its source"


def unreachable(name: str, url: str, error: requests.RequestException) -> tuple[str, str]:
    """Message and remedy for a source that does not answer; names the host, which is configuration."""
    return f"{name}: {unavailable(url, error).reason}", MIRROR


@functools.cache
def session() -> requests.Session:
    """One session for connection reuse; certificates and proxies come from the environment, as requests reads them."""
    made = requests.Session()
    made.headers["User-Agent"] = "edgekiln"
    made.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=PARALLEL, max_retries=2))
    return made


def get(url: str) -> bytes:
    """A small document, whole. FetchError where it can't be had or a web page comes in its place."""
    name = url.rsplit("/", 1)[-1]
    if url.startswith("file://"):
        try:
            return Path(unquote(urlsplit(url).path)).read_bytes()
        except OSError as error:
            raise FetchError(f"{urlsplit(url).path}: {error.strerror}", MIRROR) from error
    content = bytearray()
    try:
        with session().get(url, stream=True, timeout=TIMEOUT_S) as response:
            response.raise_for_status()
            for block in response.iter_content(BLOCK):
                content += block
                if len(content) > LARGEST_DOCUMENT_BYTES:
                    raise FetchError(f"{name}: {host_of(url)} does not stop sending", "name another mirror")
    except requests.RequestException as error:
        raise FetchError(*unreachable(name, url, error)) from error
    if looks_like_html(bytes(content[:512])):
        raise FetchError(
            f"{name}: an HTML page came from {host_of(url)} instead of it",
            "look at it in a browser: a login page or a proxy answers, or the mirror's address is wrong",
        )
    return bytes(content)
