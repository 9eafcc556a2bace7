"""A tiny environment tree with true RECORDs, for tests of layers and images."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

EPOCH = 1_700_000_000
SITE = "lib/python3.10/site-packages"


def add_package(tree: Path, name: str, files: dict[str, bytes]) -> None:
    site = tree / SITE
    rows = []
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(content)}")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "RECORD").write_text("\n".join([*rows, f"{info.name}/RECORD,,"]) + "\n")


def make_tree(tree: Path, small: bytes = b"1") -> Path:
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "python3.10").write_bytes(b"#!")
    (tree / "bin" / "python3.10").chmod(0o755)
    (tree / "bin" / "python3").symlink_to("python3.10")
    (tree / ".edgekiln").mkdir()
    (tree / ".edgekiln" / "tree.json").write_text("ours")
    (tree / SITE).mkdir(parents=True)
    (tree / "lib" / "python3.10" / "os.py").write_text("os")
    (tree / "lib" / "python3.10" / "__pycache__").mkdir()
    (tree / "lib" / "python3.10" / "__pycache__" / "os.pyc").write_text("stray")
    add_package(tree, "torch", {"torch/lib.so": b"t" * 30_000, "torch/__init__.py": b""})
    add_package(tree, "nvidia_one", {"nvidia/__init__.py": b"", "nvidia/one.so": b"n" * 8_000})
    add_package(tree, "nvidia_two", {"nvidia/__init__.py": b"", "nvidia/two.so": b"m" * 8_000})
    add_package(tree, "small", {"small.py": small})
    return tree
