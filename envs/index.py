"""The package index: which files it lists under a name, where, and with which hash."""

from __future__ import annotations

import re
from urllib.parse import unquote, urljoin, urlsplit

import msgspec
import requests

from envs import sources
from envs.errors import FetchError
from envs.transfer import TIMEOUT_S, session, unreachable

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
        if response.headers.get("Content-Type", "").startswith(_JSON):
            return _from_json(page, response.json())
    except requests.RequestException as error:
        raise FetchError(*unreachable(package, page, error)) from error
    listed = {}
    for link in re.findall(r'<a\s[^>]*href="([^"]+)"', response.text):
        parts = urlsplit(link)
        digest = parts.fragment.removeprefix("sha256=") if parts.fragment.startswith("sha256=") else ""
        listed[unquote(parts.path.rsplit("/", 1)[-1])] = Listed(urljoin(page, link.partition("#")[0]), digest, 0)
    return listed


class _File(msgspec.Struct):
    filename: str
    url: str
    hashes: dict[str, str] = {}
    size: int | None = None


class _Page(msgspec.Struct):
    files: list[_File]


def _from_json(page: str, document: object) -> dict[str, Listed]:
    try:
        files = msgspec.convert(document, _Page).files
    except msgspec.ValidationError as error:
        raise FetchError(f"the package index answers something that is no list of files: {error}") from error
    return {one.filename: Listed(urljoin(page, one.url), one.hashes.get("sha256", ""), one.size or 0) for one in files}
