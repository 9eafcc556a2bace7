"""What verify knows of one file, of one difference, and of a whole comparison."""

from __future__ import annotations

from typing import Literal

import msgspec

FileKind = Literal["file", "dir", "symlink", "hardlink", "device", "fifo"]
What = Literal["missing", "extra", "kind", "content", "link", "mode", "owner", "mtime", "xattr", "order", "form"]


class FileFact(msgspec.Struct, frozen=True):
    """One path as an archive or a folder has it; the path has no leading slash."""

    path: str
    kind: FileKind
    mode: int  # permission bits with setuid, setgid, sticky
    uid: int = 0
    gid: int = 0
    size: int = 0  # bytes
    mtime: float = 0  # seconds since 1970
    sha256: str = ""  # hex, of regular files
    link: str = ""  # a symlink's text, a hard link's first path
    xattrs: tuple[tuple[str, str], ...] = ()
    owner: str = ""  # user:group by name, where an archive names them


class Difference(msgspec.Struct, frozen=True):
    """One thing that differs; `ours` is the rebuild's side, `theirs` what was there."""

    path: str
    what: What
    ours: str
    theirs: str
    cause: str = ""  # the rule that matched, "" where none did
    advice: str = ""


class Digest(msgspec.Struct, frozen=True):
    """One digest of an image on both sides, computed from the bytes; "" where a side has no such part."""

    name: str
    ours: str
    theirs: str


class Detail(msgspec.Struct, frozen=True):
    """What diffoscope says of one file, or why it says nothing."""

    path: str
    lines: tuple[str, ...]


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison. `--json` prints these fields."""

    subject: str  # what was compared with the rebuild
    env: str
    lock_digest: str
    equal: bool
    verdict: str
    digests: tuple[Digest, ...] = ()
    files: int = 0  # paths compared one by one; 0 where the digests already said it
    differences: tuple[Difference, ...] = ()
    by_what: dict[str, int] = {}
    by_cause: dict[str, int] = {}
    passed_over: tuple[str, ...] = ()  # what an engine puts into every container, and mounts
    detail: tuple[Detail, ...] = ()
    notes: tuple[str, ...] = ()
    elapsed_s: float = 0
