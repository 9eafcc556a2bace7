"""Who may, how the registry is told, and that nobody else ever is; certificates; one clear line for each refusal."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from registries import (
    PASSWORD,
    USER,
    Answer,
    Registry,
    Scripted,
    authority,
    log_in,
    make_authority,
    needs,
    plan_of,
    push,
    registry,
    scripted,
    signed_token,
)

from envs.errors import RegistryError
from envs.image import ImagePlan
from envs.progress import Silent
from envs.registry.auth import Credentials, credentials_for
from envs.registry.client import Client
from envs.registry.pull import fetch_image
from envs.registry.trust import checked_origin, may_be_plain, origin_of

BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No credentials and no authorities but those of the test."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in (
        "DOCKER_CONFIG",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "SSL_CERT_FILE",
        "EDGEKILN_REGISTRY_INSECURE",
    ):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "registry", users=True) as made:
        yield made


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "registry", tls=True, users=True) as made:
        yield made


@pytest.fixture
def tokens() -> Iterator[Scripted]:
    """A token service: grants what was asked for on repositories of `team/`, and only to the user."""

    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        asked = parse_qs(body.decode() if method == "POST" else urlsplit(path).query)
        known = headers.get("authorization") == f"Basic {BASIC}" or asked.get("refresh_token") == ["identity-of-tests"]
        if "authorization" in headers and not known:
            return 401, {}, b""
        access = []
        for scope in " ".join(asked.get("scope", [])).split():
            kind, name, actions = scope.split(":")
            granted = [a for a in actions.split(",") if known and (name.startswith("team/") or a == "pull")]
            access.append({"type": kind, "name": name, "actions": granted})
        return 200, {}, json.dumps({"token": signed_token(access, USER)}).encode()

    with scripted(answer) as server:
        yield server


@pytest.fixture
def with_tokens(tmp_path: Path, tokens: Scripted) -> Iterator[Registry]:
    needs("openssl")
    with registry(tmp_path / "registry", token=f"http://{tokens.host}/token") as made:
        yield made


def docker_config(home: Path, **fields: object) -> Path:
    path = home / ".docker" / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))
    return path


def helper(home: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int = 0) -> Path:
    """docker-credential-tests on the PATH, which keeps its words and its input."""
    program = home / "bin" / "docker-credential-tests"
    program.parent.mkdir(parents=True, exist_ok=True)
    kept = home / "asked"
    program.write_text(f"#!/bin/sh\n{{ echo \"$@\"; cat; }} > {kept}\necho '{answer}'\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return kept


def test_docker_s_own_file_opens_a_private_registry(private: Registry, own_home: Path) -> None:
    log_in(own_home / ".docker", private.host)
    pushed = push(plan_of(b"one"), f"{private.host}/env:v1")
    assert fetch_image(pushed.reference, Silent()).digest == pushed.digest


def test_docker_config_names_another_folder(private: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(log_in(tmp_path / "elsewhere", private.host)))
    push(plan_of(b"one"), f"{private.host}/env")


def test_without_credentials_it_says_how_to_log_in(private: Registry) -> None:
    with pytest.raises(RegistryError) as told:
        push(plan_of(b"one"), f"{private.host}/env")
    line = f"{private.host}/env: the registry wants credentials; log in with `docker login {private.host}`"
    assert str(told.value) == line


def test_a_wrong_password_is_one_line_without_it(private: Registry, own_home: Path) -> None:
    log_in(own_home / ".docker", private.host, password="wrong-one")
    with pytest.raises(RegistryError, match="refuses the credentials of docker's config.json") as told:
        fetch_image(f"{private.host}/env:v1", Silent())
    assert "wrong-one" not in str(told.value)


def test_a_helper_is_asked_on_its_input(private: Registry, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = helper(own_home, monkeypatch, json.dumps({"Username": USER, "Secret": PASSWORD}))
    docker_config(own_home, credHelpers={private.host: "tests"})
    push(plan_of(b"one"), f"{private.host}/env")
    assert asked.read_text() == f"get\n{private.host}"


def test_a_store_is_asked_before_the_file(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(own_home, monkeypatch, json.dumps({"Username": "of-the-store", "Secret": "s"}))
    docker_config(own_home, credsStore="tests", auths={"a.b": {"username": "of-the-file", "password": "f"}})
    assert credentials_for("a.b").user == "of-the-store"


def test_a_helper_that_has_nothing_leaves_it_to_the_file(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(own_home, monkeypatch, "credentials not found in native keychain", 1)
    docker_config(own_home, credsStore="tests", auths={"https://a.b/v1/": {"username": "u", "password": "p"}})
    assert credentials_for("a.b") == Credentials("u", "p")


def test_a_helper_that_is_missing_is_named(own_home: Path) -> None:
    docker_config(own_home, credsStore="not-here")
    with pytest.raises(RegistryError, match="'docker-credential-not-here', which is not on the PATH"):
        credentials_for("a.b")


@pytest.mark.parametrize("answer", ["no json", "[]", '{"Username": "u"}'])
def test_a_helper_that_answers_nonsense_is_named(own_home: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    helper(own_home, monkeypatch, answer)
    docker_config(own_home, credsStore="tests")
    with pytest.raises(RegistryError, match="docker-credential-tests: its answer is no JSON"):
        credentials_for("a.b")


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"auth": base64.b64encode(b"u:p:q").decode()}, Credentials("u", "p:q")),
        ({"username": "u", "password": "p"}, Credentials("u", "p")),
        ({"auth": base64.b64encode(b"u:").decode(), "identitytoken": "t"}, Credentials("u", "", "t")),
        ({"registrytoken": "t"}, Credentials(registry_token="t")),
        ({}, Credentials()),
    ],
)
@pytest.mark.parametrize("key", ["h.x:5000", "https://h.x:5000", "http://h.x:5000/v2/"])
def test_every_form_of_docker_s_file_is_read(
    own_home: Path, key: str, entry: dict[str, str], found: Credentials
) -> None:
    docker_config(own_home, auths={key: entry, "other": {"username": "no", "password": "no"}})
    assert credentials_for("h.x:5000") == found


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": ["s3cret"]}', '{"auths": {"h.x": {"auth": "s3cret!"}}}'])
def test_a_broken_file_is_one_line_that_quotes_nothing(own_home: Path, text: str) -> None:
    docker_config(own_home).write_text(text)
    with pytest.raises(RegistryError, match=r"config\.json") as told:
        credentials_for("h.x")
    assert "s3cret" not in str(told.value)
    assert "s3cret" not in repr(told.value.__cause__)


def test_credentials_do_not_show_themselves() -> None:
    assert "p" not in repr(Credentials("u", "p")).replace("Credentials", "")


def test_a_token_service_is_asked_for_what_is_needed(with_tokens: Registry, tokens: Scripted, own_home: Path) -> None:
    log_in(own_home / ".docker", with_tokens.host)
    pushed = push(plan_of(b"one"), f"{with_tokens.host}/team/env:v1")
    assert "scope=repository%3Ateam%2Fenv%3Apull%2Cpush" in tokens.seen[0][1]
    assert len(tokens.seen) == 1, "one token serves the whole push"
    lent = push(plan_of_known(b"one"), f"{with_tokens.host}/team/second")
    assert {blob.outcome for blob in lent.blobs} == {"lent"}
    assert fetch_image(pushed.reference, Silent()).digest == pushed.digest


def plan_of_known(*contents: bytes) -> ImagePlan:
    plan = plan_of(*contents)
    for layer in plan.layers:
        list(layer.stream())
    return plan


def test_an_identity_token_is_exchanged(with_tokens: Registry, tokens: Scripted, own_home: Path) -> None:
    docker_config(own_home, auths={with_tokens.host: {"identitytoken": "identity-of-tests"}})
    push(plan_of(b"one"), f"{with_tokens.host}/team/env")
    assert tokens.seen[0][:2] == ("POST", "/token")
    assert all("identity-of-tests" not in f"{path} {headers}" for _, path, headers in tokens.seen)


def test_a_right_that_is_missing_is_one_line(with_tokens: Registry, own_home: Path) -> None:
    log_in(own_home / ".docker", with_tokens.host)
    with pytest.raises(RegistryError, match=rf"{with_tokens.host}/other/env: .*no right to write to it"):
        push(plan_of(b"one"), f"{with_tokens.host}/other/env")


def test_a_token_service_that_refuses_is_one_line(with_tokens: Registry, own_home: Path) -> None:
    log_in(own_home / ".docker", with_tokens.host, password="wrong-one")
    with pytest.raises(RegistryError, match="token service refuses the credentials") as told:
        push(plan_of(b"one"), f"{with_tokens.host}/team/env")
    assert "wrong-one" not in str(told.value)


def test_a_lender_that_may_not_be_read_is_no_obstacle(with_tokens: Registry, own_home: Path, cache: Path) -> None:
    from envs.registry.memory import note_pushed

    log_in(own_home / ".docker", with_tokens.host)
    plan = plan_of(b"one")
    list(plan.layers[0].stream())
    note_pushed(with_tokens.host, "secret/env", [str(plan.layers[0].diff_id)])
    assert push(plan, f"{with_tokens.host}/team/env").blobs[0].outcome == "sent"


def demanding(path_of_redirect: str, elsewhere: str) -> Callable[[str, str, dict[str, str], bytes], Answer]:
    """A registry that wants the password and sends blobs' readers elsewhere."""

    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if headers.get("authorization") != f"Basic {BASIC}":
            return 401, {"WWW-Authenticate": 'Basic realm="tests"'}, b""
        if path_of_redirect in path:
            return 307, {"Location": f"http://{elsewhere}/stolen"}, b""
        return 200, {}, b"{}"

    return answer


