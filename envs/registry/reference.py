"""HOST/REPOSITORY, with a tag, a digest or both: how an image in a registry is named."""

from __future__ import annotations

import re

import msgspec

from envs.errors import WrongUse

_FORM = re.compile(
    r"(?P<host>(?:[a-zA-Z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?)/"
    r"(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class Reference(msgspec.Struct, frozen=True):
    """An image in a registry; `tag` and `digest` are "" where they are not named."""

    host: str  # with its port
    repository: str
    tag: str = ""
    digest: str = ""

    def at(self, digest: str) -> str:
        """`HOST/REPOSITORY@sha256:...`"""
        return f"{self.host}/{self.repository}@{digest}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """WrongUse for what names no host and repository; a password typed into it is not repeated."""
    named = _FORM.fullmatch(text)
    if not named or not _is_host(named["host"]):
        shown = re.sub(r"[^/]*@(?!sha256:)", "***@", text)
        raise WrongUse(
            f"{shown!r} names no image in a registry",
            "write it as in HOST:PORT/REPOSITORY@sha256:... or HOST:PORT/REPOSITORY:TAG",
        )
    return Reference(named["host"], named["repository"], named["tag"] or "", named["digest"] or "")


def _is_host(text: str) -> bool:
    """As docker tells a host from the first part of a repository."""
    return any(sign in text for sign in ".:[") or text == "localhost"
