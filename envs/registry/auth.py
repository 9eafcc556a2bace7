"""Credentials for a registry: where docker keeps them, and how a registry asks for them.

They go to the registry's own address and to the token service that it names, and nowhere else: not after a
redirect, not into a message, a file or a command line.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import requests

from envs import process
from envs.errors import BuildError, RegistryError
from envs.registry.trust import is_loopback
from envs.transfer import TIMEOUT_S, session

HELPER_TOKEN = "<token>"  # noqa: S105 - a helper's user name that says: the secret is an identity token
CLIENT_ID = "edgekiln"


class Credentials(msgspec.Struct, frozen=True):
    """What is known for one host; nothing of it where nothing is. Its repr shows none of it."""

    user: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        return "Credentials(...)"

    def __bool__(self) -> bool:
        return bool(self.user or self.identity_token or self.registry_token)

    @property
    def basic(self) -> str:
        """The value of a Basic authorization."""
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def docker_folder() -> Path:
    """DOCKER_CONFIG, else ~/.docker."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def credentials_for(host: str) -> Credentials:
    """What docker's config.json has for the host: a helper of the host, the store, or the file itself.

    RegistryError where the file can't be read or names a helper that is not there.
    """
    path = docker_folder() / "config.json"
    try:
        config = json.loads(path.read_bytes())
        listed = {_host_of(key): entry for key, entry in dict(config.get("auths") or {}).items()}
        helpers = {_host_of(key): name for key, name in dict(config.get("credHelpers") or {}).items()}
        helper = helpers.get(host) or config.get("credsStore") or ""
        entry = dict(listed.get(host) or {})
    except FileNotFoundError:
        return Credentials()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RegistryError(f"{path}: docker's credentials can't be read", "mend the file, or `docker login`") from (
            error if isinstance(error, OSError) else None  # a decoder's message quotes the file
        )
    if helper and (found := _ask_helper(str(helper), host)):
        return found
    return _in_file(entry, path)


def _host_of(key: str) -> str:
    return re.sub(r"^https?://", "", key).split("/", 1)[0]


def _in_file(entry: dict[str, Any], path: Path) -> Credentials:
    user, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if encoded := entry.get("auth"):
        try:
            user, _, password = base64.b64decode(str(encoded)).decode().partition(":")
        except ValueError:
            raise RegistryError(f"{path}: an `auth` in it is not base64", "`docker login` writes it anew") from None
    token, registry_token = str(entry.get("identitytoken") or ""), str(entry.get("registrytoken") or "")
    return Credentials(user, password.rstrip("\0"), token, registry_token)


def _ask_helper(helper: str, host: str) -> Credentials:
    """Nothing where the helper has nothing: whether that is enough the registry says."""
    program = f"docker-credential-{helper}"
    if not re.fullmatch(r"[A-Za-z0-9._-]+", helper) or shutil.which(program) is None:
        raise RegistryError(
            f"docker's config.json names the credential helper {program!r}, which is not on the PATH",
            f"install it, or take it out of {docker_folder() / 'config.json'}",
        )
    try:
        answer = json.loads(process.run([program, "get"], stdin=host.encode()))
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except BuildError:
        return Credentials()  # its own message is not passed on: nobody knows what is in it
    except (ValueError, TypeError, KeyError):
        raise RegistryError(f"{program}: its answer is no JSON with Username and Secret", "mend the helper") from None
    return Credentials(identity_token=secret) if user == HELPER_TOKEN else Credentials(user, secret)


