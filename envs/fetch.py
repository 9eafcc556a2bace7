"""The one door for downloads: into the store by sha256, resumed, checked, several at a time.

A file is in `store/SHA256/NAME` only if its bytes had that sha256 when it was put there. What the store lacks is
looked for in bundles, at its source, and in snapshot services, in this order; only the hash decides.
"""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import requests

from envs import sources
from envs.errors import EdgekilnError, FetchError
from envs.files import exclusive
from envs.index import list_index
from envs.paths import cache_root
from envs.progress import Progress
from envs.store.shared import shared_file
from envs.transfer import BLOCK, PARALLEL, TIMEOUT_S, Body, Unavailable, get, host_of, receive, session, unreachable
from envs.wanted import Gone, Miss, Part, Wanted, base_archive, base_packages, deb, listed, refreshing, wheel

__all__ = [  # what the rest of the tool downloads with
    "PARALLEL",
    "TIMEOUT_S",
    "Gone",
    "Miss",
    "Part",
    "Wanted",
    "base_archive",
    "base_packages",
    "deb",
    "fetch",
    "get",
    "keep",
    "list_index",
    "refreshing",
    "session",
    "stored",
    "unreachable",
    "wheel",
]


def stored(sha256: str, name: str) -> Path:
    """Where the store keeps that file, there or not; in a store of others where only that has it."""
    own = cache_root() / "store" / sha256 / name
    return own if own.exists() else shared_file(sha256, name) or own


def keep(path: Path, sha256: str) -> Path:
    """Put a copy of a local file of that hash into the store."""
    target = stored(sha256, path.name)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = target.with_name(f".{path.name}.{os.getpid()}")
        shutil.copyfile(path, staging)
        _publish(staging, target)
    return target


def fetch(wanted: Sequence[Wanted], label: str, progress: Progress) -> list[Path]:
    """Paths of all wanted files in the store, in order; what is missing is downloaded.

    Gone names every file that no place has, FetchError those whose bytes are not the locked ones.
    """
    missing = {item.sha256: item for item in wanted if not stored(item.sha256, item.name).exists()}
    if missing:
        bar = progress.bar(label, sum(item.bytes for item in missing.values()))
        search = _Search(bar.advance)
        with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            jobs = [pool.submit(search.obtain, item) for item in missing.values()]
            try:
                misses = [miss for job in concurrent.futures.as_completed(jobs) if (miss := job.result())]
            finally:
                search.stop.set()  # after an error or Ctrl-C the others end at their next block
                pool.shutdown(cancel_futures=True)
                bar.close()
        if wrong := [miss for miss in misses if miss.wrong_bytes]:
            raise FetchError(
                listed(wrong),
                "the source serves other bytes than were locked: check it, or `invoke lock` if the change is wanted",
            )
        if misses:
            raise Gone(misses)
    return [stored(item.sha256, item.name) for item in wanted]


class _Search:
    """One call of `fetch`: what its downloads share."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.stop = threading.Event()
        self._advance = advance
        self._bundles = sources.bundles()
        self._down: dict[str, Unavailable] = {}  # by host and port: not asked for the next file again

    def obtain(self, item: Wanted) -> Miss | None:
        """Bring one file into the store, or say what every place did."""
        final = stored(item.sha256, item.name)
        partial = cache_root() / "store" / f"{item.sha256}.part"
        tried: list[str] = []
        wrong = False
        with exclusive(partial.with_suffix(".lock"), lambda: None):
            if final.exists():
                self._advance(item.bytes)
                return None
            with Body(partial, self._advance) as body:
                for reason, is_wrong in self._places(item, body):
                    if not reason:
                        break
                    tried.append(reason)
                    wrong = wrong or is_wrong
                complete = body.sha256 == item.sha256
            if complete:
                partial.touch()
                _publish(partial, final)
            if complete or not partial.exists():
                partial.with_suffix(".lock").unlink(missing_ok=True)
        return None if complete or self.stop.is_set() else Miss(item.name, item.part, tuple(tried), wrong, item.source)

    def _places(self, item: Wanted, body: Body) -> Iterator[tuple[str, bool]]:
        """Try place after place: why each did not give the file (and whether it gave another), "" from one that did."""
        for bundle in self._bundles:
            yield self._from_bundle(bundle, item, body), False
        yield self._from_url(item, item.locate, item.auth, body)
        for url in item.elsewhere():
            yield self._from_url(item, lambda url=url: url, None, body)  # type: ignore[misc]

    def _from_bundle(self, bundle: Path, item: Wanted, body: Body) -> str:
        from envs.bundle.read import find

        source = find(bundle, item.sha256)
        if source is None:
            return f"{bundle.name} does not hold it"
        body.start_over()
        with source:
            while block := source.read(BLOCK):
                body.add(block)
        return "" if body.sha256 == item.sha256 else f"{bundle.name} is damaged"

    def _from_url(
        self, item: Wanted, locate: Callable[[], str], auth: requests.auth.AuthBase | None, body: Body
    ) -> tuple[str, bool]:
        try:
            url = locate()
        except EdgekilnError as error:
            return error.message.removeprefix(f"{item.name}: "), False
        host = urlsplit(url).netloc
        resumed = body.bytes
        try:
            if host and (down := self._down.get(host)):
                raise down
            receive(url, body, expected_bytes=item.bytes, auth=auth, stop=self.stop)
            if resumed and body.sha256 != item.sha256 and not self.stop.is_set():
                body.start_over()  # what was here before may be what is wrong
                receive(url, body, expected_bytes=item.bytes, auth=auth, stop=self.stop)
        except Unavailable as error:
            if error.host_is_down:
                self._down[host] = error
            return error.reason, False
        if body.sha256 == item.sha256 or self.stop.is_set():
            return "", False
        came, is_html = body.sha256, body.is_html()
        body.start_over()
        if is_html:
            return f"{host_of(url)} sent an HTML page instead of it", False
        return f"sha256 is {came}, the lock says {item.sha256} ({host_of(url)})", True


def _publish(staging: Path, final: Path) -> None:
    """Into the store in one step, readable for whoever shares it, whatever the umask."""
    final.parent.mkdir(parents=True, exist_ok=True)
    final.parent.chmod(0o755)
    staging.chmod(0o644)
    staging.replace(final)
