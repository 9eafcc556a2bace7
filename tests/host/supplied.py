"""A lock that holds one of everything a lock can hold, and an image of it."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

from envs.fetch import keep
from envs.image import ImagePlan
from envs.layers import Known, Layer
from envs.lock import (
    LOCK_VERSION,
    EnvLock,
    LockedArchive,
    LockedConda,
    LockedData,
    LockedDeb,
    LockedFile,
    LockedHubWeights,
    LockedImage,
    LockedInterpreter,
    LockedLayer,
    LockedWheel,
)


def deb(name: str, version: str, source: str, **changes: object) -> LockedDeb:
    prefix = source[:4] if source.startswith("lib") else source[:1]
    fields: dict[str, object] = {
        "name": name,
        "version": version,
        "architecture": "amd64",
        "file": f"pool/main/{prefix}/{source}/{name}_{version}_amd64.deb",
        "sha256": (name.encode().hex() + "0" * 64)[:64],
        "bytes": 1000,
    }
    return LockedDeb(**{**fields, **changes})  # type: ignore[arg-type]


def kept_deb(folder: Path, name: str, source: str = "") -> LockedDeb:
    """A real small .deb in the store; `source` is a line of its control file."""
    control = tar_of("./control", f"Package: {name}\n{source}Version: 1.0+b1\n".encode())
    packed = b"!<arch>\n"
    for member, content in (("control.tar", control), ("data.tar", tar_of(f"./usr/share/{name}/x", b"x"))):
        packed += f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
    path = folder / f"{name}_1.0+b1_amd64.deb"
    path.write_bytes(packed)
    sha256 = hashlib.sha256(packed).hexdigest()
    keep(path, sha256)
    file = f"pool/main/e/elsewhere/{path.name}"
    return deb(name, "1.0+b1", "elsewhere", file=file, sha256=sha256, bytes=len(packed))


def tar_of(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def wheel(name: str, version: str) -> LockedWheel:
    sha256 = ((name + version).encode().hex() + "1" * 64)[:64]
    return LockedWheel(name=name, version=version, file=f"{name}-{version}-py3-none-any.whl", sha256=sha256, bytes=2000)


def conda(name: str, version: str) -> LockedConda:
    return LockedConda(
        name=name,
        version=version,
        build="py310h1_0",
        channel="test-channel",
        subdir="linux-64",
        file=f"{name}-{version}-py310h1_0.conda",
        sha256=((name + version).encode().hex() + "2" * 64)[:64],
        bytes=3000,
    )


def full_lock(**changes: object) -> EnvLock:
    """No spec allows all of it at once; every document must take all of it."""
    fields: dict[str, object] = {
        "version": LOCK_VERSION,
        "name": "full",
        "spec_sha256": "0" * 64,
        "platform": "linux/amd64",
        "exclude_newer": "2026-01-01T00:00:00Z",
        "source_date_epoch": 1767225600,
        "python": "3.10.13",
        "suite": "bookworm",
        "omit": (),
        "trim": {},
        "interpreter": (
            LockedInterpreter(
                source="python-build-standalone", version="3.10.13", sha256="3" * 64, file="20240224/c.tar.gz"
            ),
            LockedInterpreter(source="installed", version="3.10.13", sha256="4" * 64),
        ),
        "base": (
            deb("libstdc++6", "12.2.0-14+deb12u1", "gcc-12"),
            deb("bash", "5.2.15-2+b13", "bash"),
            deb("libc6", "1:2.36~rc1-9", "glibc"),
            deb("libssl3", "3.0.20-1", "openssl"),
        ),
        "base_archive": LockedArchive(
            file="sdk docker.tar",
            sha256="5" * 64,
            bytes=9,
            image_id=f"sha256:{'6' * 64}",
            diff_ids=(f"sha256:{'7' * 64}",),
        ),
        "base_image": LockedImage(
            repository="vendor/sdk",
            digest=f"sha256:{'8' * 64}",
            layers=(LockedLayer(sha256="9" * 64, bytes=10, diff_id=f"sha256:{'a' * 64}", unpacked_bytes=20),),
        ),
        "conda": (conda("openssl", "1.1.1w"), conda("numpy", "1.23.5")),
        "package": (wheel("torch", "1.12.1"), wheel("pillow", "9.0.0"), wheel("Typing_Extensions", "4.9.0")),
        "test": (wheel("pytest", "8.0.0"),),
        "data": (
            LockedData(
                collection="pictures",
                wheel=wheel("scikit-image", "0.26.0"),
                files=(
                    LockedFile(path="skimage/data/a b.png", sha256="b" * 64, bytes=5),
                    LockedFile(path="skimage/data/net.pth", sha256="c" * 64, bytes=6),
                ),
            ),
        ),
        "hub": (
            LockedHubWeights(
                model="resnet18", name="IMAGENET1K_V1", file="resnet18-f37072fd.pth", sha256_prefix="f37072fd"
            ),
            LockedHubWeights(
                model="alexnet", name="V1", file="alexnet-dddd.pth", sha256_prefix="dddd", sha256="d" * 64
            ),
        ),
    }
    return EnvLock(**{**fields, **changes})  # type: ignore[arg-type]


def image_of(lock: EnvLock, content: str = "e") -> ImagePlan:
    """An image whose one layer has that digest; its bytes are never asked for."""
    layer = Layer("base", "test", Known(f"sha256:{content * 64}", 1024), Path("nowhere"), lambda: iter(()))
    return ImagePlan(lock.name, lock.digest, lock.platform, lock.source_date_epoch, "test", (layer,))
