"""The one door for downloads: into the store by sha256, resumed, checked, several at a time.

A file is in `store/SHA256/NAME` only if its bytes had that sha256 when it was put there.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import msgspec
import requests

from envs import sources
from envs.errors import FetchError
from envs.files import exclusive
from envs.lock import LockedDeb, LockedWheel
from envs.paths import cache_root
from envs.progress import Progress

TIMEOUT_S = (5, 60)  # connect, read
PARALLEL = 4
BLOCK = 1 << 20


class Wanted(msgspec.Struct, frozen=True):
    """A file by its hash; `locate` gives its URL and is asked only when the store lacks it."""

    name: str
    sha256: str
    bytes: int
    locate: Callable[[], str]
    auth: requests.auth.AuthBase | None = None


def stored(sha256: str, name: str) -> Path:
    """Where the store keeps that file, there or not."""
    return cache_root() / "store" / sha256 / name


def keep(path: Path, sha256: str) -> Path:
    """Put a copy of a local file of that hash into the store."""
    target = stored(sha256, path.name)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = target.with_name(f".{path.name}.{os.getpid()}")
        shutil.copyfile(path, staging)
        staging.replace(target)
    return target


def fetch(wanted: Sequence[Wanted], label: str, progress: Progress) -> list[Path]:
    """Paths of all wanted files in the store, in order; what is missing is downloaded.

    FetchError names the file that can't be reached or whose bytes are not the locked ones.
    """
    missing = [item for item in wanted if not stored(item.sha256, item.name).exists()]
    if missing:
        bar = progress.bar(label, sum(item.bytes for item in missing))
        stop = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            jobs = [pool.submit(_download, item, bar.advance, stop) for item in missing]
            try:
                for job in concurrent.futures.as_completed(jobs):
                    job.result()
            finally:
                stop.set()  # after an error or Ctrl-C the others end at their next block
                pool.shutdown(cancel_futures=True)
                bar.close()
    return [stored(item.sha256, item.name) for item in wanted]


def _download(item: Wanted, advance: Callable[[int], None], stop: threading.Event) -> None:
    final = stored(item.sha256, item.name)
    partial = cache_root() / "store" / f"{item.sha256}.part"
    with exclusive(partial.with_suffix(".lock"), lambda: None):
        if final.exists():
            advance(item.bytes)
            return
        digest = hashlib.sha256()
        have = partial.stat().st_size if partial.exists() else 0
        if have:
            with partial.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
        url = item.locate()
        try:
            digest = _append(url, item.auth, partial, have, digest, advance, stop)
        except requests.RequestException as error:
            raise FetchError(*unreachable(item.name, url, error)) from error
        if stop.is_set() and digest.hexdigest() != item.sha256:
            return
        if digest.hexdigest() != item.sha256:
            partial.unlink()
            raise FetchError(
                f"{item.name}: sha256 is {digest.hexdigest()}, the lock says {item.sha256}",
                "the source serves other bytes than were locked: check it, or `invoke lock` if the change is wanted",
            )
        final.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(final)
        partial.with_suffix(".lock").unlink(missing_ok=True)


def _append(
    url: str,
    auth: requests.auth.AuthBase | None,
    partial: Path,
    have: int,
    digest: hashlib._Hash,
    advance: Callable[[int], None],
    stop: threading.Event,
) -> hashlib._Hash:
    if url.startswith("file://"):
        have, reply = 0, _read_file(Path(unquote(urlsplit(url).path)))
    else:
        headers = {"Range": f"bytes={have}-"} if have else {}
        response = session().get(url, headers=headers, stream=True, timeout=TIMEOUT_S, auth=auth)
        if response.status_code == 416:  # the partial file is longer than the whole: start over
            response = session().get(url, stream=True, timeout=TIMEOUT_S, auth=auth)
        response.raise_for_status()
        have = have if response.status_code == 206 else 0
        reply = response.iter_content(BLOCK)
    if not have:
        digest = hashlib.sha256()
    advance(have)
    with partial.open("ab" if have else "wb") as file:
        for block in reply:
            if stop.is_set():
                break
            file.write(block)
            digest.update(block)
            advance(len(block))
    return digest


def _read_file(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                yield block
    except OSError as error:
        raise requests.ConnectionError(f"{path}: {error.strerror}") from error


def unreachable(name: str, url: str, error: requests.RequestException) -> tuple[str, str]:
    """Message and remedy for a source that does not answer; names the host, which is configuration."""
    host = urlsplit(url).hostname or "its source"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        why = f"answers {error.response.status_code}"
    elif isinstance(error, requests.exceptions.SSLError):
        why = "fails its TLS check"
    elif isinstance(error, requests.Timeout):
        why = "does not answer in time"
    else:
        why = "can't be reached"
    variables = ", ".join(sources.VARIABLES.values())
    return f"{name}: {host} {why}", f"check the network, or name a mirror ({variables})"


@functools.cache
def session() -> requests.Session:
    """One session for connection reuse; certificates and proxies come from the environment, as requests reads them."""
    made = requests.Session()
    made.headers["User-Agent"] = "edgekiln"
    made.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=PARALLEL, max_retries=2))
    return made


def get(url: str) -> bytes:
    """A small file, whole. FetchError where it can't be had."""
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path)).read_bytes()
    try:
        response = session().get(url, timeout=TIMEOUT_S)
        response.raise_for_status()
    except requests.RequestException as error:
        raise FetchError(*unreachable(url.rsplit("/", 1)[-1], url, error)) from error
    return response.content


