"""One repository of a registry: small documents by digest or tag, and what its refusals mean."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urljoin, urlsplit

import msgspec
import requests

from envs.errors import RegistryError
from envs.registry.auth import RegistryAuth
from envs.registry.trust import Away, checked_origin, origin_of, unreachable
from envs.transfer import TIMEOUT_S, session
from envs.wanted import Wanted

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
ACCEPTED = ", ".join(MANIFESTS + INDEXES)
SMALL = 4 << 20  # bytes: what the distribution specification lets a manifest have at most

Action = Literal["pull", "pull,push"]


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a manifest or index says of another document."""

    digest: Annotated[str, msgspec.Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]  # it becomes a path
    size: Annotated[int, msgspec.Meta(ge=0)]
    media_type: str = ""
    artifact_type: str = ""
    platform: dict[str, Any] = {}
    annotations: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """An image's manifest, or an index where `manifests` is not empty."""

    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()


class Client:
    """One repository of one registry. RegistryError, in one line, for whatever it refuses."""

    def __init__(self, origin: str, repository: str, action: Action = "pull") -> None:
        self.origin = origin
        self.host = urlsplit(origin).netloc
        self.repository = repository
        self.action = action
        self.auth = RegistryAuth(origin, f"repository:{repository}:{action}")

    @classmethod
    def of_host(cls, host: str, repository: str, action: Action = "pull") -> Client:
        """The repository at HOST[:PORT]; asks which protocol it speaks where both are allowed."""
        return cls(origin_of(host), repository, action)

    @classmethod
    def of_url(cls, url: str, repository: str) -> Client:
        """The repository below a configured URL."""
        return cls(checked_origin(url), repository)

    @property
    def name(self) -> str:
        """HOST/REPOSITORY, for messages."""
        return f"{self.host}/{self.repository}"

    def url(self, path: str) -> str:
        """The address of `blobs/...` or `manifests/...` of this repository."""
        return f"{self.origin}/v2/{self.repository}/{path}"

    def send(self, method: str, url: str, **how: Any) -> requests.Response:
        """A request with credentials where the registry asks for them; any status but 401 and 403 is an answer."""
        try:
            response = session().request(method, url, auth=self.auth, timeout=TIMEOUT_S, **how)
        except (requests.RequestException, OSError) as error:
            raise unreachable(urlsplit(url).netloc, error) from error
        if response.status_code in (401, 403):
            raise self.refused(response, url)
        return response

    def document(self, path: str, digest: str, accept: str = ACCEPTED) -> bytes:
        """A small document, checked against its digest where one is named."""
        with self._asked(path, accept) as response:
            content = _bounded(response, self.name)
        if digest and digest_of(content) != digest:
            raise RegistryError(
                f"{self.name}: the registry serves other bytes than {digest[:19]} says", "do not use this registry"
            )
        return content

    def manifest(self, reference: str) -> tuple[bytes, Manifest]:
        """The manifest of a tag or digest: its bytes, and what it says."""
        is_digest = reference.startswith("sha256:")
        content = self.document(f"manifests/{reference}", reference if is_digest else "")
        try:
            return content, msgspec.json.decode(content, type=Manifest)
        except msgspec.DecodeError as error:
            raise RegistryError(f"{self.name}: {reference} is no manifest: {error}") from error

    def has_blob(self, digest: str, size: int) -> bool:
        """Whether the repository has that blob, whole."""
        response = self.send("HEAD", self.url(f"blobs/{digest}"), allow_redirects=True)
        said = response.headers.get("Content-Length", str(size))
        return response.status_code == 200 and said == str(size)

    def blob(self, digest: str, size: int) -> Wanted:
        """A blob for the store."""
        address = self.url(f"blobs/{digest}")
        return Wanted("blob", digest.removeprefix("sha256:"), size, lambda: address, auth=self.auth)

    def put_manifest(
        self, reference: str, media_type: str, content: bytes, read_back: bool = True
    ) -> requests.Response:
        """Write it under a digest or tag, and read it back: what is there must be what was sent."""
        url = self.url(f"manifests/{reference}")
        response = self.send("PUT", url, data=content, headers={"Content-Type": media_type})
        if response.status_code not in (200, 201):
            raise self.refused(response, url)
        if read_back and self.document(f"manifests/{reference}", "") != content:
            raise RegistryError(f"{self.name}: gives other bytes back for {reference} than were sent", "push again")
        return response

    @contextlib.contextmanager
    def _asked(self, path: str, accept: str) -> Iterator[requests.Response]:
        url = self.url(path)
        response = self.send("GET", url, headers={"Accept": accept}, stream=True)
        try:
            if response.status_code != 200:
                raise self.refused(response, url)
            yield response
        except requests.RequestException as error:
            raise unreachable(self.host, error) from error
        finally:
            response.close()

    def refused(self, response: requests.Response, url: str) -> RegistryError:
        """What the registry's refusal means, in one line, without anything that was confided to it."""
        status, where = response.status_code, urlsplit(url).netloc
        if where == self.host and status == 401 and not self.auth.is_accepted:
            who = "refuses the credentials of docker's config.json" if self.auth.is_named else "wants credentials"
            return RegistryError(f"{self.name}: the registry {who}", f"log in with `docker login {self.host}`")
        if status in (401, 403):
            right = "write to" if self.action == "pull,push" else "read"
            return RegistryError(f"{self.name}: no right to {right} it", "ask who runs the registry")
        code, words = _explanation(response)
        if status == 404 and "/manifests/" in url:
            return self._absent(url.rsplit("/", 1)[-1], code)
        if status == 404 and code == "NAME_UNKNOWN":
            return RegistryError(f"{self.host} has no repository {self.repository}", "check its name")
        if status == 405:
            return RegistryError(f"{self.name}: the registry takes nothing here ({status})", "it may be read-only")
        if status == 429:
            wait = response.headers.get("Retry-After", "a few minutes").strip()[:30]
            return RegistryError(f"{self.name}: too many requests", f"try again in {wait}")
        said = self.auth.redact(words)[:200]
        kind = Away if status >= 500 else RegistryError
        return kind(f"{self.name}: the registry answers {status}{f' ({said})' if said else ''}")

    def _absent(self, reference: str, code: str) -> RegistryError:
        """Some say the same of a tag and of a repository that is not there; the list of tags may know."""
        if code == "NAME_UNKNOWN":
            return RegistryError(f"{self.host} has no repository {self.repository}", "check its name")
        if reference.startswith("sha256:"):
            return RegistryError(f"{self.name} has no image {reference}", "check the name and the digest")
        try:
            known = self.send("GET", self.url("tags/list")).status_code != 404
        except RegistryError:
            known = False
        if known:
            return RegistryError(f"{self.name} has no tag {reference!r}", "check the tag, or name a digest")
        return RegistryError(f"{self.host} has no repository {self.repository} with a tag in it", "check its name")


def digest_of(content: bytes) -> str:
    """sha256:..."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def location(response: requests.Response) -> str:
    """Where the registry says to go on; relative addresses are made whole."""
    return urljoin(response.url, response.headers.get("Location", ""))


def _bounded(response: requests.Response, name: str) -> bytes:
    content = b""
    for block in response.iter_content(1 << 16):
        content += block
        if len(content) > SMALL:
            raise RegistryError(f"{name}: a document above {SMALL >> 20} MiB", "do not use this registry")
    return content


def _explanation(response: requests.Response) -> tuple[str, str]:
    """The code and message of the registry's first error, as one line."""
    try:
        body = next(response.iter_content(1 << 16), b"")
        first = msgspec.json.decode(body)["errors"][0]
        words = re.sub(r"[^\x20-\x7e]+", " ", str(first.get("message") or ""))
        return str(first.get("code") or ""), " ".join(words.split())
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError, requests.RequestException, RuntimeError):
        return "", ""
