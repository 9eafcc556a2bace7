"""`push` and `pull` from a private base to a signed document, and the secret that is in none of it."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from making import small_lock
from registries import PASSWORD, USER, Answer, Registry, log_in, needs, plan_of, push, registry, scripted
from serving import serving

from envs import sources
from envs.errors import RegistryError, WrongUse
from envs.lock import EnvLock
from envs.progress import Silent
from envs.registry import recognise
from envs.registry.base import resolve_image
from envs.registry.client import Client, Descriptor, digest_of
from envs.registry.push import subject_of
from envs.registry.referrers import attach, content_of, referrers
from envs.supply import sign
from envs.supply.documents import Document
from envs.verbs import registry as verbs

NOTE = Document(name="note.json", media_type="application/json", artifact_type="application/x.note", content=b"{}\n")
OTHER = Document(name="other.txt", media_type="text/plain", artifact_type="application/x.other", content=b"text")


@pytest.fixture
def plain(cache: Path, tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "registry") as made:
        yield made


@pytest.fixture
def private(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    with registry(tmp_path / "registry", users=True) as made:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("DOCKER_CONFIG", str(log_in(tmp_path / "docker", made.host)))
        monkeypatch.setenv("EDGEKILN_REGISTRY_URL", f"http://{made.host}")
        yield made


@pytest.fixture
def small(private: Registry, tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EnvLock]:
    """A lock whose base is an image of the private registry; the verbs read it in place of any other."""
    base = push(plan_of(b"a base layer", name="base"), f"{private.host}/base/image")
    image = resolve_image(f"base/image@{base.digest}", "linux/amd64", Silent())
    lock = small_lock(tmp_path / "wheels", base_image=image)
    sources.index_url.cache_clear()
    monkeypatch.setattr("envs.lock.read_lock", lambda *_: lock)
    monkeypatch.setattr(recognise, "read_lock", lambda *_: lock)
    monkeypatch.setattr(recognise, "spec_names", lambda: ["small"])
    with serving() as server:
        server.add_wheels(tmp_path / "wheels")
        monkeypatch.setenv("EDGEKILN_INDEX_URL", f"{server.url}/simple")
        yield lock
    sources.index_url.cache_clear()


def attached(server: Registry, *documents: Document) -> tuple[Client, Descriptor, list[Descriptor]]:
    plan = plan_of(b"one")
    push(plan, f"{server.host}/env")
    client = Client.of_host(server.host, "env", "pull,push")
    return client, subject_of(plan), [attach(client, subject_of(plan), one) for one in documents]


def test_documents_are_listed_with_their_image(plain: Registry) -> None:
    client, subject, made = attached(plain, NOTE, OTHER)
    listed = referrers(client, subject.digest)
    assert list(listed) == made
    assert [one.artifact_type for one in listed] == [NOTE.artifact_type, OTHER.artifact_type]
    assert [content_of(client, one) for one in listed] == [NOTE.content, OTHER.content]
    manifest = json.loads(client.manifest(made[0].digest)[0])
    assert manifest["subject"]["digest"] == subject.digest
    assert manifest["artifactType"] == NOTE.artifact_type


def test_the_same_document_again_changes_nothing(plain: Registry) -> None:
    client, subject, made = attached(plain, NOTE, NOTE)
    assert made[0] == made[1]
    assert referrers(client, subject.digest) == (made[0],)


def test_an_image_without_documents_lists_none(plain: Registry) -> None:
    client, subject, _ = attached(plain)
    assert referrers(client, subject.digest) == ()


def test_the_list_is_where_other_tools_look_for_it(plain: Registry) -> None:
    needs("skopeo")
    _, subject, made = attached(plain, NOTE)
    tag = f"docker://{plain.host}/env:sha256-{subject.digest[7:]}"
    raw = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", tag], capture_output=True, check=True)
    assert [one["digest"] for one in json.loads(raw.stdout)["manifests"]] == [made[0].digest]


def test_a_registry_that_lists_referrers_itself_gets_no_tag(cache: Path) -> None:
    kept: dict[str, bytes] = {}

    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if method == "PUT" and "/manifests/" in path:
            kept[path] = body
            return 201, {"OCI-Subject": "sha256:" + "0" * 64}, b""
        if "/referrers/" in path:
            entries = [{"mediaType": "m", "digest": digest_of(one), "size": len(one)} for one in kept.values()]
            return 200, {}, json.dumps({"manifests": entries}).encode()
        if method == "HEAD" and "/blobs/" in path:
            return 200, {"Content-Length": str(len(NOTE.content) if digest_of(NOTE.content) in path else 2)}, b""
        return (200, {}, kept[path]) if path in kept else (404, {}, b"")

    with scripted(answer) as server:
        client = Client.of_host(server.host, "env", "pull,push")
        subject = Descriptor(digest="sha256:" + "0" * 64, size=1)
        made = attach(client, subject, NOTE)
        assert [one.digest for one in referrers(client, subject.digest)] == [made.digest]
    assert list(kept) == [f"/v2/env/manifests/{made.digest}"]


def test_a_list_that_another_writer_replaces_is_written_again(plain: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    client, subject, _ = attached(plain)
    put, late = Client.put_manifest, [OTHER]

    def raced(self: Client, reference: str, *rest: object, **how: object) -> object:
        done = put(self, reference, *rest, **how)  # type: ignore[arg-type]
        if reference.startswith("sha256-") and late:
            late.pop()
            put(self, reference, "application/vnd.oci.image.index.v1+json", INDEX_OF_NOTHING, False)
        return done

    monkeypatch.setattr(Client, "put_manifest", raced)
    made = attach(client, subject, NOTE)
    assert referrers(client, subject.digest) == (made,)


INDEX_OF_NOTHING = (
    b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"a":"b"}}'
)


def test_push_and_pull_end_with_the_same_bytes(
    small: EnvLock, private: Registry, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    needs("minisign")
    keys = (tmp_path / "key.pub", tmp_path / "key")
    subprocess.run(["minisign", "-G", "-W", "-p", keys[0], "-s", keys[1]], capture_output=True, check=True)
    capfd.readouterr()
    assert verbs.push("small", "", f"{private.host}/team/small:v1", str(keys[1]), True, True) == 0
    pushed = json.loads(capfd.readouterr().out)
    assert pushed["reference"] == f"{private.host}/team/small@{pushed['digest']}"
    assert (pushed["tag"], pushed["lock_digest"]) == ("v1", small.digest)
    assert {blob["outcome"] for blob in pushed["blobs"]} <= {"sent", "lent"}
    names = [one["name"] for one in pushed["documents"]]
    assert names == ["small.cdx.json", "small.spdx.json", "small.provenance.json", "small.provenance.json.minisig"]

    client = Client.of_host(private.host, "team/small")
    contents = {one.annotations["org.opencontainers.image.title"]: one for one in referrers(client, pushed["digest"])}
    statement, signature = (content_of(client, contents[name]) for name in names[2:])
    assert pushed["digest"].removeprefix("sha256:") in statement.decode()
    assert "small.provenance.json" in sign.verify(statement, signature, keys[0])

    assert verbs.push("small", "", f"{private.host}/team/small:v1", str(keys[1]), True, True) == 0
    again = json.loads(capfd.readouterr().out)
    assert (again["sent_bytes"], again["digest"], again["documents"]) == (0, pushed["digest"], pushed["documents"])

    assert verbs.pull(pushed["reference"], "local", "", True) == 0
    pulled = json.loads(capfd.readouterr().out)
    assert (pulled["image"], pulled["digest"], pulled["tags"]) == (pushed["image"], pushed["digest"], [])
    assert pulled["lock"] == {"state": "same", "env": "small", "lock_digest": small.digest}


def test_the_secret_is_nowhere(
    small: EnvLock,
    private: Registry,
    cache: Path,
    workspace: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    verbs.push("small", "", f"{private.host}/team/small:v1", "", True, False)
    verbs.push("small", "", f"{private.host}/team/small:v1", "", True, True)
    verbs.pull(f"{private.host}/team/small:v1", "local", "", False)
    for wrong in (f"{private.host}/team/small:v2", f"{private.host}/none:v1"):
        with pytest.raises(RegistryError) as told:
            verbs.pull(wrong, "local", "", True)
        print(told.value, repr(told.value), told.value.__cause__, told.value.__context__)
    out, err = capfd.readouterr()
    assert private.host in out
    assert "small" in err
    secrets = [PASSWORD.encode(), base64.b64encode(f"{USER}:{PASSWORD}".encode()), base64.b64encode(PASSWORD.encode())]
    places = [path for folder in (cache, workspace, private.storage) for path in folder.rglob("*") if path.is_file()]
    assert len(places) > 20
    searched = {str(path): path.read_bytes() for path in places}
    searched.update({"stdout": out.encode(), "stderr": err.encode(), "log": caplog.text.encode()})
    searched["registry's log"] = private.log.encode()
    assert [place for place, content in searched.items() for secret in secrets if secret in content] == []
    config = (tmp_path / "docker" / "config.json").read_bytes()
    assert any(secret in config for secret in secrets), "the search finds it where it is"


def test_push_needs_a_place() -> None:
    with pytest.raises(WrongUse, match="push needs --to"):
        verbs.push("light", "", "", "", True, False)
    with pytest.raises(WrongUse, match="--sign signs the provenance"):
        verbs.push("light", "", "h.x/env", "key", False, False)


def test_an_image_that_is_not_what_its_label_says_ends_with_1(
    small: EnvLock, private: Registry, capfd: pytest.CaptureFixture[str]
) -> None:
    verbs.push("small", "", f"{private.host}/team/small", "", False, True)
    forged = push(plan_of(b"evil", name="small", lock_digest=small.digest), f"{private.host}/team/forged")
    capfd.readouterr()
    assert verbs.pull(forged.reference, "local", "", False) == 1
    assert "its bytes are not what that lock gives here" in capfd.readouterr().out


def test_a_private_base_wants_credentials(private: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    base = push(plan_of(b"a base layer"), f"{private.host}/base/image")
    monkeypatch.setenv("DOCKER_CONFIG", "/nowhere")
    with pytest.raises(RegistryError, match="wants credentials; log in with `docker login"):
        resolve_image(f"base/image@{base.digest}", "linux/amd64", Silent())
