"""Debian packages: order of versions, the closure of a base, signatures, .deb archives, the base layer."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from debs import entry, make_deb, mirror_of, signing, stanza
from hypothesis import given, settings
from hypothesis import strategies as st

import docker
from envs import fetch
from envs.debian import Index, closure, resolve, verified_release
from envs.debian_deb import control_paragraph, data_members
from envs.debian_version import satisfies, version_key
from envs.engines.load import ensure_image
from envs.errors import BuildError, FetchError, LockError, SpecError
from envs.image import ImagePlan
from envs.image_base import base_tar, debian_base
from envs.lock import LockedDeb, read_lock
from envs.progress import Silent

# --- versions

ORDERED = [
    "0~~",
    "0~",
    "0",
    "0.0~a",
    "0.1",
    "1~rc1",
    "1",
    "1+b1",
    "1.0",
    "1.9",
    "1.10",
    "1.10-1~bpo",
    "1.10-1",
    "1:0",
]

versions = st.from_regex(r"([0-9]{1,2}:)?[0-9]{1,2}([a-z+.~]{1,2}[0-9]{0,2}){0,3}(-[0-9a-z+.~]{1,3})?", fullmatch=True)


def test_versions_sort_as_the_policy_says() -> None:
    for seed in range(5):
        shuffled = random.Random(seed).sample(ORDERED, len(ORDERED))
        assert sorted(shuffled, key=version_key) == ORDERED


@given(versions)
def test_an_empty_revision_equals_revision_zero(version: str) -> None:
    if "-" not in version:
        assert version_key(version) == version_key(f"{version}-0")


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="no dpkg on this machine to compare with")
@settings(max_examples=150, deadline=None)
@given(versions, versions)
def test_comparison_agrees_with_dpkg(a: str, b: str) -> None:
    for ours, theirs in (("<<", "lt"), ("=", "eq"), (">=", "ge")):
        said = subprocess.run(["dpkg", "--compare-versions", a, theirs, b], check=False, capture_output=True)
        assert satisfies(a, ours, b) == (said.returncode == 0), (a, ours, b)


@pytest.mark.parametrize("text", ["", "a b", ":1", "x:1", "1_2"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        version_key(text)


# --- the closure


def chosen(stanzas: list[str], *packages: str) -> list[str]:
    return [deb.name for deb in closure(Index("\n\n".join(stanzas), "amd64"), "test", packages)]


def test_dependencies_of_dependencies_are_chosen() -> None:
    index = [stanza("a", Depends="b"), stanza("b", Pre_Depends="c (>= 1)"), stanza("c"), stanza("d")]
    assert chosen(index, "a") == ["a", "b", "c"]


def test_an_alternative_that_is_chosen_already_wins_over_the_first() -> None:
    index = [stanza("a", Depends="x | y"), stanza("b", Depends="y"), stanza("x"), stanza("y")]
    assert chosen(index, "a", "b") == ["a", "b", "y"]
    assert chosen(index, "a") == ["a", "x"]


def test_an_alternative_that_is_too_old_is_passed_over() -> None:
    assert chosen([stanza("a", Depends="x (>= 2) | y"), stanza("x"), stanza("y")], "a") == ["a", "y"]


def test_a_virtual_package_goes_to_the_provider_of_higher_priority() -> None:
    index = [
        stanza("a", Depends="awk"),
        stanza("gawk", Provides="awk", Priority="optional"),
        stanza("mawk", Provides="awk", Priority="required"),
    ]
    assert chosen(index, "a") == ["a", "mawk"]


def test_only_a_versioned_provides_meets_a_bound() -> None:
    index = [stanza("a", Depends="v (>= 2)"), stanza("p", Provides="v"), stanza("q", Provides="v (= 3)")]
    assert chosen(index, "a") == ["a", "q"]


def test_what_only_maintainer_scripts_call_stays_out() -> None:
    assert chosen([stanza("a", Depends="dpkg (>= 1.15.4) | install-info, debconf"), stanza("dpkg")], "a") == ["a"]


def test_of_two_versions_the_newer_is_taken() -> None:
    index = Index("\n\n".join([stanza("a", "1.10"), stanza("a", "1.9")]), "amd64")
    assert [deb.version for deb in closure(index, "test", ["a"])] == ["1.10"]


def test_the_order_of_the_spec_does_not_matter() -> None:
    index = [
        stanza("a", Depends="x | y"),
        stanza("b", Depends="y | z"),
        stanza("c", Depends="z | x"),
        *map(stanza, "xyz"),
    ]
    answers = {tuple(chosen(index, *order)) for order in itertools.permutations("abc")}
    assert len(answers) == 1


def test_an_unknown_package_is_named_with_its_neighbour() -> None:
    with pytest.raises(SpecError, match="no package 'libssl4'; did you mean libssl3"):
        chosen([stanza("libssl3")], "libssl4")


def test_a_dependency_that_nobody_has_is_named_with_who_asks() -> None:
    with pytest.raises(LockError, match="no b, which a depends on"):
        chosen([stanza("a", Depends="b (>> 1)"), stanza("b")], "a")


def test_packages_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(LockError, match="a and b exclude each other"):
        chosen([stanza("a", Breaks="b (<< 2)"), stanza("b")], "a", "b")
    assert chosen([stanza("a", Conflicts="v", Provides="v")], "a") == ["a"]  # itself is no conflict


# --- signatures


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Callable[[str], bytes], Path]:
    return signing(tmp_path_factory.mktemp("gpg"))


def test_a_signed_release_leads_to_the_locked_packages(signer: tuple[Callable[[str], bytes], Path]) -> None:
    sign, keyring = signer
    pages = mirror_of(sign, [stanza("a", Depends="b"), stanza("b")])
    debs = resolve("m/", "test", "amd64", ["a"], pages.__getitem__, keyring).packages
    assert [(deb.name, deb.file) for deb in debs] == [
        ("a", "pool/main/a_1_amd64.deb"),
        ("b", "pool/main/b_1_amd64.deb"),
    ]


def test_a_changed_release_is_refused(signer: tuple[Callable[[str], bytes], Path]) -> None:
    sign, keyring = signer
    signed = sign("Codename: test\n")
    with pytest.raises(FetchError, match="not signed by the keys"):
        verified_release(signed.replace(b"Codename: test", b"Codename: tess"), "test", keyring)


def test_text_outside_the_signature_is_not_read(signer: tuple[Callable[[str], bytes], Path]) -> None:
    sign, keyring = signer
    assert "evil" not in verified_release(sign("Codename: test\n") + b"\nevil: 1\n", "test", keyring)


def test_an_unsigned_release_is_refused(signer: tuple[Callable[[str], bytes], Path]) -> None:
    with pytest.raises(FetchError, match="not signed"):
        verified_release(b"<html>welcome to the portal</html>", "test", signer[1])


def test_the_release_of_another_suite_is_refused(signer: tuple[Callable[[str], bytes], Path]) -> None:
    sign, keyring = signer
    with pytest.raises(FetchError, match="sent the release file of old for test"):
        verified_release(sign("Codename: old\n"), "test", keyring)


def test_an_index_that_the_release_does_not_name_is_refused(
    signer: tuple[Callable[[str], bytes], Path],
) -> None:
    sign, keyring = signer
    pages = mirror_of(sign, [stanza("a")])
    pages["m/dists/test/main/binary-amd64/Packages.xz"] += b"x"
    with pytest.raises(FetchError, match="not the one its release file names"):
        resolve("m", "test", "amd64", ["a"], pages.__getitem__, keyring)


def test_an_architecture_that_the_suite_lacks_is_named(signer: tuple[Callable[[str], bytes], Path]) -> None:
    sign, keyring = signer
    with pytest.raises(SpecError, match="binary-sparc"):
        resolve("m", "test", "sparc", ["a"], mirror_of(sign, []).__getitem__, keyring)


def test_without_gpgv_or_keys_the_remedy_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(LockError, match="debian-archive-keyring"):
        verified_release(b"", "test", tmp_path / "none.gpg")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LockError, match="apt install gpgv"):
        verified_release(b"", "test")


# --- .deb archives


def test_a_package_gives_back_what_was_packed(tmp_path: Path) -> None:
    _, path = make_deb(tmp_path, "a", [entry("./bin"), entry("./bin/a", b"hello", mode=0o4755)])
    assert control_paragraph(path).startswith("Package: a")
    read = [
        (member.path, member.kind, member.mode, content and content.read()) for member, content in data_members(path)
    ]
    assert read == [("bin", "dir", 0o755, None), ("bin/a", "file", 0o4755, b"hello")]


@pytest.mark.parametrize("name", ["../evil", "./a/../../evil", "/etc/evil"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    _, path = make_deb(tmp_path, "a", [entry(name, b"x")])
    with pytest.raises(BuildError, match=r"a_1_amd64.deb: the path .* leads out"):
        list(data_members(path))


def test_a_hard_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    _, path = make_deb(tmp_path, "a", [entry("./x", b"", type=tarfile.LNKTYPE, linkname="../../etc/passwd")])
    with pytest.raises(BuildError, match="leads out"):
        list(data_members(path))


def test_a_device_is_refused(tmp_path: Path) -> None:
    _, path = make_deb(tmp_path, "a", [entry("./dev/null", b"", type=tarfile.CHRTYPE)])
    with pytest.raises(BuildError, match="device"):
        list(data_members(path))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_package_cut_anywhere_is_named(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    _, path = make_deb(tmp_path_factory.mktemp("cut"), "cut", [entry("./x", random.Random(0).randbytes(3000))])
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])  # the last byte may be padding
    with pytest.raises(BuildError, match=r"cut_1_amd64.deb: not a whole Debian package"):
        control_paragraph(path)
        for _, content in data_members(path):
            if content:
                content.read()


def test_a_web_page_in_place_of_a_package_is_named(tmp_path: Path) -> None:
    path = tmp_path / "portal.deb"
    path.write_text("<html>please log in</html>")
    with pytest.raises(BuildError, match=r"portal.deb: not a whole Debian package .*; remove it"):
        control_paragraph(path)


# --- the base layer


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest) -> None:
    if "engine" not in request.keywords:  # those need the packages that are in the store
        request.getfixturevalue("cache")


def base_of(debs: list[tuple[LockedDeb, Path]]) -> dict[str, tarfile.TarInfo]:
    paths = {deb.name: path for deb, path in debs}
    made, _ = base_tar([deb for deb, _ in debs], 1_700_000_000, lambda deb: paths[deb.name])
    with tarfile.open(made) as tar:
        return {info.name: info for info in tar}


def test_folders_are_merged_into_usr(tmp_path: Path) -> None:
    deb = make_deb(tmp_path, "a", [entry("./bin"), entry("./bin/a", b"x"), entry("./usr/lib/b", b"y")])
    made = base_of([deb])
    assert {"usr/bin/a", "usr/lib/b"} <= set(made)
    assert (made["bin"].linkname, made["lib"].linkname) == ("usr/bin", "usr/lib")
    assert "sbin" not in made


def test_documentation_stays_out_but_copyrights_stay(tmp_path: Path) -> None:
    doc = "./usr/share/doc"
    deb = make_deb(
        tmp_path,
        "a",
        [
            entry(f"{doc}/a/changelog.gz", b"x"),
            entry(f"{doc}/a/copyright", b"free"),
            entry(f"{doc}/b", b"", type=tarfile.SYMTYPE, linkname="a"),
            entry("./usr/share/man/man1/a.1.gz", b"x"),
            entry("./usr/share/locale/de/LC_MESSAGES/a.mo", b"x"),
            entry("./usr/lib/locale/C.utf8/LC_CTYPE", b"x"),
        ],
    )
    files = {name for name, info in base_of([deb]).items() if not info.isdir()}
    assert files == {
        "lib",
        "usr/lib/locale/C.utf8/LC_CTYPE",
        "usr/share/doc/a/copyright",
        "usr/share/doc/b",
        "var/lib/dpkg/status.d/a",
    }


def test_what_maintainer_scripts_would_make_is_made(tmp_path: Path) -> None:
    masters = "./usr/share/base-passwd"
    debs = [
        make_deb(tmp_path, "base-passwd", [entry(f"{masters}/passwd.master", b"root:*:0:0::/root:/bin/bash\n")]),
        make_deb(tmp_path, "dash", [entry("./bin/dash", b"x")]),
        make_deb(tmp_path, "mawk", [entry("./usr/bin/mawk", b"x")]),
    ]
    made = base_of(debs)
    assert (made["usr/bin/sh"].linkname, made["usr/bin/awk"].linkname) == ("dash", "mawk")
    assert made["tmp"].mode == 0o1777
    packed = next(Path(os.environ["EDGEKILN_CACHE"]).rglob("*.tar"))
    with tarfile.open(packed) as tar:
        passwd = tar.extractfile("etc/passwd")
        assert passwd is not None
        assert passwd.read().decode().splitlines()[-1] == "kiln:x:10001:10001:kiln:/tmp:/bin/bash"


def test_a_hard_link_becomes_a_file_with_the_same_content(tmp_path: Path) -> None:
    deb = make_deb(
        tmp_path,
        "a",
        [entry("./bin/one", b"same"), entry("./bin/two", b"", type=tarfile.LNKTYPE, linkname="./bin/one")],
    )
    made = base_of([deb])
    assert made["usr/bin/two"].isreg()
    assert made["usr/bin/two"].size == 4


def test_two_packages_with_the_same_file_are_named(tmp_path: Path) -> None:
    debs = [
        make_deb(tmp_path, "a", [entry("./bin/x", b"1")]),
        make_deb(tmp_path, "b", [entry("./usr/bin/x", b"2")]),
    ]
    with pytest.raises(BuildError, match="packages a and b both hold /usr/bin/x"):
        base_of(debs)


def test_a_file_below_a_link_of_another_package_is_refused(tmp_path: Path) -> None:
    link = entry("./opt/x", b"", type=tarfile.SYMTYPE, linkname="/etc")
    debs = [make_deb(tmp_path, "a", [link]), make_deb(tmp_path, "b", [entry("./opt/x/passwd", b"2")])]
    with pytest.raises(BuildError, match="b: /opt/x/passwd lies below /opt/x, which is no folder"):
        base_of(debs)


def test_a_package_that_is_not_the_locked_one_is_refused(tmp_path: Path) -> None:
    deb, path = make_deb(tmp_path, "a", [entry("./x", b"1")])
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(BuildError, match=r"a_1_amd64.deb: not the file that the lock names"):
        base_of([(deb, path)])
    assert not list((tmp_path / "cache").rglob("*.tar"))  # nothing half-made stays


def test_a_lock_without_base_says_so() -> None:
    with pytest.raises(LockError, match="no Debian packages"):
        debian_base([], "bookworm", 0, lambda deb: Path())


def test_place_umask_timezone_and_order_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    for number, (mask, zone) in enumerate([(0o022, "UTC"), (0o077, "Asia/Tokyo")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.setenv("EDGEKILN_CACHE", str(folder / "cache"))
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        before = os.umask(mask)
        try:
            debs = [make_deb(folder, name, [entry(f"./usr/{name}", name.encode())]) for name in "abc"]
            debs = debs[number:] + debs[:number]
            paths = {deb.name: path for deb, path in debs}
            path, known = base_tar([deb for deb, _ in debs], 1_700_000_000, lambda deb: paths[deb.name])  # noqa: B023
        finally:
            os.umask(before)
        assert known.diff_id == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        built.append((known, path.name, path.stat().st_mode))
    assert built[0] == built[1]


@pytest.mark.engine
def test_the_real_base_boots_and_has_no_loose_ends() -> None:
    lock = read_lock("light")
    debs = fetch.fetch([fetch.deb(deb, lock.suite) for deb in lock.base], "base", Silent())
    paths = dict(zip(lock.base, debs, strict=True))
    base = debian_base(lock.base, lock.suite, lock.source_date_epoch, paths.__getitem__)
    plan = ImagePlan("test-base", lock.digest, lock.platform, lock.source_date_epoch, "test", base.layers)
    client = docker.from_env()
    image = ensure_image(client, plan, Silent())
    try:
        loose = "find / -xdev -xtype l 2>/dev/null || true"
        script = f"id -un; ls -d /tmp; echo x | sed s/x/y/ | grep y; awk 'BEGIN{{print 7}}'; {loose}"
        out = client.containers.run(
            image, ["bash", "-c", script], remove=True, network_mode="none", read_only=True, user="10001"
        )
        assert out.decode().split() == ["kiln", "/tmp", "y", "7"]
        assert base.layers[0].bytes < 60 << 20
    finally:
        client.images.remove(image, force=True)


def teardown_module() -> None:
    os.environ.pop("TZ", None)
    time.tzset()
