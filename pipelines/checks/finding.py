"""The answer to one question about a run."""

from __future__ import annotations

from typing import Any

import msgspec

from pipelines.contract import Status


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`detail` says in one line what was found; a failed one names the place."""

    name: str
    status: Status
    detail: str
    value: float | None = None
    limit: float | None = None


def judged(name: str, good: bool, detail: str, **numbers: Any) -> Finding:
    """ok where good, else failed."""
    return Finding(name=name, status="ok" if good else "failed", detail=detail, **numbers)
