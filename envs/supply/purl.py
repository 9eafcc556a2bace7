"""Package URLs, as the purl specification writes them."""

from __future__ import annotations

from urllib.parse import quote


def purl(kind: str, name: str, version: str, *, namespace: str = "", **qualifiers: str) -> str:
    """`pkg:KIND/NAMESPACE/NAME@VERSION?QUALIFIERS`; qualifiers sorted, empty ones left out."""
    path = "/".join(_quoted(part) for part in filter(None, (namespace, name)))
    given = "&".join(f"{key}={_quoted(value)}" for key, value in sorted(qualifiers.items()) if value)
    return f"pkg:{kind}/{path}@{_quoted(version)}" + (f"?{given}" if given else "")


def quoted_path(path: str) -> str:
    """A path inside a package, as it stands after `#`."""
    return "/".join(_quoted(part) for part in path.split("/") if part not in ("", ".", ".."))


def _quoted(text: str) -> str:
    return quote(text, safe=":")  # a colon is the one reserved character that stays as it is