class RegistryAuth(requests.auth.AuthBase):
    """Answers a registry's 401 with Basic or a Bearer token; anonymous tokens where nothing is known.

    `scope` is what will be asked for, as in `repository:NAME:pull,push`. Threads may share one.
    """

    def __init__(self, origin: str, scope: str) -> None:
        self.origin = origin
        self._scope = scope
        self._header = ""
        self._lock = threading.Lock()
        self._secrets: set[str] = set()
        self._credentials: Credentials | None = None

    @property
    def is_named(self) -> bool:
        """Whether credentials are known (they are looked up when a registry first asks)."""
        return bool(self._credentials)

    @property
    def is_accepted(self) -> bool:
        """Whether a token service took the credentials: what is refused after that is a matter of rights."""
        return self.is_named and self._header.startswith("Bearer ")

    def redact(self, text: str) -> str:
        """A registry's own words without anything that was told to it in confidence."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if _origin(request.url) == _origin(self.origin):
            if self._header:
                request.headers["Authorization"] = self._header
            request.register_hook("response", self._answer)  # type: ignore[no-untyped-call]
        return request

    def _answer(self, response: requests.Response, **how: Any) -> requests.Response:
        """Once a request: a token may have run out since the last."""
        request = response.request
        if response.status_code != 401 or _origin(request.url) != _origin(self.origin):
            return response  # redirected: another's 401 is none of ours
        used = request.headers.get("Authorization", "")
        with self._lock:
            if self._header in ("", used):  # else another thread has a new one already
                self._header = self._authorize(response.headers.get("WWW-Authenticate", ""), used)
            header = self._header
        if not header or header == used:
            return response
        again = request.copy()
        again.headers["Authorization"] = header
        again.deregister_hook("response", self._answer)  # type: ignore[no-untyped-call]
        response.close()
        sent: requests.Response = response.connection.send(again, **how)
        sent.history.append(response)
        return sent

    def _authorize(self, challenge: str, used: str) -> str:
        """The header that answers the challenge, "" where there is none to give."""
        if self._credentials is None:
            self._credentials = credentials_for(urlsplit(self.origin).netloc)
            known = self._credentials
            parts = (known.password, known.identity_token, known.registry_token, known.basic if known.user else "")
            self._secrets.update(filter(None, parts))
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "bearer":
            return self._bearer(dict(re.findall(r'(\w+)="([^"]*)"', rest)), used)
        if kind.lower() == "basic" and self._credentials.user and not used:
            return f"Basic {self._credentials.basic}"
        return used if kind.lower() == "basic" else ""

    def _bearer(self, asked: dict[str, str], used: str) -> str:
        known = self._credentials or Credentials()
        if known.registry_token and not used:
            return f"Bearer {known.registry_token}"
        realm = asked.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme != "https" and not (
            parts.scheme == "http" and (self.origin.startswith("http:") or is_loopback(parts.netloc))
        ):
            raise RegistryError(
                f"{urlsplit(self.origin).netloc}: its token service at {parts.netloc or 'no address'} is not on https",
                "credentials are not sent there",
            )
        scopes = sorted({self._scope, *filter(None, [asked.get("scope", "")])})
        query = {"service": asked.get("service", ""), "client_id": CLIENT_ID}
        token = _token(realm, query, scopes, known)
        self._secrets.add(token)
        return f"Bearer {token}"


def _token(realm: str, query: dict[str, str], scopes: list[str], known: Credentials) -> str:
    """A token from the service. Nothing but the realm itself is given credentials: redirects are not followed."""
    where = urlsplit(realm).netloc
    try:
        if known.identity_token:
            form = {**query, "grant_type": "refresh_token", "refresh_token": known.identity_token}
            form["scope"] = " ".join(scopes)
            reply = session().post(realm, data=form, timeout=TIMEOUT_S, allow_redirects=False, auth=_Nobody())
        else:
            auth = requests.auth.HTTPBasicAuth(known.user, known.password) if known.user else _Nobody()
            asked: list[tuple[str, str]] = [*query.items(), *(("scope", one) for one in scopes)]
            reply = session().get(realm, params=asked, timeout=TIMEOUT_S, allow_redirects=False, auth=auth)
    except requests.RequestException:  # its message quotes the request
        raise RegistryError(f"{where}: the registry's token service can't be reached", "check the network") from None
    if reply.status_code in (400, 401, 403):
        who = "refuses the credentials of docker's config.json" if known else "wants credentials"
        raise RegistryError(f"{where}: the registry's token service {who}", "log in with `docker login`")
    try:
        reply.raise_for_status()
        body = reply.json()
        return str(body.get("token") or body["access_token"])
    except (requests.RequestException, ValueError, KeyError, AttributeError):
        raise RegistryError(f"{where}: the registry's token service gives no token ({reply.status_code})") from None


class _Nobody(requests.auth.AuthBase):
    """Anonymous, whatever a netrc file says."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _origin(url: str | None) -> tuple[str, str]:
    parts = urlsplit(url or "")
    return parts.scheme, parts.netloc.lower()
