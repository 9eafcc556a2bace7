"""The comparison of patterns on one network: what must hold between its rows, and where they are shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from conftest import pictures

from pipelines.contract import PatternRow, RunReport, RunRequest, Weights
from pipelines.stages import plan
from pipelines.stages.patterns import COMPARED

Make = Callable[..., RunRequest]
Go = Callable[..., RunReport]


@pytest.fixture
def rows(request_for: Make, run_all: Go, workspace: Path) -> tuple[PatternRow, ...]:
    report = run_all(request_for(patterns=True))
    assert report.ok, [stage.reason for stage in report.stages]
    file = workspace / report.run_folder / "artifacts/patterns/patterns.json"
    text = (workspace / report.run_folder / "artifacts/collect/small_results.txt").read_text()
    assert "[patterns]\n1:2 as exported: " in text
    return msgspec.json.decode(file.read_bytes(), type=tuple[PatternRow, ...])


def test_rows_obey_the_arithmetic_of_patterns(rows: tuple[PatternRow, ...]) -> None:
    assert [row.pattern for row in rows[::2]] == list(COMPARED)  # 8:16 has the classifier's 16 channels
    for plain, reordered in zip(rows[::2], rows[1::2], strict=True):
        assert (plain.pattern, plain.reordered, reordered.reordered) == (reordered.pattern, False, True)
        assert reordered.retained_share >= plain.retained_share
        assert 0.0 <= reordered.efficacy <= 1.0
        assert plain.entropy_bytes <= plain.metadata_bytes
        assert plain.compressed_bytes == reordered.compressed_bytes
        assert plain.top1 is None  # random weights: labels judge nothing
    by_name = {row.pattern: row for row in rows if not row.reordered}
    assert by_name["1:2"].layers > by_name["2:4"].layers == by_name["4:8"].layers == by_name["1:4"].layers
    assert by_name["4:8"].retained_share >= by_name["2:4"].retained_share  # every 2:4 mask is a 4:8 mask
    assert by_name["2:8"].retained_share >= by_name["1:4"].retained_share
    assert by_name["1:4"].compressed_bytes < by_name["2:4"].compressed_bytes


def test_rows_are_made_as_the_run_is_made(request_for: Make, run_all: Go, workspace: Path, data: Path) -> None:
    made = {}
    for number, method in enumerate(("none", "match")):
        request = request_for(number, patterns=True, correct=method, calibration=pictures(data, "calibration"))
        file = workspace / run_all(request).run_folder / "artifacts/patterns/patterns.json"
        rows = msgspec.json.decode(file.read_bytes(), type=tuple[PatternRow, ...])
        made[method] = next(row for row in rows if row.pattern == "1:4" and not row.reordered)
    assert (made["none"].made_by, made["match"].made_by) == ("magnitude", "match")
    assert made["match"].retained_share == made["none"].retained_share
    assert made["match"].cosine_centred != made["none"].cosine_centred


def test_the_stage_runs_only_where_it_is_asked_for(request_for: Make, run_all: Go) -> None:
    request = request_for()
    assert "patterns" not in [stage.name for stage in plan(request)]
    assert "patterns" not in [stage.name for stage in run_all(request).stages]


def test_labels_judge_only_real_weights(request_for: Make) -> None:
    from pipelines.stages.patterns import Patterns

    random, real = (Patterns().parameters(request_for(weights=Weights(kind=kind))) for kind in ("random", "module"))
    assert random != real
