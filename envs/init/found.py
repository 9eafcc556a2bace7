"""What a reader finds in a person's file, and how it says what it can't read."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
from packaging.markers import Marker
from packaging.requirements import Requirement

from envs.errors import SpecError
from envs.finish import normalised
from envs.toml import shown

DEFAULT_PYTHON = "3.10"
MINORS = tuple(f"3.{minor}" for minor in range(10, 16))


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a file as a spec can hold it; `decide` are lines about what it could not hold."""

    python: str = ""  # 3.10, or "" where the file does not say
    packages: dict[str, str] = {}  # name -> exact version
    loose: tuple[str, ...] = ()  # requirements without one exact version
    hashes: dict[str, tuple[str, ...]] = {}
    channels: tuple[str, ...] = ()
    conda: dict[str, str] | None = None  # name -> match spec; None where it is no conda file
    decide: tuple[str, ...] = ()


class Notes:
    """Gathers what a reader has to tell, and packages as it comes upon them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.packages: dict[str, str] = {}
        self.loose: list[str] = []
        self.hashes: dict[str, tuple[str, ...]] = {}
        self.decide: list[str] = []

    def error(self, line: int, what: str, remedy: str = "mend the file") -> SpecError:
        """The error for something on that line of the file (0: for the whole file)."""
        return SpecError(f"{shown(self.path)}{f', line {line}' if line else ''}: {what}", remedy)

    def say(self, text: str) -> None:
        """A line for the reader, once."""
        if text not in self.decide:
            self.decide.append(text)

    def pin(self, name: str, version: str, hashes: tuple[str, ...], line: int = 0) -> None:
        """A package of exactly that version. SpecError where another version of it was there before."""
        name = normalised(name)
        if not re.fullmatch(r"[0-9][0-9A-Za-z.!+]*", version):
            raise self.error(line, f"{name} {version!r} is not one exact version")
        if self.packages.get(name, version) != version:
            raise self.error(line, f"{name} is there as {self.packages[name]} and as {version}", "keep one")
        self.packages[name] = version
        self.hash(name, hashes)

    def hash(self, name: str, hashes: tuple[str, ...]) -> None:
        """sha256 (hex) that the package's file may have."""
        if hashes:
            self.hashes[name] = tuple(sorted({*self.hashes.get(name, ()), *hashes}))

    def require(self, text: str, line: int, python: str, hashes: tuple[str, ...] = ()) -> None:
        """A requirement as pip writes it, for linux and that Python; pinned or loose."""
        if text.startswith(("-e", "--editable", "git+", "http:", "https:", "file:", ".", "/")):
            raise self.error(line, f"{text!r} is no package of an index", "build a wheel of it and name its version")
        try:
            wanted = Requirement(text)
        except ValueError as error:
            why = str(error).splitlines()[0]
            raise self.error(line, f"{text!r} can't be read: {why}") from error
        if wanted.url:
            raise self.error(line, f"{wanted.name} comes from an address, not from an index", "name its version")
        if wanted.marker and not applies(wanted.marker, python):
            return
        if wanted.extras:
            extras = ",".join(sorted(wanted.extras))
            self.say(f"{wanted.name}[{extras}]: a spec has no extras: name the packages that they bring in [packages]")
        exact = [one.version for one in wanted.specifier if one.operator in ("==", "===") and "*" not in one.version]
        if len(exact) == 1 and len(list(wanted.specifier)) == 1:
            self.pin(wanted.name, exact[0], hashes, line)
        else:
            self.loose.append(f"{wanted.name}{wanted.specifier}")


def applies(marker: Marker | str, python: str) -> bool:
    """Whether a marker is true for CPython `python` on linux/amd64."""
    made = Marker(marker) if isinstance(marker, str) else marker
    return made.evaluate(
        {
            "implementation_name": "cpython",
            "implementation_version": f"{python}.0",
            "os_name": "posix",
            "platform_machine": "x86_64",
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{python}.0",
            "python_version": python,
            "sys_platform": "linux",
            "extra": "",
        }
    )


def channel_name(url: str) -> str:
    """The channel's own name out of its address, as in conda-forge; a name stays one."""
    parts = urlsplit(url)
    path = parts.path if parts.scheme else url
    return unquote(path).strip("/").rpartition("/")[2] if parts.scheme else path.strip("/")


def conda_file(url: str) -> tuple[str, str, str, str] | None:
    """Channel address, name, version and build out of a conda package's address; None where it is none."""
    found = re.fullmatch(r"(.+)/[^/]+/([^/]+)-([^-/]+)-([^-/]+?)(?:\.conda|\.tar\.bz2)", unquote(url.partition("#")[0]))
    return (found[1], found[2], found[3], found[4]) if found else None


def minor_of(version: str) -> str:
    """3.10 out of 3.10.13, =3.10, ==3.10.* and the like; "" where nothing of the kind is there."""
    found = re.match(r"[=~><! ]*(3\.\d+)", version)
    return found[1] if found else ""
