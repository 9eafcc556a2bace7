"""Our build beside `docker build` of the same lock, in one run: python -m benchmarks.build [ENV] [--classic].

Each side starts without its own caches of packages and layers (ours: an empty EDGEKILN_CACHE; docker's: --no-cache
and a pruned builder), then repeats with them, with nothing to do, and with one package at another version. Both
download from the same index. --classic adds docker's old builder, which can't mount: it gets the certificates as a
file in its context, and has no package cache. Prints seconds and ratios.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHANGED = {"light": ("packaging", "24.1"), "sigmastar": ("packaging", "24.1")}
COPIED = ("tasks.py", "envs", "docker", "pipelines", "pyproject.toml")


def timed(command: Sequence[str], cwd: Path = ROOT, **variables: str) -> float:
    """Seconds of a command that must succeed."""
    began = time.monotonic()
    subprocess.run(command, cwd=cwd, env={**os.environ, **variables}, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def invoke(*words: str) -> list[str]:
    return [sys.executable, "-m", "invoke", *words]


def forget_image(name: str) -> None:
    listed = subprocess.run(["docker", "images", "-q", name], capture_output=True, text=True, check=True).stdout
    for image in set(listed.split()):
        subprocess.run(["docker", "rmi", "-f", image], check=True, stdout=subprocess.DEVNULL)


MARK = "io.edgekiln.benchmark"


def forget_leftovers() -> None:
    """Builds leave their stages, and images that lost their tag: all of it is the benchmark's own."""
    for words in (["builder", "prune", "-af"], ["image", "prune", "-f", "--filter", f"label={MARK}"]):
        subprocess.run(["docker", *words], check=True, stdout=subprocess.DEVNULL)


def docker_build(context: Path, tag: str, *more: str) -> float:
    """BuildKit with the certificates that this machine trusts, as a secret."""
    # Debian's own client has BuildKit; another one on PATH may lack it
    client = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
    words = [client, "build", "--quiet", "--label", f"{MARK}=1", "--tag", tag, *more]
    if authority := os.environ.get("SSL_CERT_FILE"):
        words += ["--secret", f"id=ca.pem,src={authority}"]
    return timed([*words, str(context)], DOCKER_BUILDKIT="1")


def classic_build(context: Path, tag: str, *more: str) -> float:
    """The builder before BuildKit: no mounts, so the certificates are copied into a stage that is thrown away."""
    text = re.sub(r"--mount=\S+ *", "", (context / "Dockerfile").read_text())
    text = text.replace("FROM base AS builder\n", "FROM base AS builder\nCOPY ca.pem /run/secrets/ca.pem\n")
    (context / "Dockerfile.classic").write_text(text)
    shutil.copyfile(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"), context / "ca.pem")
    words = [
        "docker",
        "build",
        "--quiet",
        "--label",
        f"{MARK}=1",
        "--tag",
        tag,
        "--file",
        str(context / "Dockerfile.classic"),
        *more,
    ]
    return timed([*words, str(context)], DOCKER_BUILDKIT="0")


def with_change(env: str, folder: Path, cache: str) -> Path:
    """A copy of this checkout whose lock of `env` has one package at another version."""
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)  # type: ignore[operator]
    package, version = CHANGED[env]
    spec = folder / "envs" / "specs" / f"{env}.toml"
    spec.write_text(spec.read_text().replace("[packages]\n", f'[packages]\n{package} = "{version}"\n'))
    timed(invoke("lock", "--env", env, "--newest", "2026-11-01"), cwd=folder, EDGEKILN_CACHE=cache)
    return folder


def main(env: str, classic: bool) -> None:
    rows: dict[str, list[float | None]] = {}
    with tempfile.TemporaryDirectory(dir=ROOT / "runs") as work:
        cache = str(Path(work, "cache"))
        build = invoke("build", "--env", env, "--engine", "docker")
        forget_image(f"edgekiln/{env}")
        rows["cold"] = [timed(build, EDGEKILN_CACHE=cache)]
        forget_image(f"edgekiln/{env}")
        shutil.rmtree(Path(cache, "trees"))
        rows["packages there"] = [timed(build, EDGEKILN_CACHE=cache)]
        rows["nothing to do"] = [timed(build, EDGEKILN_CACHE=cache)]
        (copy := Path(work, "changed")).mkdir()
        changed = with_change(env, copy, cache)
        rows["one package changed"] = [timed(build, cwd=changed, EDGEKILN_CACHE=cache)]

        contexts = [Path(work, "context"), Path(work, "context-changed")]
        for context, checkout in zip(contexts, (ROOT, changed), strict=True):
            timed(invoke("build", "--env", env, "--context", str(context)), cwd=checkout, EDGEKILN_CACHE=cache)
        forget_leftovers()
        builders = [docker_build, classic_build] if classic else [docker_build]
        for builder in builders:
            tag = f"benchmark-{env}"
            caching = builder is docker_build
            rows["cold"].append(builder(contexts[0], tag, "--no-cache"))
            rows["packages there"].append(builder(contexts[0], tag, "--no-cache") if caching else None)
            rows["nothing to do"].append(builder(contexts[0], tag))
            rows["one package changed"].append(builder(contexts[1], tag))
            forget_image(tag)
            forget_leftovers()
    names = [builder.__name__.replace("_", " ") for builder in builders]
    print(f"{'seconds':<22}{'edgekiln':>12}" + "".join(f"{name:>16}{'ratio':>8}" for name in names))
    for name, (ours, *theirs) in rows.items():
        assert ours is not None
        cells = (f"{one:>16.2f}{ours / one:>8.2f}" if one else f"{'-':>16}{'-':>8}" for one in theirs)
        print(f"{name:<22}{ours:>12.2f}" + "".join(cells))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("env", nargs="?", default="light")
    parser.add_argument("--classic", action="store_true")
    given = parser.parse_args()
    (ROOT / "runs").mkdir(exist_ok=True)
    main(given.env, given.classic)
