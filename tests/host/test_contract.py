"""The letterbox: what one wing writes, the other reads, and nothing unknown gets through."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.contract import (
    Artifact,
    Event,
    ExportOptions,
    Picture,
    RunReport,
    RunRequest,
    StageResult,
    Weights,
    encode,
)

words = st.text(max_size=12)
counts = st.integers(0, 2**53)
seconds = st.floats(0, 1e6)
weights = st.builds(Weights, kind=st.sampled_from(["published", "random", "file", "module"]), note=words)
pictures = st.builds(Picture, path=words, sha256=words, collection=words, label=st.none() | st.integers(0, 999))
statuses = st.sampled_from(["ok", "failed", "skipped"])
facts = st.dictionaries(words, st.none() | st.booleans() | counts | seconds | words, max_size=4)
stages = st.builds(
    StageResult, name=words, status=statuses, reason=words, elapsed_s=seconds, cached=st.booleans(), facts=facts
)
export = st.builds(
    ExportOptions, opset=counts, ir_version=counts, simplifier=st.sampled_from(["onnxsim", "onnxruntime"])
)
requests = st.builds(
    RunRequest,
    run_id=words,
    model=words,
    module=st.none() | words,
    env=words,
    engine=words,
    lock_digest=words,
    pipeline_digest=words,
    run_folder=words,
    weights=weights,
    pictures=st.lists(pictures, max_size=3).map(tuple),
    export=export,
)
reports = st.builds(
    RunReport,
    run_id=words,
    model=words,
    env=words,
    engine=words,
    lock_digest=words,
    pipeline_digest=words,
    run_folder=words,
    weights=weights,
    versions=st.dictionaries(words, words, max_size=2),
    stages=st.lists(stages, max_size=3).map(tuple),
    artifacts=st.lists(st.builds(Artifact, path=words, sha256=words, bytes=counts), max_size=3).map(tuple),
)
events = st.builds(Event, kind=st.sampled_from(["run_started", "progress"]), stage=words, message=words, done=counts)


@given(requests | reports | events)
def test_a_letter_arrives_as_it_was_sent(letter: Any) -> None:
    assert msgspec.json.decode(encode(letter), type=type(letter)) == letter


@given(requests | reports | events)
def test_the_same_letter_is_the_same_bytes(letter: Any) -> None:
    assert encode(letter) == encode(msgspec.json.decode(encode(letter), type=type(letter)))


@given(requests | reports | events)
def test_an_unknown_field_is_refused(letter: Any) -> None:
    open_letter = {**msgspec.to_builtins(letter), "unheard_of": 1}
    with pytest.raises(msgspec.ValidationError, match="unheard_of"):
        msgspec.convert(open_letter, type(letter))


@given(reports)
def test_a_report_is_ok_only_if_each_stage_is_ok_or_skipped_with_its_reason(report: RunReport) -> None:
    wanted = all(s.status == "ok" or (s.status == "skipped" and s.reason != "") for s in report.stages)
    assert report.ok == wanted
