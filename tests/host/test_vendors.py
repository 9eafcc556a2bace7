"""`invoke vendors`: what it says of a toolchain is so, and what can't be used has a next step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from envs import vendors
from envs.errors import LockError, WrongUse
from envs.lock import lock_path, read_lock
from envs.matching.facts import read_matrix
from envs.paths import ROOT
from envs.spec import load_spec, spec_names
from envs.vendors import USABLE, Toolchain, toolchains
from envs.verbs import vendors as verb

HERE = [name for name in spec_names() if load_spec(name).toolchain]
LOCKED = [name for name in HERE if lock_path(name).exists()]


def listed(env: str) -> Toolchain:
    (found,) = (one for one in toolchains() if one.env == env)
    return found


@pytest.mark.parametrize("env", HERE)
def test_every_toolchain_of_the_checkout_is_listed_with_its_environment(env: str) -> None:
    spec = load_spec(env)
    assert spec.toolchain is not None
    told = listed(env)
    assert (told.name, told.exports) == (spec.toolchain.vendor, spec.toolchain.export or env)
    assert set(told.pins) == set(spec.packages)


@pytest.mark.parametrize("env", LOCKED)
def test_pins_are_the_locked_versions(env: str) -> None:
    locked = {one.name: one.version for one in read_lock(env).package}
    pins = {name: version for name, version in listed(env).pins.items() if name in locked}
    assert pins
    assert pins == {name: locked[name] for name in pins}


def test_names_are_given_once() -> None:
    names = [one.name for one in toolchains()]
    assert len(names) == len(set(names))


def test_what_can_not_be_used_has_a_next_step_and_what_can_needs_none_but_a_build() -> None:
    for one in toolchains():
        assert one.usable == (one.state in USABLE), one
        assert bool(one.next_step) == (one.state != "built"), one
        assert "\n" not in one.next_step


@pytest.mark.usefixtures("cache")
def test_without_a_tree_it_is_locked_and_the_first_run_builds_it() -> None:
    told = listed("mnn")
    assert (told.state, told.usable, told.tree_bytes) == ("locked", True, None)
    assert told.next_step.startswith("`invoke build --env mnn`")
    assert told.download_bytes == sum(one.bytes for one in read_lock("mnn").package)


def test_without_a_lock_the_next_step_makes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vendors, "lock_path", lambda name: tmp_path / name)
    told = listed("mnn")
    assert (told.state, told.usable) == ("not locked", False)
    assert told.next_step == "`invoke lock --env mnn` makes the lock of mnn"


def test_without_the_exporter_s_lock_it_can_not_be_used_either(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vendors, "lock_path", lambda name: tmp_path / name if name == "light" else lock_path(name))
    assert listed("mnn").next_step == "`invoke lock --env light` makes the lock of light"


def test_on_another_platform_it_says_which_one_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendors, "host_platform", lambda: "linux/arm64")
    told = listed("mnn")
    assert (told.state, told.usable) == ("other platform", False)
    assert told.next_step == "run it on linux/amd64; this machine is linux/arm64"


def test_a_lock_that_can_not_be_read_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def old(name: str) -> None:
        raise LockError(f"{name} is older than its spec", "make it again")

    monkeypatch.setattr(vendors, "read_lock", old)
    told = listed("mnn")
    assert (told.state, told.usable, told.next_step) == ("unusable", False, "mnn is older than its spec; make it again")


def test_a_converter_of_the_vendor_s_own_waits_for_its_sdk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("envs.sdk.record.LOCKS", tmp_path)
    told = listed("sigmastar")
    assert (told.runs, told.state, told.usable) == ("its vendor's image", "no SDK", False)
    assert told.next_step == "`invoke sdk add sigmastar PATH` with the vendor's image and its SDK folder"


def test_json_is_one_document() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "vendors", "--json"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert [one["name"] for one in json.loads(done.stdout)] == [one.name for one in toolchains()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((False, "x", False, False), "--model is for --table"),
        ((False, "", True, False), "--markdown is for --table"),
        ((True, "", True, True), "--markdown and --json exclude each other"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words: tuple[bool, str, bool, bool], said: str) -> None:
    with pytest.raises(WrongUse, match=said):
        verb.vendors(*words)


def test_what_is_known_from_documentation_alone_is_listed_and_not_usable() -> None:
    told = {one.name: one for one in toolchains() if not one.env}
    assert {"hailo", "ti", "vitis-ai", "ascend", "horizon", "d-robotics"} <= set(told)
    assert {(one.runs, one.state, one.usable) for one in told.values()} == {("not here", "not here", False)}
    assert all(one.pins for one in told.values())


def test_every_toolchain_of_the_matrix_is_listed() -> None:
    """But for the one that is none: the exported file in onnxruntime."""
    listed_names = {one.name for one in toolchains()}
    assert {one.name for one in read_matrix().toolchains if one.accepts or one.environment} <= listed_names
