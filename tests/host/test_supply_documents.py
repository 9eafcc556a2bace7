"""SBOMs and provenance: valid by other people's validators, complete, and the same bytes for the same lock."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given, settings
from hypothesis import strategies as st
from making import small_lock
from packageurl import PackageURL
from spdx_tools.spdx.parser.json.json_parser import JsonLikeDictParser
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
from supplied import deb, full_lock, image_of, kept_deb, wheel

from envs.build import image_plan
from envs.display import Terminal
from envs.errors import BuildError, CheckFailed, WrongUse
from envs.fetch import keep
from envs.layers import Layer
from envs.lock import EnvLock, read_lock
from envs.progress import Silent
from envs.supply import cyclonedx, provenance, sign, spdx
from envs.supply.components import components
from envs.supply.documents import bill, check_written, documents, signature, write_documents
from envs.supply.provenance import Builder
from envs.supply.purl import purl
from envs.tree import ensure_tree
from envs.verbs import supply

ROOT = Path(__file__).resolve().parents[2]
BUILDER = Builder(id="test/builder", tool=f"sha256:{'1' * 64}", pipelines=f"sha256:{'2' * 64}")
LOCKS = [full_lock(), full_lock(base=(), package=(), test=(), data=(), hub=(), conda=(), drift=("bash 1 -> 2",))]

names = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._+-]{0,12}", fullmatch=True)
any_version = st.from_regex(r"([0-9]:)?[0-9][0-9a-z.+~!]{0,10}", fullmatch=True)


def shipped() -> list[EnvLock]:
    return [read_lock("light"), read_lock("sigmastar")]


def hashes(lock: EnvLock) -> set[str]:
    """Every sha256 that the lock's own records hold for a source of bytes."""
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            found.update(v for k, v in value.items() if k == "sha256" and v)
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                walk(inner)

    walk({key: value for key, value in msgspec.to_builtins(lock).items() if key != "spec_sha256"})
    return found


# --- package URLs


@given(
    st.sampled_from(["pypi", "generic"]), names, any_version, st.dictionaries(st.sampled_from(["arch", "build"]), names)
)
def test_a_package_url_reads_back_as_what_it_was_made_from(
    kind: str, name: str, version: str, more: dict[str, str]
) -> None:
    read = PackageURL.from_string(purl(kind, name, version, namespace="", **more))
    assert read.version == version and read.qualifiers == more
    assert read.name == (name.replace("_", "-").lower() if kind == "pypi" else name)


def test_package_urls_are_in_the_form_that_the_reference_library_writes() -> None:
    for lock in (*LOCKS, *shipped()):
        for one in components(lock):
            assert PackageURL.from_string(one.purl).to_string() == one.purl


# --- bills of materials


@pytest.mark.parametrize("place", range(4))
def test_the_cyclonedx_document_is_valid(place: int) -> None:
    text = cyclonedx.encode([*LOCKS, *shipped()][place]).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


@pytest.mark.parametrize("place", range(4))
def test_the_spdx_document_is_valid(place: int) -> None:
    parsed = JsonLikeDictParser().parse(json.loads(spdx.encode([*LOCKS, *shipped()][place])))
    assert validate_full_spdx_document(parsed, "SPDX-2.3") == []


def test_every_hash_of_the_lock_is_in_both_bills_and_in_the_provenance() -> None:
    for lock in (*LOCKS, *shipped()):
        statement = provenance.encode(lock, image_of(lock), BUILDER)
        for document in (cyclonedx.encode(lock), spdx.encode(lock), statement):
            assert [one for one in hashes(lock) if one.encode() not in document] == []


def test_what_is_not_in_the_image_says_so() -> None:
    listed = json.loads(cyclonedx.encode(full_lock()))["components"]
    scopes = {one["name"]: one["scope"] for one in listed if one["name"] != "cpython"}
    assert scopes["torch"] == scopes["bash"] == scopes["openssl"] == "required"
    assert scopes["pytest"] == "excluded"
    assert scopes["scikit-image"] == scopes["resnet18"] == "optional"
    assert sorted(one["scope"] for one in listed if one["name"] == "cpython") == ["optional", "required"]


