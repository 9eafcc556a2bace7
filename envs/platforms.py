"""Platforms as locks name them (linux/amd64), in the words of Debian, of wheels and of uv."""

from __future__ import annotations

import platform

MACHINES = {"linux/amd64": ("x86_64", "amd64"), "linux/arm64": ("aarch64", "arm64")}  # machine, Debian architecture
GLIBC_MINOR = {"bookworm": 36, "trixie": 41}  # by Debian suite


def host_platform() -> str:
    """This machine's."""
    machine = platform.machine()
    known = (name for name, (its, _) in MACHINES.items() if its == machine)
    return next(known, f"{platform.system().lower()}/{machine}")


def uv_platform(name: str, suite: str) -> str:
    """As uv's --python-platform; it knows glibc up to 2.40."""
    return f"{MACHINES[name][0]}-manylinux_2_{min(GLIBC_MINOR[suite], 40)}"