def test_a_redirect_to_another_host_takes_no_credentials_along(own_home: Path) -> None:
    def other(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        return 401, {"WWW-Authenticate": 'Basic realm="tests"'}, b""

    with scripted(other) as thief, scripted(demanding("/blobs/", thief.host)) as server:
        log_in(own_home / ".docker", server.host)
        client = Client.of_host(server.host, "env")
        assert client.document("manifests/v1", "") == b"{}"
        with pytest.raises(RegistryError):
            client.document("blobs/x", "")
        assert [path for _, path, _ in thief.seen] == ["/stolen"]
        assert all("authorization" not in headers for _, _, headers in thief.seen)


def test_an_upload_that_is_sent_elsewhere_takes_no_credentials_along(own_home: Path) -> None:
    def other(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        return 401, {"WWW-Authenticate": 'Basic realm="tests"'}, b""

    with scripted(other) as thief:

        def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
            if headers.get("authorization") != f"Basic {BASIC}":
                return 401, {"WWW-Authenticate": 'Basic realm="tests"'}, b""
            return (202, {"Location": f"http://{thief.host}/u"}, b"") if method == "POST" else (404, {}, b"")

        with scripted(answer) as server:
            log_in(own_home / ".docker", server.host)
            with pytest.raises(RegistryError):
                push(plan_of(b"one"), f"{server.host}/env")
        assert {path for _, path, _ in thief.seen} == {"/u"}
        assert all("authorization" not in headers for _, _, headers in thief.seen)


def test_a_token_service_without_tls_gets_nothing_from_a_registry_with_it() -> None:
    from envs.registry.auth import RegistryAuth

    auth = RegistryAuth("https://registry.tests", "repository:env:pull")
    with pytest.raises(RegistryError, match="token service at thief.tests is not on https"):
        auth._authorize('Bearer realm="http://thief.tests/token"', "")


def test_what_a_registry_repeats_of_a_secret_is_not_passed_on(own_home: Path) -> None:
    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        told = headers.get("authorization", "")
        if not told:
            return 401, {"WWW-Authenticate": 'Basic realm="tests"'}, b""
        message = f"you said {told} which is {base64.b64decode(told.split()[1]).decode()}"
        return 400, {}, json.dumps({"errors": [{"code": "X", "message": message}]}).encode()

    with scripted(answer) as server:
        log_in(own_home / ".docker", server.host)
        with pytest.raises(RegistryError, match=r"answers 400 \(you said Basic \*\*\*") as told:
            Client.of_host(server.host, "env").manifest("v1")
    assert PASSWORD not in str(told.value)
    assert BASIC not in str(told.value)


@pytest.mark.parametrize(
    ("status", "headers", "line"),
    [
        (403, {}, "no right to read it"),
        (405, {}, "takes nothing here"),
        (429, {"Retry-After": "30 s"}, "too many requests; try again in 30 s"),
        (500, {}, "answers 500"),
    ],
)
def test_every_refusal_is_one_line(status: int, headers: dict[str, str], line: str) -> None:
    refused = pytest.raises(RegistryError, match=re.escape(line))
    with scripted(lambda *_: (status, headers, b"<html>\n\x1b[31mno")) as server, refused as told:
        fetch_image(f"{server.host}/env:v1", Silent())
    assert str(told.value).isprintable()


def certs_d(home: Path, host: str) -> None:
    folder = home / ".docker" / "certs.d" / host
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes((authority() / "ca.crt").read_bytes())


@pytest.mark.parametrize("where", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "certs.d"])
def test_an_own_authority_is_trusted_where_it_is_named(
    secure: Registry, own_home: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    log_in(own_home / ".docker", secure.host)
    if where == "certs.d":
        certs_d(own_home, secure.host)
    else:
        monkeypatch.setenv(where, str(authority() / "ca.crt"))
    pushed = push(plan_of(b"one"), f"{secure.host}/env:v1")
    assert fetch_image(pushed.reference, Silent()).digest == pushed.digest


def test_an_authority_nobody_named_is_refused_even_on_loopback(secure: Registry, own_home: Path) -> None:
    log_in(own_home / ".docker", secure.host)
    with pytest.raises(
        RegistryError, match=rf"{secure.host}: its certificate is signed by nobody trusted here.*certs\.d"
    ):
        push(plan_of(b"one"), f"{secure.host}/env")


def test_a_wrong_authority_is_refused(secure: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_authority(tmp_path / "other")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other" / "ca.crt"))
    with pytest.raises(RegistryError, match="signed by nobody trusted here"):
        fetch_image(f"{secure.host}/env:v1", Silent())


def test_a_certificate_for_another_name_is_refused(secure: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority() / "ca.crt"))
    with pytest.raises(RegistryError, match="its certificate is for another name"):
        fetch_image(f"localhost:{secure.port}/env:v1", Silent())


def test_a_bundle_that_is_not_there_is_one_line(secure: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/not/here.pem")
    with pytest.raises(RegistryError, match="SSL_CERT_FILE names no file"):
        fetch_image(f"{secure.host}/env:v1", Silent())


def test_a_certificate_that_is_none_is_named(secure: Registry, own_home: Path) -> None:
    certs_d(own_home, secure.host)
    (own_home / ".docker" / "certs.d" / secure.host / "ca.crt").write_text("nonsense")
    with pytest.raises(RegistryError, match=r"ca\.crt: no certificate that can be read"):
        fetch_image(f"{secure.host}/env:v1", Silent())


def test_one_host_s_authority_is_not_another_s(secure: Registry, tmp_path: Path, own_home: Path) -> None:
    certs_d(own_home, "127.0.0.1:1")
    with pytest.raises(RegistryError, match="signed by nobody trusted here"):
        fetch_image(f"{secure.host}/env:v1", Silent())


@pytest.mark.parametrize("host", ["registry.tests", "registry.tests:5000", "10.0.0.1:5000", "127.0.0.1.tests"])
def test_elsewhere_it_is_https_or_nothing(host: str) -> None:
    assert origin_of(host) == f"https://{host}"
    with pytest.raises(RegistryError, match="plain http is for registries on this machine"):
        checked_origin(f"http://{host}")


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:1", "127.9.9.9", "[::1]:5000"])
def test_this_machine_may_be_plain(host: str) -> None:
    assert may_be_plain(host)


def test_a_listed_host_may_be_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKILN_REGISTRY_INSECURE", "other.tests, registry.tests:5000")
    assert checked_origin("http://registry.tests:5000/") == "http://registry.tests:5000"
    assert not may_be_plain("registry.tests")


def test_a_url_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(RegistryError, match="holds credentials") as told:
        checked_origin("https://user:s3cret@registry.tests")
    assert "s3cret" not in str(told.value)
