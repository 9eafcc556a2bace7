"""Our build beside `docker build` of the same lock, in one run: python -m benchmarks.build [ENV].

Each side starts without its own caches of packages and layers (ours: an empty EDGEKILN_CACHE; docker's: --no-cache
and a pruned builder), then repeats with them. Both download from the same index. Prints seconds and ratios.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def timed(command: Sequence[str], **variables: str) -> float:
    """Seconds of a command that must succeed."""
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def invoke(*words: str) -> list[str]:
    return [sys.executable, "-m", "invoke", *words]


def forget_image(name: str) -> None:
    listed = subprocess.run(["docker", "images", "-q", name], capture_output=True, text=True, check=True).stdout
    for image in set(listed.split()):
        subprocess.run(["docker", "rmi", "-f", image], check=True, stdout=subprocess.DEVNULL)


def docker_build(context: Path, tag: str, *more: str) -> float:
    """BuildKit with the certificates that this machine trusts, as a secret."""
    # Debian's own client has BuildKit; another one on PATH may lack it
    client = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
    words = [client, "build", "--quiet", "--tag", tag, *more]
    if authority := os.environ.get("SSL_CERT_FILE"):
        words += ["--secret", f"id=ca.pem,src={authority}"]
    return timed([*words, str(context)], DOCKER_BUILDKIT="1")


def main(env: str) -> None:
    with tempfile.TemporaryDirectory(dir=ROOT / "runs") as folder:
        cache = str(Path(folder, "cache"))
        build = invoke("build", "--env", env, "--engine", "docker")
        forget_image(f"edgekiln/{env}")
        rows = {"cold": [timed(build, EDGEKILN_CACHE=cache)]}
        forget_image(f"edgekiln/{env}")
        shutil.rmtree(Path(cache, "trees"))
        rows["packages there"] = [timed(build, EDGEKILN_CACHE=cache)]
        rows["nothing to do"] = [timed(build, EDGEKILN_CACHE=cache)]
        context = Path(folder, "context")
        timed(invoke("build", "--env", env, "--context", str(context)), EDGEKILN_CACHE=cache)
        subprocess.run(["docker", "builder", "prune", "-af"], check=True, stdout=subprocess.DEVNULL)
        tag = f"benchmark-{env}"
        rows["cold"].append(docker_build(context, tag, "--no-cache"))
        rows["packages there"].append(docker_build(context, tag, "--no-cache"))  # its cache mount keeps them
        rows["nothing to do"].append(docker_build(context, tag))
        forget_image(tag)
    print(f"{'':<16}{'edgekiln s':>12}{'docker build s':>16}{'ratio':>8}")
    for name, (ours, theirs) in rows.items():
        print(f"{name:<16}{ours:>12.2f}{theirs:>16.2f}{ours / theirs:>8.2f}")


if __name__ == "__main__":
    (ROOT / "runs").mkdir(exist_ok=True)
    main(sys.argv[1] if len(sys.argv) > 1 else "light")
