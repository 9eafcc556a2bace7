"""What an engine puts into every container, whatever its image: passed over, and named in the report."""

from __future__ import annotations

import msgspec

# Files and folders of the engine itself; everything below a folder is passed over too.
BY_ENGINE = (
    ".dockerenv",
    "dev",
    "etc/hostname",
    "etc/hosts",
    "etc/mtab",
    "etc/resolv.conf",
    "proc",
    "run/.containerenv",  # Podman
    "run/secrets",
    "sbin/docker-init",
    "sys",
    "usr/sbin/docker-init",
)


class Injected(msgspec.Struct, frozen=True):
    """The table above and this container's own mounts and temporary file systems."""

    mounted: tuple[str, ...] = ()

    def holds(self, path: str) -> bool:
        """Whether that path, or a folder above it, is the engine's."""
        return any(path == one or path.startswith(f"{one}/") for one in (*BY_ENGINE, *self.mounted))

    def clockless(self) -> frozenset[str]:
        """Folders whose time moved because something was put into them."""
        return frozenset(one.rpartition("/")[0] for one in (*BY_ENGINE, *self.mounted) if "/" in one)
