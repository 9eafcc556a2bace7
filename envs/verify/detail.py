"""What diffoscope says of a differing file, where that program is installed; it is never waited for long."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from envs import process
from envs.verify.records import Detail

PROGRAM = "diffoscope"
FILES = 5  # the first so many differing files are looked into
FILE_S, ALL_S = 20.0, 60.0
LINES = 40  # of its text a file
TEXT_BYTES = 20_000
ABSENT = f"{PROGRAM} is not installed: contents are not shown (Debian package or PyPI: {PROGRAM})"


def detail(pairs: Sequence[tuple[str, bytes, bytes]], notes: list[str]) -> tuple[Detail, ...]:
    """Its text for (path, ours, theirs), the first few; `notes` is told what was not looked into and why."""
    if not pairs:
        return ()
    program = shutil.which(PROGRAM)
    if program is None:
        notes.append(ABSENT)
        return ()
    ends = time.monotonic() + ALL_S
    made = []
    for place, (path, ours, theirs) in enumerate(pairs[:FILES]):
        left_s = min(FILE_S, ends - time.monotonic())
        if left_s <= 0:
            notes.append(f"{PROGRAM}: {len(pairs) - place} more files were not looked into, {ALL_S:.0f} s were used up")
            break
        made.append(Detail(path, _ask(program, path, ours, theirs, left_s)))
    if len(pairs) > FILES:
        notes.append(f"{PROGRAM} looked into the first {FILES} of {len(pairs)} small files whose content differs")
    return tuple(made)


def _ask(program: str, path: str, ours: bytes, theirs: bytes, limit_s: float) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory(prefix="edgekiln-detail-") as work:
        sides = []
        for side, content in (("ours", ours), ("theirs", theirs)):
            file = Path(work, side, Path(path).name or "file")
            file.parent.mkdir()
            file.write_bytes(content)
            sides.append(f"{side}/{file.name}")
        words = [program, "--text", "-", "--max-text-report-size", str(TEXT_BYTES), "--no-progress"]
        words += ["--exclude-directory-metadata", "yes", *sides]
        with Path(work, "out").open("w+b") as out:
            variables = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC", "TMPDIR": work}
            child = process.attach(
                words,
                env=variables,
                cwd=Path(work),
                stdout=out.fileno(),
                stderr=out.fileno(),
                no_stdin=True,
                new_group=True,
            )
            ends = time.monotonic() + limit_s
            while child.poll() is None and time.monotonic() < ends:
                time.sleep(0.05)
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                return (f"{PROGRAM} did not end within {limit_s:.0f} s",)
            out.seek(0)
            lines = out.read(TEXT_BYTES).decode(errors="replace").splitlines()
    if child.returncode not in (0, 1):
        return (f"{PROGRAM} failed: {lines[-1] if lines else 'no message'}",)
    return tuple(lines[:LINES]) + (("...",) if len(lines) > LINES else ())
