"""A stand-in for `conda` that the real conda-lock drives, where this machine has no conda, mamba or micromamba.

Run by the Python of conda-lock's own environment (tool.py), never imported: it solves with py-rattler and answers
`create --dry-run --json`, the one question that locking asks. EDGEKILN_CONDA_NEWEST is the day it may look up to.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import importlib
import importlib.metadata
import json
import os
import sys
from typing import Any

FIELDS = ("name", "version", "build", "build_number", "subdir", "url", "md5", "sha256", "size", "timestamp")


def main(argv: list[str]) -> int:
    """Answer on stdout; 2 for a question that is none of locking's, 1 where there is no solution."""
    if argv == ["--version"]:
        sys.stdout.write(f"edgekiln-conda {importlib.metadata.version('py-rattler')}\n")
        return 0
    parser = argparse.ArgumentParser(prog="edgekiln-conda", allow_abbrev=False)
    parser.add_argument("verb", choices=["create"])
    parser.add_argument("--prefix", "-p")
    parser.add_argument("--dry-run", action="store_true", required=True)
    parser.add_argument("--json", action="store_true", required=True)
    parser.add_argument("--override-channels", action="store_true")
    parser.add_argument("--channel", "-c", action="append", default=[])
    parser.add_argument("specs", nargs="*")
    asked = parser.parse_intermixed_args(argv)
    subdir = os.environ["CONDA_SUBDIR"]
    try:
        records = asyncio.run(_solve(asked.channel, asked.specs, subdir, os.environ.get("EDGEKILN_CONDA_NEWEST", "")))
    except Exception as error:  # whatever the solver says is conda-lock's to show
        _answer({"success": False, "error": type(error).__name__, "message": str(error)})
        return 1
    fetch = [record for record in records if not record["name"].startswith("__")]
    _answer({"success": True, "prefix": asked.prefix or "", "actions": {"FETCH": fetch, "LINK": fetch}})
    return 0


def _answer(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, sort_keys=True))


async def _solve(channels: list[str], specs: list[str], subdir: str, newest: str) -> list[dict[str, Any]]:
    rattler = importlib.import_module("rattler")
    limit = dt.datetime.fromisoformat(newest).replace(tzinfo=dt.timezone.utc) if newest else None
    solved = await rattler.solve(
        sources=channels,
        specs=[rattler.MatchSpec(spec, strict=False) for spec in specs],
        platforms=[subdir, "noarch"],
        gateway=rattler.Gateway(show_progress=False),
        exclude_newer=limit,
        timestamp_policy="allow-missing",  # a channel of one's own may have none
    )
    return [
        _record(json.loads(record.to_json())) for record in sorted(solved, key=lambda one: str(one.name.normalized))
    ]


def _record(record: dict[str, Any]) -> dict[str, Any]:
    kept = {field: record[field] for field in FIELDS if record.get(field) is not None}
    folder, _, file = record["url"].rpartition("/")
    dist = file.removesuffix(".conda").removesuffix(".tar.bz2")
    channel = folder.rpartition("/")[0]
    return {**kept, "fn": file, "dist_name": dist, "channel": channel, "depends": record.get("depends", [])}


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # py-rattler may crash in the interpreter's own end, after its work is done
