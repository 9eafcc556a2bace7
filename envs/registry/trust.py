"""How a registry is reached: https with a checked certificate, plain http only where that is safe or allowed."""

from __future__ import annotations

import ipaddress
import os
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.util.ssl_ import create_urllib3_context

from envs.errors import RegistryError
from envs.transfer import PARALLEL, TIMEOUT_S, session

INSECURE = "EDGEKILN_REGISTRY_INSECURE"


class Away(RegistryError):
    """A registry that stays away or broke off: another try may find it."""


def is_loopback(host: str) -> bool:
    """Whether HOST or HOST:PORT is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def may_be_plain(host: str) -> bool:
    """Whether plain http is accepted: loopback, or listed (comma-separated) in EDGEKILN_REGISTRY_INSECURE."""
    return is_loopback(host) or host in [one.strip() for one in os.environ.get(INSECURE, "").split(",")]


def origin_of(host: str) -> str:
    """`https://HOST`, or `http://HOST` where that is accepted and the registry speaks nothing better."""
    trust(host)
    if not may_be_plain(host):
        return f"https://{host}"
    try:
        session().get(f"https://{host}/v2/", timeout=TIMEOUT_S, allow_redirects=False).close()
    except requests.exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise unreachable(host, error) from error
    except requests.RequestException:
        pass  # the next request says whether anybody is there
    except OSError as error:  # no file of authorities
        raise unreachable(host, error) from error
    else:
        return f"https://{host}"
    return f"http://{host}"


def checked_origin(url: str) -> str:
    """A configured URL of a registry, if it may be used."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise RegistryError(
            f"the URL of the registry at {parts.hostname} holds credentials",
            "take them out and log in with `docker login`",
        )
    if parts.scheme == "http" and not may_be_plain(parts.netloc):
        raise RegistryError(
            f"{parts.netloc}: plain http is for registries on this machine", f"use https, or list it in {INSECURE}"
        )
    trust(parts.netloc)
    return url.rstrip("/")


def trust(host: str) -> None:
    """Let the shared session trust, for this host only, what docker's certs.d has for it."""
    session().mount(f"https://{host.lower()}/", _HostAdapter(certificates(host), _ca_bundle()))


def certificates(host: str) -> list[Path]:
    """docker's certs.d/HOST/*.crt: of the machine and of the user."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    folders = (Path("/etc/docker/certs.d"), config / "docker" / "certs.d", Path.home() / ".docker" / "certs.d")
    return [path for folder in folders for path in sorted((folder / host).glob("*.crt"))]


def _ca_bundle() -> str | bool:
    """The file of certificate authorities that the environment names; True where it names none."""
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
    return next((value for name in names if (value := os.environ.get(name))), True)


class _HostAdapter(requests.adapters.HTTPAdapter):
    """Connections to one host: its own certificate authorities beside the usual ones."""

    def __init__(self, extra: list[Path], bundle: str | bool) -> None:
        self._extra = extra
        self._bundle = bundle
        super().__init__(pool_maxsize=PARALLEL)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        context = create_urllib3_context()
        for path in self._extra:
            try:
                context.load_verify_locations(path)
            except (OSError, ssl.SSLError) as error:
                raise RegistryError(f"{path}: no certificate that can be read", "mend or remove the file") from error
        super().init_poolmanager(*args, **kwargs, ssl_context=context)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """As requests does it, with the environment's bundle at the time the host was first named."""
        return super().send(request, *args, **{**kwargs, "verify": self._bundle})


def unreachable(host: str, error: Exception) -> RegistryError:
    """One line for a registry that does not answer."""
    if isinstance(error, OSError) and "invalid path" in str(error):
        return RegistryError(f"{host}: {error}", "REQUESTS_CA_BUNDLE or SSL_CERT_FILE names no file")
    if isinstance(error, requests.exceptions.SSLError):
        why = "is signed by nobody trusted here"
        if "doesn't match" in str(error) or "Hostname mismatch" in str(error) or "IP address mismatch" in str(error):
            why = "is for another name"
        elif "expired" in str(error):
            why = "has expired"
        elif "CERTIFICATE_VERIFY_FAILED" not in str(error):
            return RegistryError(
                f"{host}: no TLS with it", f"where it is meant to speak plain http list it in {INSECURE}"
            )
        return RegistryError(
            f"{host}: its certificate {why}",
            f"put its CA into ~/.docker/certs.d/{host}/ca.crt, or name the CA's file in SSL_CERT_FILE",
        )
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return Away(f"{host}: the registry does not answer in time", "check the address and the network")
    if isinstance(error, requests.exceptions.ConnectionError) and "NewConnectionError" in str(error):
        return Away(f"{host}: no registry can be reached there", "check the address and the network")
    if isinstance(error, requests.exceptions.ConnectionError) and "NameResolutionError" in str(error):
        return Away(f"{host}: no such host", "check the address and the network")
    return Away(f"{host}: the registry went away in the middle", "run the same command again: what has arrived stays")
