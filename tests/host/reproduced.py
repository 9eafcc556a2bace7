"""A child of test_reproducible.py: builds a lock from a folder of sources in its own cache, and prints what came out.

Call: reproduced.py LOCK.json SOURCES; EDGEKILN_CACHE says where. One JSON document on stdout.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec

from envs import layers
from envs.build import image_plan
from envs.fetch import keep
from envs.files import sha256_file
from envs.lock import EnvLock
from envs.progress import Silent
from envs.tree import ensure_tree


def main(lock_file: str, sources: str) -> None:
    layers.BIG_BYTES = 10_000  # so that small packages get layers of their own
    lock = msgspec.json.decode(Path(lock_file).read_bytes(), type=EnvLock)
    for source in Path(sources).iterdir():
        keep(source, sha256_file(source))
    tree = ensure_tree(lock, Silent())
    plan = image_plan(lock, tree, Silent())
    written = {}
    for layer in plan.layers:
        digest = hashlib.sha256()
        for block in layer.stream():
            digest.update(block)
        assert layer.diff_id == f"sha256:{digest.hexdigest()}"
        written[layer.name] = layer.diff_id
    mask = os.umask(0)
    made = {
        "bytes": {"layers": written, "config": plan.image_id, "manifest": plan.manifest_digest},
        "there": {
            "path": str(tree),
            "user": os.getuid(),
            "umask": mask,
            "language": os.environ.get("LC_ALL"),
            "zone": time.strftime("%Z"),
            "host": socket.gethostname(),
            "cores": len(os.sched_getaffinity(0)),
            "order": [entry.name for entry in os.scandir(tree / "lib/python3.10")],
            "year": time.localtime().tm_year,
        },
    }
    print(json.dumps(made))


if __name__ == "__main__":
    main(*sys.argv[1:])