def test_the_root_depends_on_everything_but_tests_and_alternatives() -> None:
    document = json.loads(cyclonedx.encode(full_lock()))
    root = document["metadata"]["component"]["bom-ref"]
    needed = next(one["dependsOn"] for one in document["dependencies"] if one["ref"] == root)
    every = {one["bom-ref"] for one in document["components"]}
    assert every - set(needed) == {key for key in every if key.startswith(("test:", "alternative:"))}


def test_a_base_image_is_marked_as_not_listed_inside() -> None:
    document = json.loads(cyclonedx.encode(full_lock()))
    kinds = {one["bom-ref"]: one["type"] for one in document["components"]}
    assert [kinds[c["assemblies"][0]] for c in document["compositions"]] == ["container", "container"]


@given(st.permutations(full_lock().base), st.permutations(full_lock().package))
@settings(max_examples=20, deadline=None)
def test_the_order_in_a_lock_moves_no_component(base: list[Any], package: list[Any]) -> None:
    assert components(full_lock(base=tuple(base), package=tuple(package))) == components(full_lock())


def test_the_time_in_the_documents_is_the_locks_and_names_follow_from_the_lock() -> None:
    lock, other = full_lock(), full_lock(package=(wheel("torch", "1.13.0"),))
    want = dt.datetime.fromtimestamp(lock.source_date_epoch, dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    first, second = (json.loads(cyclonedx.encode(one)) for one in (lock, other))
    assert first["metadata"]["timestamp"] == want
    assert json.loads(spdx.encode(lock))["creationInfo"]["created"] == want
    assert first["serialNumber"] != second["serialNumber"]
    assert json.loads(spdx.encode(lock))["documentNamespace"] != json.loads(spdx.encode(other))["documentNamespace"]


def test_another_process_place_and_day_gives_the_same_bytes(tmp_path: Path) -> None:
    ask = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests/host')!r}]; import supplied\n"
        "from envs.supply.documents import documents; from envs.supply.provenance import Builder\n"
        "lock = supplied.full_lock()\n"
        f"made = documents(lock, supplied.image_of(lock), None, Builder(id='test/builder', tool='sha256:{'1' * 64}', "
        f"pipelines='sha256:{'2' * 64}'))\n"
        "print(*(one.digest for one in made))"
    )
    lock = full_lock()
    here = " ".join(one.digest for one in documents(lock, image_of(lock), None, BUILDER))
    variables = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    faked = ["faketime", "2031-01-01"] if shutil.which("faketime") else []
    command = [*faked, sys.executable, "-c", ask]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here


# --- provenance


