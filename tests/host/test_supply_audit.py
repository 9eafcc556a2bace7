"""`invoke audit`: OSV's semantics against a brute-force reading, the forms OSV comes in, and nothing passed over."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supplied import conda, deb, full_lock, kept_deb

from envs.errors import WrongUse
from envs.lock import EnvLock, read_lock
from envs.progress import Silent
from envs.supply import cvss, versions
from envs.supply.audit import Audit, audit
from envs.supply.osv import Affected, Entry, Event, Range, judge
from envs.supply.osv_files import LARGEST_ENTRY_BYTES, Malformed, read_entries
from envs.supply.targets import Source, likely_source, stored_source, targets

ROOT = Path(__file__).resolve().parents[2]


def advisory(
    identifier: str, name: str, *events: dict[str, str], ecosystem: str = "PyPI", **fields: Any
) -> dict[str, Any]:
    """An entry about one package with one range."""
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}] if events else []
    affected: dict[str, Any] = {"package": {"ecosystem": ecosystem, "name": name}, "ranges": ranges}
    affected.update({key: fields.pop(key) for key in ("versions", "ecosystem_specific") if key in fields})
    return {"id": identifier, "modified": "2026-01-01T00:00:00Z", "affected": [affected], **fields}


def audited(lock: EnvLock, *entries: dict[str, Any], ignore: tuple[str, ...] = ()) -> Audit:
    found, notes = targets(lock)
    read = [msgspec.convert(entry, Entry) for entry in entries]
    return audit(found, read, frozenset(ignore), notes)


FROM_START = {"introduced": "0"}
PLAIN = full_lock(conda=(), base_archive=None, base_image=None)


# --- events

steps = st.tuples(st.sampled_from(["introduced", "fixed", "last_affected"]), st.integers(0, 8))
KEYS = {"pypi": (versions.pypi, "{}.0"), "debian": (versions.debian, "{}-1"), "conda": (versions.conda, "{}.0")}


def timeline(events: list[tuple[str, int]], limits: list[int], upto: int) -> list[bool]:
    """Affected or not at each version 0, 1, 2 ...: every version walked through, every event at its own version."""
    told, affected = [], False
    for version in range(upto):
        here = {kind for kind, at in events if at == version}
        affected = (affected and "fixed" not in here) or "introduced" in here
        told.append(affected and (not limits or any(version < limit for limit in limits)))
        affected = affected and "last_affected" not in here
    return told


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(KEYS)),
    st.lists(steps, max_size=6),
    st.integers(0, 8),
    st.lists(st.integers(0, 9), max_size=2),
)
def test_ranges_mean_what_a_walk_through_all_versions_says(
    order: str, more: list[tuple[str, int]], first: int, limits: list[int]
) -> None:
    key, shape = KEYS[order]
    events = [("introduced", first), *more]
    given_events = [Event(**{kind: shape.format(at)}) for kind, at in events]
    given_events += [Event(limit=shape.format(at)) for at in limits]
    random.Random(len(more)).shuffle(given_events)
    affected = Affected(ranges=(Range("ECOSYSTEM", tuple(given_events)),))
    for version, expected in enumerate(timeline(events, limits, 10)):
        verdict = judge(shape.format(version), affected, key)
        assert verdict.affected == expected, version
        fixes = [at for kind, at in events if kind == "fixed" and at > version]
        assert verdict.fixed == ((shape.format(min(fixes)),) if expected and fixes else ())


def test_introduced_zero_is_before_every_version() -> None:
    affected = Affected(ranges=(Range("ECOSYSTEM", (Event(introduced="0"), Event(fixed="0.1"))),))
    assert judge("0.dev0", affected, versions.pypi).affected
    assert judge("0~~", affected, versions.debian).affected
    assert not judge("0.1", affected, versions.pypi).affected


def test_a_version_listed_by_name_is_affected_whatever_the_ranges_say() -> None:
    fixed_early = Range("ECOSYSTEM", (Event(introduced="0"), Event(fixed="1.0")))
    affected = Affected(ranges=(fixed_early,), versions=("2.0", "old-release"))
    assert judge("2.0.0", affected, versions.pypi).affected
    assert not judge("2.0.1", affected, versions.pypi).affected


def test_a_limit_of_star_is_none() -> None:
    affected = Affected(ranges=(Range("ECOSYSTEM", (Event(introduced="0"), Event(limit="*"))),))
    assert judge("9", affected, versions.pypi).affected


@pytest.mark.parametrize(
    "affected",
    [
        Affected(),
        Affected(ranges=(Range("GIT", (Event(introduced="abc"),)),)),
        Affected(ranges=(Range("ECOSYSTEM", (Event(fixed="1.0"),)),)),
        Affected(ranges=(Range("ECOSYSTEM", (Event(introduced="0"), Event())),)),
        Affected(ranges=(Range("ECOSYSTEM", (Event(introduced="0"), Event(fixed="not a version"))),)),
    ],
)
def test_what_can_not_be_evaluated_is_undecided_and_not_passed_over(affected: Affected) -> None:
    with pytest.raises(ValueError):
        judge("1.0", affected, versions.pypi)
    entry = advisory("X-1", "torch")
    entry["affected"][0]["ranges"] = msgspec.to_builtins(affected.ranges or ())
    done = audited(PLAIN, entry)
    assert [(one.id, one.package) for one in done.undecided] == [("X-1", "torch")] and not done.ok


# --- versions

CONDA_ORDER = [
    *(["0.4", "0.4.0"], ["0.4.1.rc", "0.4.1.RC"], ["0.4.1"], ["0.5a1"], ["0.5b3"], ["0.5C1"], ["0.5"], ["0.9.6"]),
    *(["0.960923"], ["1.0"], ["1.1dev1"], ["1.1_"], ["1.1a1"], ["1.1.0dev1", "1.1.dev1"], ["1.1.a1"], ["1.1.0rc1"]),
    *(["1.1.0", "1.1"], ["1.1.0post1", "1.1.post1"], ["1.1post1"], ["1996.07.12"], ["1!0.4.1"], ["1!3.1.1.6"]),
    ["2!0.4.1"],
]


def test_conda_versions_sort_as_conda_documents_it() -> None:
    for (place, same), (other_place, others) in itertools.product(enumerate(CONDA_ORDER), repeat=2):
        for a, b in itertools.product(same, others):
            assert (versions.conda(a) < versions.conda(b)) == (place < other_place), (a, b)
            assert (versions.conda(a) == versions.conda(b)) == (place == other_place), (a, b)


@given(st.lists(st.from_regex(r"[0-9]{1,2}([._][0-9a-z]{1,3}){0,3}_?", fullmatch=True), min_size=3, max_size=3))
def test_the_order_of_conda_versions_is_transitive(three: list[str]) -> None:
    a, b, c = sorted(three, key=versions.conda)
    assert not versions.conda(c) < versions.conda(a)
    assert versions.conda(a) <= versions.conda(b) <= versions.conda(c)


@pytest.mark.parametrize("text", ["", "a b", "1!", "1+", "!1"])
def test_what_is_no_version_is_a_value_error_in_every_order(text: str) -> None:
    for key in (versions.conda, versions.debian):
        with pytest.raises(ValueError):
            key(text if key is versions.conda else f"{text} x")


@pytest.mark.parametrize(
    ("vector", "score"),
    [
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0),
        ("CVSS:3.0/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1),
        ("CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", 7.8),
        ("CVSS:3.1/AV:N/AC:H/PR:N/UI:R/S:U/C:L/I:N/A:N", 3.1),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", 0.0),
        ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", None),
        ("AV:N/AC:L/Au:N/C:P/I:P/A:P", None),
        ("7.5", None),
    ],
)
def test_scores_are_the_published_ones(vector: str, score: float | None) -> None:
    assert cvss.base_score(vector) == score


# --- what is matched


def test_python_packages_are_matched_under_any_spelling_of_their_name() -> None:
    done = audited(PLAIN, advisory("X-1", "typing.extensions", FROM_START, {"fixed": "5.0"}, summary="why"))
    (one,) = done.findings
    assert (one.package, one.installed, one.fixed_in, one.summary) == ("Typing_Extensions", "4.9.0", ("5.0",), "why")


def test_a_fixed_version_and_another_ecosystem_are_no_match() -> None:
    done = audited(
        PLAIN,
        advisory("X-1", "torch", FROM_START, {"fixed": "1.12.1"}),
        advisory("X-2", "torch", FROM_START, ecosystem="npm"),
        advisory("X-3", "torch", FROM_START, ecosystem="Debian:12"),
    )
    assert done.ok and done.read == 3


@pytest.mark.parametrize(
    ("ecosystem", "hits"), [("Debian", 1), ("Debian:12", 1), ("Debian:11", 0), ("Ubuntu:22.04", 0)]
)
def test_debian_advisories_hold_for_their_own_release(ecosystem: str, hits: int) -> None:
    done = audited(PLAIN, advisory("D-1", "glibc", FROM_START, ecosystem=ecosystem))
    assert [one.package for one in done.findings] == ["libc6"] * hits


def test_debian_packages_are_matched_by_source_and_by_the_sources_version() -> None:
    bash = advisory("D-1", "bash", FROM_START, {"fixed": "5.2.15-2"}, ecosystem="Debian:12")
    assert audited(PLAIN, bash).ok  # 5.2.15-2+b13 is a rebuild of the fixed source
    binary = advisory("D-2", "libssl3", FROM_START, ecosystem="Debian:12")
    source = advisory("D-3", "openssl", FROM_START, ecosystem="Debian:12")
    assert [one.id for one in audited(PLAIN, binary, source).findings] == ["D-3"]


def test_a_package_whose_source_is_unknown_is_looked_up_by_its_own_name_and_that_is_said() -> None:
    lock = full_lock(base=(deb("libssl3", "3.0", "openssl", file="flat/libssl3.deb"),), base_image=None)
    done = audited(lock, advisory("D-1", "libssl3", FROM_START, ecosystem="Debian"))
    assert [one.id for one in done.findings] == ["D-1"]
    assert any("libssl3" in note for note in done.notes)


@pytest.mark.parametrize(
    ("field", "source"),
    [
        ("", Source("thing", "1.0+b1")),
        ("Source: origin\n", Source("origin", "1.0+b1")),
        ("Source: origin (1.0)\n", Source("origin", "1.0")),
    ],
)
def test_a_stored_package_says_itself_what_its_source_is(
    cache: Path, tmp_path: Path, field: str, source: Source
) -> None:
    package = kept_deb(tmp_path, "thing", field)
    assert stored_source(package) == source
    assert likely_source(package) == Source("elsewhere", "1.0")


def test_a_package_that_is_not_stored_says_nothing(cache: Path) -> None:
    assert stored_source(deb("bash", "5", "bash")) is None


def test_conda_packages_are_matched_as_conda_and_as_python_packages() -> None:
    lock = full_lock(package=(), test=(), data=(), conda=(conda("openssl", "1.1.1w"), conda("numpy", "1.23.5")))
    done = audited(
        lock,
        advisory("C-1", "openssl", FROM_START, {"fixed": "3.0"}, ecosystem="conda"),
        advisory("P-1", "numpy", FROM_START, {"last_affected": "1.24"}),
    )
    assert [(one.id, one.package) for one in done.findings] == [("P-1", "numpy"), ("C-1", "openssl")]
    assert any("conda" in note for note in done.notes)


def test_what_was_not_looked_up_is_said() -> None:
    assert any("image" in note for note in audited(full_lock()).notes)
    assert any("interpreter" in note for note in audited(PLAIN).notes)
    assert any("without a number" in note for note in audited(full_lock(suite="sid")).notes)


# --- withdrawn, ignored, merged


def test_withdrawn_entries_are_counted_and_do_not_match() -> None:
    done = audited(PLAIN, advisory("X-1", "torch", FROM_START, withdrawn="2024-01-01T00:00:00Z"))
    assert done.ok and done.withdrawn == 1


THREE = (
    advisory("PYSEC-1", "pillow", FROM_START, {"fixed": "9.0.1"}, aliases=["CVE-2022-1"]),
    advisory("GHSA-1", "pillow", FROM_START, {"fixed": "9.0.1"}, aliases=["GHSA-2"], summary="short"),
    advisory("GHSA-2", "pillow", FROM_START, {"fixed": "9.2"}, aliases=["CVE-2022-1"]),
)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_one_vulnerability_under_several_ids_is_one_finding(order: tuple[int, ...]) -> None:
    (one,) = audited(PLAIN, *(THREE[place] for place in order)).findings
    assert (one.id, one.aliases) == ("CVE-2022-1", ("GHSA-1", "GHSA-2", "PYSEC-1"))
    assert one.fixed_in == ("9.0.1", "9.2") and one.summary == "short"


@pytest.mark.parametrize("identifier", ["CVE-2022-1", "GHSA-1", "GHSA-2", "PYSEC-1"])
def test_any_id_of_a_vulnerability_ignores_all_of_it(identifier: str) -> None:
    done = audited(PLAIN, *THREE, advisory("X-1", "torch", FROM_START), ignore=(identifier, "X-9"))
    assert [one.id for one in done.findings] == ["X-1"] and done.ignored == (identifier,)


def test_an_only_upstream_is_the_same_vulnerability_and_several_are_not() -> None:
    one = advisory("DEBIAN-CVE-1", "bash", FROM_START, ecosystem="Debian:12", upstream=["CVE-1"])
    many = advisory("DSA-1", "bash", FROM_START, ecosystem="Debian:12", upstream=["CVE-1", "CVE-2"])
    assert [(f.id, f.aliases) for f in audited(PLAIN, one, many).findings] == [
        ("CVE-1", ("DEBIAN-CVE-1",)),
        ("DSA-1", ()),
    ]


def test_the_severity_is_the_highest_score_or_the_databases_word() -> None:
    scored = {"severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]}
    low = {"severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:H/PR:N/UI:R/S:U/C:L/I:N/A:N"}]}
    both = audited(
        PLAIN,
        advisory("A", "torch", FROM_START, aliases=["B"], **low),
        advisory("B", "torch", FROM_START, **scored),
        advisory("C", "pillow", FROM_START, database_specific={"severity": "moderate"}),
        advisory("D", "glibc", FROM_START, ecosystem="Debian", ecosystem_specific={"urgency": "low"}),
    )
    assert {one.package: one.severity for one in both.findings} == {
        "torch": "CRITICAL 9.8",
        "pillow": "MODERATE",
        "libc6": "LOW",
    }


# --- the forms that OSV comes in

GOOD = [advisory(f"X-{number}", "torch", FROM_START) for number in range(3)]


def read(path: Path) -> tuple[list[str], list[Malformed]]:
    found = list(read_entries(path, Silent()))
    return [one.id for one in found if isinstance(one, Entry)], [one for one in found if isinstance(one, Malformed)]


@pytest.mark.parametrize("form", ["one", "list", "vulns", "lines", "folder", "zip", "indented"])
def test_every_form_is_read(tmp_path: Path, form: str) -> None:
    texts = [json.dumps(one) for one in GOOD]
    path = tmp_path / "osv.json"
    match form:
        case "one":
            path.write_text(texts[0])
        case "indented":
            path.write_text(json.dumps(GOOD[0], indent=2))
        case "list":
            path.write_text(json.dumps(GOOD))
        case "vulns":
            path.write_text(json.dumps({"vulns": GOOD}))
        case "lines":
            path.write_text("\n".join(texts) + "\n\n")
        case "folder":
            path = tmp_path / "osv"
            (path / "deep").mkdir(parents=True)
            for place, text in zip(("a.json", "deep/b.json", "deep/c.jsonl"), texts, strict=True):
                (path / place).write_text(text)
            (path / "README.md").write_text("not JSON")
        case "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for number, text in enumerate(texts):
                    archive.writestr(f"X-{number}.json", text)
    ids, malformed = read(path)
    assert ids == ["X-0", "X-1", "X-2"][: 1 if form in ("one", "indented") else 3] and malformed == []


def test_an_empty_vulns_is_an_answer() -> None:
    assert list(read_entries_of(b'{"vulns": []}')) == list(read_entries_of(b'{"vulns": null}')) == []


def read_entries_of(content: bytes) -> list[Entry | Malformed]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "given.json")
        path.write_bytes(content)
        return list(read_entries(path, Silent()))


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b"[]",
            b"{}",
            b"null",
            b"7",
            b'"text"',
            b"<html><body>404</body></html>",
            b"\xff\xfe\x00",
            b"PK\x03\x04",
        ),
        *(b'{"name": "package.json"}', b"[" * 100_000, b'{"vulns": 3}', b"a: 1\nb: 2\n"),
    ],
)
def test_what_is_not_osv_is_refused(content: bytes) -> None:
    with pytest.raises(WrongUse, match="no vulnerability in OSV format"):
        read_entries_of(content)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_lead_to_anything_but_entries_or_a_refusal(content: bytes) -> None:
    with contextlib.suppress(WrongUse):
        read_entries_of(content)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 400))
def test_a_list_cut_anywhere_is_refused_and_a_cut_line_is_named(cut: int) -> None:
    text = json.dumps(GOOD)
    with pytest.raises(WrongUse):
        read_entries_of(text[: min(cut, len(text) - 1)].encode())
    lines = json.dumps(GOOD[0]) + "\n" + json.dumps(GOOD[1])[: max(1, cut // 4)]
    first, second = read_entries_of(lines.encode())
    assert isinstance(first, Entry) and isinstance(second, Malformed) and "line 2" in second.where


def test_an_absent_or_empty_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="no such file"):
        read(tmp_path / "absent")
    with pytest.raises(WrongUse, match="no vulnerability"):
        read(tmp_path)


def test_a_member_that_can_not_be_unpacked_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.json", json.dumps(GOOD[0]))
        archive.writestr("bad.json", "Q" * 1000)
    path.write_bytes(path.read_bytes().replace(b"QQQQ", b"RRRR", 1))  # its checksum no longer holds
    ids, malformed = read(path)
    assert ids == ["X-0"] and [one.where for one in malformed] == ["all.zip:bad.json"]


def test_a_member_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.json", json.dumps(GOOD[0]))
        archive.writestr("bomb.json", b" " * (LARGEST_ENTRY_BYTES + 1))
    ids, malformed = read(path)
    assert ids == ["X-0"] and "more than" in malformed[0].reason


def test_an_entry_of_the_wrong_shape_is_named_and_leaves_its_package_undecided() -> None:
    bad = {"id": "X-9", "affected": [{"package": {"ecosystem": "PyPI", "name": "torch"}, "versions": 7}]}
    other = {"id": "X-8", "affected": [{"package": {"ecosystem": "PyPI", "name": "unrelated"}, "versions": 7}]}
    entries = read_entries_of(json.dumps([GOOD[0] | {"affected": []}, bad, other, 5]).encode())
    done = audit(targets(PLAIN)[0], entries)
    assert [one.where for one in done.malformed] == [f"given.json, entry {number}" for number in (2, 3, 4)]
    assert [one.package for one in done.undecided] == ["torch"] and not done.ok


def test_fields_that_are_null_or_unknown_do_no_harm() -> None:
    entry = {"id": "X", "aliases": None, "affected": None, "severity": None, "schema_version": "9", "new": {"x": 1}}
    (read_one,) = read_entries_of(json.dumps(entry).encode())
    assert isinstance(read_one, Entry) and audit(targets(PLAIN)[0], [read_one]).ok


# --- the verb


def invoke(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "invoke", "audit", "--env", "light", *words]
    return subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)


def test_the_exit_code_says_whether_something_matches(tmp_path: Path) -> None:
    installed = next(one.version for one in read_lock("light").package if one.name == "torch")
    path = tmp_path / "osv.json"
    path.write_text(
        json.dumps(
            [
                advisory("X-1", "torch", FROM_START, summary="a [bold] fault\x1b[2J\n"),
                advisory("X-2", "none", FROM_START),
            ]
        )
    )
    done = invoke("--vulnerabilities", str(path))
    assert done.returncode == 1 and "X-1" in done.stdout and "a [bold] fault" in done.stdout, done.stderr
    assert "\x1b" not in done.stdout
    done = invoke("--vulnerabilities", str(path), "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1 and document["findings"][0]["installed"] == installed and document["read"] == 2
    done = invoke("--vulnerabilities", str(path), "--ignore", "X-1", "--ignore", "X-7")
    assert done.returncode == 0 and "X-7: nothing was found" in done.stderr


def test_wrong_use_of_audit_is_told(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html>")
    for words in ([], ["--vulnerabilities", str(tmp_path / "page.html")], ["--vulnerabilities", str(tmp_path / "no")]):
        done = invoke(*words)
        assert done.returncode == 2 and "error:" in done.stderr and "Traceback" not in done.stderr