_JSON = "application/vnd.pypi.simple.v1+json"


class Listed(msgspec.Struct, frozen=True):
    """A file as the index lists it; sha256 and bytes are "" and 0 where the index does not say."""

    url: str
    sha256: str
    bytes: int


def list_index(package: str) -> dict[str, Listed]:
    """File name -> entry of a package in the configured index (PEP 503 or PEP 691)."""
    page = f"{sources.index_url()}/{re.sub(r'[-_.]+', '-', package).lower()}/"
    try:
        response = session().get(page, headers={"Accept": f"{_JSON}, text/html;q=0.1"}, timeout=TIMEOUT_S)
        response.raise_for_status()
    except requests.RequestException as error:
        raise FetchError(*unreachable(package, page, error)) from error
    if response.headers.get("Content-Type", "").startswith(_JSON):
        return {
            file["filename"]: Listed(
                urljoin(page, file["url"]),
                file.get("hashes", {}).get("sha256", ""),
                int(file.get("size") or 0),
            )
            for file in response.json()["files"]
        }
    listed = {}
    for link in re.findall(r'<a\s[^>]*href="([^"]+)"', response.text):
        parts = urlsplit(link)
        digest = parts.fragment.removeprefix("sha256=") if parts.fragment.startswith("sha256=") else ""
        listed[unquote(parts.path.rsplit("/", 1)[-1])] = Listed(urljoin(page, link.partition("#")[0]), digest, 0)
    return listed


def wheel(locked: LockedWheel) -> Wanted:
    """A wheel, to be looked up by its file name in the configured index when the store lacks it."""

    def locate() -> str:
        listed = list_index(locked.name)
        if locked.file not in listed:
            raise FetchError(
                f"{locked.file}: the package index does not list it",
                f"name an index that does ({sources.VARIABLES['index']}), or refresh the lock with `invoke lock`",
            )
        return listed[locked.file].url

    return Wanted(locked.file, locked.sha256, locked.bytes, locate)


def deb(locked: LockedDeb, suite: str) -> Wanted:
    """A Debian package by its pool path on the configured mirror."""
    return Wanted(
        locked.file.rsplit("/", 1)[-1],
        locked.sha256,
        locked.bytes,
        lambda: f"{sources.debian_mirror(suite)}/{locked.file}",
    )