def statement(lock: EnvLock, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(provenance.encode(lock, image_of(lock), BUILDER, **more))
    return made


def test_the_subject_is_the_images_manifest_and_configuration() -> None:
    lock = full_lock()
    plan = image_of(lock)
    digests = [f"sha256:{one['digest']['sha256']}" for one in statement(lock)["subject"]]
    assert digests == [plan.manifest_digest, plan.image_id]


def test_the_provenance_names_lock_pipelines_tool_and_builder() -> None:
    lock = full_lock()
    made = statement(lock)
    assert (made["_type"], made["predicateType"]) == (provenance.STATEMENT_TYPE, provenance.PREDICATE_TYPE)
    definition = made["predicate"]["buildDefinition"]
    assert definition["externalParameters"] == {"env": "full", "lock": lock.digest, "platform": "linux/amd64"}
    assert definition["internalParameters"]["pipelines"] == BUILDER.pipelines
    assert definition["internalParameters"]["tool"] == BUILDER.tool
    assert made["predicate"]["runDetails"]["builder"]["id"] == "test/builder"


def test_a_known_interpreter_is_the_only_one_named() -> None:
    lock = full_lock()
    made = statement(lock, interpreter=lock.interpreter[1])["predicate"]["buildDefinition"]
    named = [one for one in made["resolvedDependencies"] if one["name"] == "cpython"]
    assert [(one["digest"]["sha256"], one["annotations"]["use"]) for one in named] == [("4" * 64, "image")]


def test_every_resource_has_a_whole_digest_or_says_how_much_of_it_is_known() -> None:
    for one in statement(full_lock())["predicate"]["buildDefinition"]["resolvedDependencies"]:
        assert len(one.get("digest", {}).get("sha256", "")) == 64 or one["annotations"]["sha256-prefix"]


def test_another_image_of_the_same_lock_is_another_invocation() -> None:
    lock = full_lock()
    first, second = (provenance.encode(lock, image_of(lock, digit), BUILDER) for digit in "ef")
    ids = [json.loads(one)["predicate"]["runDetails"]["metadata"]["invocationId"] for one in (first, second)]
    assert ids[0] != ids[1] and ids[0].startswith("urn:uuid:")


def test_drift_is_told() -> None:
    made = statement(LOCKS[1])["predicate"]["buildDefinition"]
    assert made["internalParameters"]["drift"] == ["bash 1 -> 2"]
    assert b"bash 1 -> 2" in cyclonedx.encode(LOCKS[1]) and b"bash 1 -> 2" in spdx.encode(LOCKS[1])


def test_an_image_that_was_never_packed_has_no_provenance() -> None:
    lock = full_lock()
    layer = Layer("base", "test", 1024, Path("nowhere"), lambda: iter(()))
    with pytest.raises(BuildError, match="digest is not known"):
        documents(lock, msgspec.structs.replace(image_of(lock), layers=(layer,)), None, BUILDER)


def test_the_builder_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(provenance.BUILDER_VARIABLE, raising=False)
    assert provenance.this_builder().id == "edgekiln/local"
    monkeypatch.setenv(provenance.BUILDER_VARIABLE, "https://example.invalid/ci")
    assert provenance.this_builder().id == "https://example.invalid/ci"


def test_the_tools_digest_follows_its_code_and_not_its_locks(tmp_path: Path) -> None:
    for file, text in (
        ("tasks.py", "1"),
        ("envs/a.py", "2"),
        ("envs/locks/tool.txt", "3"),
        ("envs/locks/x.lock.toml", "4"),
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    first = provenance.tool_digest(tmp_path)
    (tmp_path / "envs/locks/x.lock.toml").write_text("5")
    assert provenance.tool_digest(tmp_path) == first
    (tmp_path / "envs/a.py").write_text("6")
    assert provenance.tool_digest(tmp_path) != first


# --- signatures


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with two key pairs without passwords."""
    if shutil.which("minisign") is None and os.environ.get("CI") != "true":
        pytest.skip("minisign is not installed")
    for name in ("mine", "other"):
        command = ["minisign", "-G", "-W", "-p", tmp_path / f"{name}.pub", "-s", tmp_path / f"{name}.secret"]
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return tmp_path


def test_a_signature_holds_and_is_the_same_twice(keys: Path) -> None:
    one, again = (sign.sign(b"content", keys / "mine.secret", "about it") for _ in range(2))
    assert one == again
    assert sign.verify(b"content", one, keys / "mine.pub") == "about it"


@pytest.mark.parametrize("change", ["content", "key", "signature", "comment"])
def test_what_was_not_signed_is_refused(keys: Path, change: str) -> None:
    made = sign.sign(b"content", keys / "mine.secret", "about it")
    content = b"contenT" if change == "content" else b"content"
    public = keys / ("other.pub" if change == "key" else "mine.pub")
    made = {"signature": b"nothing", "comment": made.replace(b"about it", b"about me")}.get(change, made)
    with pytest.raises(CheckFailed, match="does not hold"):
        sign.verify(content, made, public)


def test_a_file_that_is_no_key_is_named(keys: Path) -> None:
    (keys / "binary").write_bytes(bytes(range(256)))
    for file in ("mine.pub", "absent", "binary"):
        with pytest.raises(WrongUse, match=file):
            sign.sign(b"content", keys / file, "")
    with pytest.raises(WrongUse, match="not a minisign public key"):
        sign.verify(b"content", b"", keys / "mine.secret")


def test_a_password_is_asked_for_by_the_program(keys: Path) -> None:
    pair = ["minisign", "-G", "-p", str(keys / "p.pub"), "-s", str(keys / "p.secret")]
    subprocess.run(pair, input=b"word\nword\n", check=True, capture_output=True)
    ask = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path\n"
        "from envs.supply.sign import sign\n"
        f"sys.stdout.buffer.write(sign(b'content', Path({str(keys / 'p.secret')!r}), 'c'))"
    )
    done = subprocess.run([sys.executable, "-c", ask], input=b"word\n", check=True, capture_output=True)
    assert sign.verify(b"content", done.stdout, keys / "p.pub") == "c"
    none = subprocess.run([sys.executable, "-c", ask], input=b"", check=False, capture_output=True)
    assert b"minisign did not sign with this key" in none.stderr and none.stdout == b""


def test_without_the_program_the_reader_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="minisign is not installed") as told:
        sign.sign(b"", tmp_path / "key", "")
    assert "apt install minisign" in told.value.remedy


def signed_folder(keys: Path) -> tuple[EnvLock, Path]:
    lock = full_lock()
    made = documents(lock, image_of(lock), None, BUILDER)
    folder = keys / "out"
    write_documents([*made, signature(made[-1], keys / "mine.secret")], folder)
    return lock, folder


def test_signed_documents_check_out_and_a_changed_one_is_found(keys: Path) -> None:
    lock, folder = signed_folder(keys)
    assert sorted(file.name for file in folder.iterdir()) == [
        *("full.cdx.json", "full.provenance.json", "full.provenance.json.minisig", "full.spdx.json")
    ]
    check_written(folder, lock, keys / "mine.pub")
    with pytest.raises(CheckFailed, match=r"is of lock"):
        check_written(folder, full_lock(base=(deb("bash", "9", "bash"),)), keys / "mine.pub")
    bill_file = folder / "full.spdx.json"
    bill_file.write_bytes(bill_file.read_bytes().replace(b"torch", b"t0rch"))
    with pytest.raises(CheckFailed, match=r"full\.spdx\.json"):
        check_written(folder, lock, keys / "mine.pub")
    (folder / "full.provenance.json").write_bytes(b"{}")
    with pytest.raises(CheckFailed, match="does not hold"):
        check_written(folder, lock, keys / "mine.pub")


def test_documents_that_were_not_signed_can_not_be_checked(tmp_path: Path) -> None:
    lock = full_lock()
    write_documents([bill(lock, "spdx")], tmp_path)
    with pytest.raises(WrongUse, match=r"full\.provenance\.json"):
        check_written(tmp_path, lock, tmp_path / "key.pub")


def test_a_signed_text_that_is_no_statement_is_refused(keys: Path) -> None:
    lock, folder = signed_folder(keys)
    (folder / "full.provenance.json").write_bytes(b"[]")
    (folder / "full.provenance.json.minisig").write_bytes(sign.sign(b"[]", keys / "mine.secret", ""))
    with pytest.raises(CheckFailed, match="not a statement"):
        check_written(folder, lock, keys / "mine.pub")


# --- the verb


def test_an_environment_that_was_never_built_is_built_for_its_provenance(cache: Path, tmp_path: Path) -> None:
    lock = small_lock(tmp_path, base=(kept_deb(tmp_path, "thing"),))
    for one in lock.package:
        keep(tmp_path / one.file, one.sha256)
    first, again = (supply._documents(lock, "all", Terminal()) for _ in range(2))
    assert [one.digest for one in first] == [one.digest for one in again]
    plan = image_plan(lock, ensure_tree(lock, Silent()), Silent())
    made = json.loads(first[2].content)
    assert made["subject"][0]["digest"]["sha256"] == plan.manifest_digest.removeprefix("sha256:")
    beside = {one["name"]: f"sha256:{one['digest']['sha256']}" for one in made["predicate"]["runDetails"]["byproducts"]}
    assert beside == {one.name: one.digest for one in first[:2]}
    assert supply._documents(lock, "provenance", Terminal()) == [first[2]]


def invoke(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "invoke", *words]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


def test_sbom_prints_a_bill_without_building_anything(tmp_path: Path) -> None:
    done = invoke("sbom", "--env", "light", EDGEKILN_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.encode() == cyclonedx.encode(read_lock("light"))
    assert not (tmp_path / "cache").exists()


def test_sbom_says_what_it_wrote(tmp_path: Path) -> None:
    done = invoke("sbom", "--env", "light", "--format", "spdx", "--output", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)["documents"]
    assert [one["name"] for one in listed] == ["light.spdx.json"]
    assert Path(listed[0]["path"]).read_bytes() == spdx.encode(read_lock("light"))


@pytest.mark.parametrize(
    "words",
    [["--format", "pdf"], ["--format", "all"], ["--sign", "key"], ["--format", "spdx", "--output", "x", "--sign", "k"]],
)
def test_wrong_use_of_sbom_is_told(words: list[str]) -> None:
    done = invoke("sbom", "--env", "light", *words)
    assert done.returncode == 2 and "error:" in done.stderr and "Traceback" not in done.stderr
