"""Scratch folders: empty, gone at the end, never taken from a run that still uses them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.scratch import scratch


def test_it_is_empty_and_gone_at_the_end(tmp_path: Path) -> None:
    with scratch(tmp_path, "stage") as folder:
        assert list(folder.iterdir()) == []
        (folder / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_it_is_gone_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), scratch(tmp_path, "stage") as folder:
        (folder / "file").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_one_in_use_stays_when_another_begins(tmp_path: Path) -> None:
    with scratch(tmp_path, "first") as first:
        (first / "file").touch()
        with scratch(tmp_path, "second") as second:
            assert first != second
        assert (first / "file").exists()


def test_one_of_a_killed_process_is_swept_by_the_next(tmp_path: Path) -> None:
    ask = (
        "import sys, time\nfrom pathlib import Path\nfrom pipelines.scratch import scratch\n"
        "with scratch(Path(sys.argv[1]), 'stage') as out:\n"
        "    (out / 'file').touch(); print(out, flush=True); time.sleep(60)"
    )
    user = subprocess.Popen([sys.executable, "-c", ask, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert user.stdout is not None
    left = Path(user.stdout.readline().strip())
    with scratch(tmp_path, "other"):
        assert (left / "file").exists()
    user.kill()
    user.communicate()
    assert (left / "file").exists()
    with scratch(tmp_path, "other"):
        assert not left.exists()
