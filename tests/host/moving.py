"""Sources that move: a signed Debian mirror and a package index on loopback, and a spec that is locked from them."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from debs import entry, make_deb
from making import installed_python
from serving import Server, make_wheel

from envs import debian, lock, paths, sources, spec
from envs.lock import LockedWheel

DAY = dt.date(2026, 1, 1)
SPEC = """\
name = "small"
summary = "as small as it gets"
python = "3.10"

[base]
suite = "bookworm"
packages = ["liba"]

{interpreter}
[export]
opset = 13
ir_version = 7
simplifier = "onnxruntime"

[packages]
thing = "1.0"

[test]
checker = "1.0"

[[data]]
collection = "pics"
package = "pics"
version = "1.0"
files = ["pics/*.png"]
"""


STANDALONE = f"""\
[[interpreter]]
source = "python-build-standalone"
version = "3.10.13"
file = "1/cpython.tar.gz"
sha256 = "{"0" * 64}"
"""


def installed() -> str:
    """The CPython of this machine as the spec's interpreter: the only one that can be had without a network."""
    return f'[[interpreter]]\nsource = "installed"\nversion = "{installed_python()[0]}"\n'


class World:
    """The server's content, and the checkout whose specs and locks a test may write."""

    def __init__(
        self, server: Server, folder: Path, sign: tuple[Callable[[str], bytes], Path], patch: pytest.MonkeyPatch
    ) -> None:
        self.server = server
        self.folder = folder
        self._sign, keyring = sign
        self._debs: dict[str, tuple[str, bytes]] = {}
        self._wheels: dict[str, list[tuple[LockedWheel, str]]] = {}
        for name in ("specs", "locks", "debs", "wheels"):
            (folder / name).mkdir()
        patch.setattr(debian, "KEYRING", keyring)
        for module in (spec, paths):
            patch.setattr(module, "SPECS", folder / "specs")
        for module in (lock, paths):
            patch.setattr(module, "LOCKS", folder / "locks")
        patch.setenv("EDGEKILN_DEBIAN_MIRROR", f"{server.url}/debian")
        patch.setenv("EDGEKILN_INDEX_URL", f"{server.url}/simple")
        patch.setenv("UV_CACHE_DIR", str(folder / "uv"))
        for variable in ("EDGEKILN_SNAPSHOT_URL", "EDGEKILN_BUNDLE", "EDGEKILN_STORE"):
            patch.delenv(variable, raising=False)
        self.forget()
        self.write_spec(SPEC.format(interpreter=STANDALONE))
        self.publish_deb("liba", "1")
        self.publish_wheel("thing", "1.0", {"thing/__init__.py": b"x = 1\n"}, requires="helper")
        self.publish_wheel("helper", "1.0", {"helper.py": b"y = 1\n"})
        self.publish_wheel("checker", "1.0", {"checker.py": b"z = 1\n"})
        self.publish_wheel("pics", "1.0", {"pics/a.png": b"a picture"})

    @staticmethod
    def forget() -> None:
        """Addresses that were asked for are remembered within a process."""
        sources.index_url.cache_clear()
        sources.debian_mirror.cache_clear()

    def write_spec(self, text: str) -> None:
        (self.folder / "specs" / "small.toml").write_text(text)

    def spec_text(self) -> str:
        return (self.folder / "specs" / "small.toml").read_text()

    def publish_deb(self, name: str, version: str) -> str:
        """Put this version in the mirror in place of the one before; its path there."""
        locked, path = make_deb(
            self.folder / "debs", name, [entry(f"./usr/{name}", f"{name} {version}".encode())], version
        )
        for file in [file for file in self.server.files if file.startswith(f"/debian/pool/{name}_")]:
            del self.server.files[file]
        self.server.files[f"/debian/{locked.file}"] = ("application/octet-stream", path.read_bytes())
        stanza = f"Package: {name}\nVersion: {version}\nArchitecture: {{arch}}\nPriority: required\n"
        stanza += f"Filename: {locked.file}\nSize: {locked.bytes}\nSHA256: {locked.sha256}"
        self._debs[name] = (stanza, b"")
        self._release(version)
        return f"/debian/{locked.file}"

    def _release(self, minute: str) -> None:
        hashes = ""
        for arch in ("amd64", "arm64"):
            index = lzma.compress("\n\n".join(one.format(arch=arch) for one, _ in self._debs.values()).encode())
            path = f"main/binary-{arch}/Packages.xz"
            hashes += f" {hashlib.sha256(index).hexdigest()} {len(index)} {path}\n"
            self.server.files[f"/debian/dists/bookworm/{path}"] = ("application/octet-stream", index)
        date = f"Date: Thu, 01 Jan 2026 10:0{minute[:1]}:00 UTC"
        release = self._sign(f"Suite: stable\nCodename: bookworm\n{date}\nSHA256:\n{hashes}")
        self.server.files["/debian/dists/bookworm/InRelease"] = ("text/plain", release)

    def publish_wheel(
        self, name: str, version: str, files: dict[str, bytes], requires: str = "", day: str = "2025-06-01"
    ) -> LockedWheel:
        """Add a release to the index, uploaded on that day."""
        made = make_wheel(self.folder / "wheels", name, version, files, requires)
        self._wheels.setdefault(name, []).append((made, day))
        self._list(name)
        return made

    def drop_wheels(self, name: str) -> None:
        """The index forgets the package's releases and their files."""
        for made, _ in self._wheels.pop(name):
            self.server.files.pop(f"/files/{made.file}")
        self._list(name)

    def _list(self, name: str) -> None:
        entries = []
        for made, day in self._wheels.get(name, []):
            content = (self.folder / "wheels" / made.file).read_bytes()
            self.server.files[f"/files/{made.file}"] = ("application/zip", content)
            with zipfile.ZipFile(self.folder / "wheels" / made.file) as wheel:
                metadata = wheel.read(f"{made.name}-{made.version}.dist-info/METADATA")
            self.server.files[f"/files/{made.file}.metadata"] = ("text/plain", metadata)
            entries.append(
                {
                    "filename": made.file,
                    "url": f"../../files/{made.file}",
                    "hashes": {"sha256": made.sha256},
                    "size": made.bytes,
                    "core-metadata": True,
                    "upload-time": f"{day}T00:00:00Z",
                }
            )
        body = {"meta": {"api-version": "1.1"}, "name": name, "files": entries, "versions": []}
        kind = "application/vnd.pypi.simple.v1+json"
        self.server.files[f"/simple/{name}/"] = (kind, json.dumps(body).encode())
