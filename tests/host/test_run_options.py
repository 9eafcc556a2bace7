"""The words of `invoke run`: each that can't be used is found before anything is built, and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from making import small_lock

from envs import data
from envs.contract import CORRECTIONS
from envs.errors import WrongUse
from envs.lock import LockedData, LockedFile, LockedWheel
from envs.run_options import DEFAULT_BUDGET, RunOptions, choices


def options(**words: Any) -> RunOptions:
    fixed = {"model": "m", "env": "light", "engine": "auto", "weights": "auto", "sparsity": "2:4", "use_cache": True}
    return RunOptions(**{**fixed, **words})


def test_plain_words_keep_nothing_and_correct_nothing() -> None:
    asked = choices(options())
    assert (asked.keep, asked.budget, asked.correct, asked.needs_calibration) == ((), None, "none", False)


def test_names_are_kept_and_auto_is_a_budget() -> None:
    assert choices(options(keep="/conv1/Conv,/fc*")).keep == ("/conv1/Conv", "/fc*")
    assert choices(options(keep="auto")).budget == DEFAULT_BUDGET
    asked = choices(options(keep="auto", budget="0.75"))
    assert (asked.keep, asked.budget, asked.needs_calibration) == ((), 0.75, True)


@pytest.mark.parametrize("method", CORRECTIONS)
def test_corrections_that_look_at_pictures_need_calibration_pictures(method: str) -> None:
    assert choices(options(correct=method)).needs_calibration == (method in ("match", "obs"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"sparsity": "4:2"}, r"--sparsity '4:2' is not N:M"),
        ({"keep": "auto", "budget": "0"}, r"--budget '0' is no share above 0 and up to 1"),
        ({"keep": "auto", "budget": "1.5"}, r"--budget '1.5' is no share"),
        ({"keep": "auto", "budget": "90%"}, r"--budget '90%' is no share"),
        ({"keep": "auto", "budget": "nan"}, r"--budget 'nan' is no share"),
        ({"budget": "0.9"}, r"--budget 0.9 without --keep auto"),
        ({"keep": "a,b", "budget": "0.9"}, r"--budget 0.9 without --keep auto"),
        ({"keep": ","}, r"--keep ',' names no layer"),
        (
            {"correct": "mach"},
            r"--correct 'mach' is no method; did you mean match\? these are: none, norms, match, obs",
        ),
        ({"gather": True, "permute": False}, r"--gather shows what reordering would cost"),
    ],
)
def test_what_can_not_be_used_is_wrong_use(words: dict[str, Any], said: str) -> None:
    with pytest.raises(WrongUse, match=said):
        choices(options(**words))


def collection(name: str, file: str) -> LockedData:
    wheel = LockedWheel(name="p", version="1", file="p-1-py3-none-any.whl", sha256="0" * 64, bytes=1)
    return LockedData(collection=name, wheel=wheel, files=(LockedFile(path=file, sha256="1" * 64, bytes=1),))


def test_pictures_that_fit_never_judge(tmp_path: Path) -> None:
    lock = small_lock(tmp_path, data=(collection("judging", "a.png"), collection("calibration", "b.png")))
    assert [one.path for one in data.pictures(lock)] == ["judging/a.png"]
    assert [one.path for one in data.calibration(lock)] == ["calibration/b.png"]


def test_without_calibration_pictures_nothing_takes_their_place(tmp_path: Path) -> None:
    lock = small_lock(tmp_path, data=(collection("judging", "a.png"),))
    with pytest.raises(WrongUse, match=r"'small' has no calibration pictures.*add a \[\[data\]\] section"):
        data.calibration(lock)
