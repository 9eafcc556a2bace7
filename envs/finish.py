"""Bring a site-packages folder into its final form: the same rules on the host and inside `docker build`.

Standard library only: `python finish.py SITE PLAN.json`, where the plan is `{"trim": {distribution: [glob, ...]}}`.
Removes what an installer leaves behind (console scripts carry the build path), the files that the lock's trim
list names, and bytecode; then writes each RECORD again, sorted, holding exactly the files that are there.
"""

from __future__ import annotations

import csv
import fnmatch
import io
import json
import re
import shutil
import sys
from pathlib import Path

INSTALLER_LEFTOVERS = ("direct_url.json", "uv_cache.json", "uv_build.json", "REQUESTED")


def normalised(name: str) -> str:
    """PEP 503 name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def finish(site: Path, trim: dict[str, list[str]]) -> None:
    """Apply the rules to `site`. ValueError names a trim pattern or distribution that matches nothing."""
    shutil.rmtree(site / "bin", ignore_errors=True)
    for stray in (site / ".lock", site / "CACHEDIR.TAG", site / ".gitignore"):
        stray.unlink(missing_ok=True)
    for cache in sorted(site.rglob("__pycache__")):
        shutil.rmtree(cache)
    infos = {normalised(info.name.rsplit("-", 2)[0]): info for info in sorted(site.glob("*.dist-info"))}
    if unknown := sorted(set(trim) - set(infos)):
        raise ValueError(f"trim names {unknown[0]}, which is not installed")
    for name, info in infos.items():
        for leftover in INSTALLER_LEFTOVERS:
            (info / leftover).unlink(missing_ok=True)
        _rewrite_record(site, info, trim.get(name, []))
    _remove_empty_folders(site)


def _rewrite_record(site: Path, info: Path, patterns: list[str]) -> None:
    record = info / "RECORD"
    rows = [row for row in csv.reader(io.StringIO(record.read_text("utf-8"))) if row]
    for pattern in patterns:
        hits = [row[0] for row in rows if fnmatch.fnmatchcase(row[0], pattern)]
        if not hits:
            raise ValueError(f"trim pattern {pattern!r} matches no file of {info.name}")
        for path in hits:
            (site / path).unlink(missing_ok=True)
    kept = sorted(row for row in rows if ".." not in Path(row[0]).parts and (site / row[0]).is_file())
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(kept)
    record.unlink()  # it may be a hard link into a package cache
    record.write_text(text.getvalue(), "utf-8")


def _remove_empty_folders(site: Path) -> None:
    for folder in sorted((p for p in site.rglob("*") if p.is_dir() and not p.is_symlink()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


if __name__ == "__main__":
    finish(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text("utf-8"))["trim"])
