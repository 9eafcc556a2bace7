"""Debian packages, indexes and signed releases, small enough to make in a test."""

from __future__ import annotations

import hashlib
import io
import lzma
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from envs.lock import LockedDeb


def stanza(name: str, version: str = "1", **fields: str) -> str:
    given_fields = "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in fields.items())
    return (
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n{given_fields}"
        f"Filename: pool/main/{name}_{version}_amd64.deb\nSize: 1\nSHA256: {'0' * 64}"
    )


def signing(home: Path) -> tuple[Callable[[str], bytes], Path]:
    """Signs a release with a key made in that empty folder; and the keyring that trusts it."""
    if shutil.which("gpg") is None or shutil.which("gpgv") is None:
        pytest.skip("no gpg on this machine")
    home.chmod(0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-gen-key", "archive@example.org", "ed25519"], check=True, capture_output=True)
    keyring = home / "keyring.gpg"
    exported = subprocess.run([*gpg, "--export"], check=True, capture_output=True).stdout
    keyring.write_bytes(exported)

    def sign(text: str) -> bytes:
        return subprocess.run([*gpg, "--clearsign"], input=text.encode(), check=True, capture_output=True).stdout

    return sign, keyring


def mirror_of(sign: Callable[[str], bytes], stanzas: list[str], suite: str = "test") -> dict[str, bytes]:
    index = lzma.compress("\n\n".join(stanzas).encode())
    release = (
        f"Suite: stable\nCodename: {suite}\nSHA256:\n"
        f" {hashlib.sha256(index).hexdigest()} {len(index)} main/binary-amd64/Packages.xz\n"
    )
    return {
        "m/dists/test/InRelease": sign(release),
        "m/dists/test/main/binary-amd64/Packages.xz": index,
    }


def entry(name: str, content: bytes | None = None, **fields: object) -> tuple[tarfile.TarInfo, bytes | None]:
    info = tarfile.TarInfo(name)
    info.size = len(content or b"")
    info.mode = 0o755 if content is None else 0o644
    info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar_xz(entries: list[tuple[tarfile.TarInfo, bytes | None]]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content or b""))
    return packed.getvalue()


def make_deb(
    folder: Path, name: str, entries: list[tuple[tarfile.TarInfo, bytes | None]], version: str = "1"
) -> tuple[LockedDeb, Path]:
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": tar_xz([entry("./control", f"Package: {name}\nVersion: {version}\n".encode())]),
        "data.tar.xz": tar_xz(entries),
    }
    data = b"!<arch>\n"
    for member, content in members.items():
        data += f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        data += b"\n" * (len(content) % 2)
    path = folder / f"{name}_{version}_amd64.deb"
    path.write_bytes(data)
    locked = LockedDeb(
        name=name,
        version=version,
        architecture="amd64",
        file=f"pool/{path.name}",
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
    )
    return locked, path
