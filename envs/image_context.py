"""A build context for `docker/Dockerfile`: the same lock, for people whose builder is their own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from envs import finish
from envs.errors import BuildError
from envs.image import ImagePlan
from envs.layers import IMAGE_ROOT, site_packages
from envs.lock import EnvLock
from envs.paths import ROOT
from envs.tree import requirements

DOCKERFILE = ROOT / "docker" / "Dockerfile"


def write_context(lock: EnvLock, plan: ImagePlan, tree: Path, uv: Path, folder: Path) -> None:
    """Write everything that `docker build` needs into `folder`, which may hold nothing yet.

    `plan` is the same lock's image, whose base and interpreter are taken as they are; `uv` is the installer.
    """
    if folder.exists() and any(folder.iterdir()):
        raise BuildError(f"{folder}: not empty", "name a new folder for the build context")
    if lock.installer == "conda":  # docker/Dockerfile installs wheels beside the interpreter, and nothing else
        raise BuildError(f"{lock.name}: docker/Dockerfile can't install conda packages", "use `invoke build`")
    layers = {layer.name: layer for layer in plan.layers}
    if "base" not in layers:
        raise BuildError(f"image {lock.name}: docker/Dockerfile takes a base of one layer", "use `invoke build`")
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "base.tar", layers["base"].stream)
    _write(folder / "interpreter.tar", layers["interpreter"].stream)
    (folder / "requirements.txt").write_text(requirements(lock.package), "utf-8")
    (folder / "plan.json").write_bytes(msgspec.json.encode({"trim": lock.trim}, order="deterministic"))
    shutil.copyfile(Path(finish.__file__), folder / "finish.py")
    shutil.copyfile(uv, folder / "uv")
    (folder / "uv").chmod(0o755)
    site = f"/{IMAGE_ROOT}/{site_packages(tree).relative_to(tree).as_posix()}"
    (folder / "Dockerfile").write_text(dockerfile(plan, site), "utf-8")


def dockerfile(plan: ImagePlan, site: str) -> str:
    """docker/Dockerfile with this plan's values as the defaults of its arguments."""
    labels = plan.labels()
    values = {
        "SITE_PACKAGES": site,
        "NAME": plan.name,
        "LOCK_DIGEST": plan.lock_digest,
        "VERSION": labels["org.opencontainers.image.version"],
        "DESCRIPTION": f'"{labels["org.opencontainers.image.description"]}"',
        "CREATED": labels["org.opencontainers.image.created"],
    }
    text = DOCKERFILE.read_text("utf-8")
    return re.sub(r"^ARG (\w+)=.*$", lambda found: f"ARG {found[1]}={values[found[1]]}", text, flags=re.MULTILINE)


def _write(path: Path, stream: Callable[[], Iterator[bytes]]) -> None:
    with path.open("wb") as file:
        file.writelines(stream())
