"""What can go wrong with an image, case by case: what the lock gives, what is found instead, what verify must say."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from typing import Any

import msgspec


class Case(msgspec.Struct, frozen=True):
    """`path` lies in site-packages, or from the root where it begins with a slash. None is: no such file."""

    path: str
    what: str
    cause: str
    ours: bytes | None = None
    theirs: bytes | None = None
    header: dict[str, Any] = {}  # TarInfo's fields on their side


def zipped(members: dict[str, bytes], year: int = 1980) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0)), content)
    return made.getvalue()


def tarred(members: dict[str, bytes], mtime: int = 0, uid: int = 0) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid = len(content), mtime, uid
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


A, B = {"a": b"1", "b": b"2"}, {"b": b"2", "a": b"1"}
TEXT = b"one\ntwo\nthree\n"
ELF = b"\x7fELF" + bytes(range(200))


def content(name: str, cause: str, ours: bytes, theirs: bytes) -> Case:
    return Case(f"cases/{name}", "content", cause, ours, theirs)


CASES = (
    content("iso.txt", "timestamp inside", b"v1\nmade 2026-01-01T00:00:00Z\n", b"v1\nmade 2026-03-04T05:06:07Z\n"),
    content("ctime.txt", "timestamp inside", b"# Thu Jan  1 00:00:00 2026\n", b"# Wed Nov 11 15:16:17 2026\n"),
    content("epoch.json", "timestamp inside", b'{"t": 1767225600}', b'{"t": 1780000001}'),
    content("day.h", "timestamp inside", b'"Jan  1 2026" "00:00:00"', b'"Feb 22 2027" "10:11:12"'),
    content("zone.txt", "time zone", b"at 2026-01-01 10:00:00 UTC\n", b"at 2026-01-01 11:00:00 CET\n"),
    content("path.py", "build path", b"D = '/home/ann/work/a.c'\n", b"D = '/tmp/tmpk3_1/b.c'\n"),
    content("staging.txt", "build path", b"/x/trees/.light-1/bin", b"/y/z/trees/.light-77/bin"),
    content("host.txt", "host or user name", b"Build-Host: mill\nx\n", b"Build-Host: lathe\nx\n"),
    content("mail.txt", "host or user name", b"by ann@mill.\n", b"by bob@lathe.\n"),
    content(
        "uuid.txt",
        "random uuid",
        b"id 6fa459ea-ee8a-4ca4-894e-db77e160355e",
        b"id 16fd2706-8baf-433b-82eb-8c7fada847da",
    ),
    content("seed.txt", "random seed", b"seed = 7\n", b"seed = 1234\n"),
    content("address.txt", "memory address", b"<f at 0x7f00aa00bb10>", b"<f at 0x7fee12345678>"),
    content("pid.txt", "process id or temporary name", b"pid: 41\n", b"pid: 4211\n"),
    content("cores.txt", "number of cores", b"make -j2\n", b"make -j16\n"),
    content("kernel.txt", "kernel of the builder", b"on 6.1.0-13-amd64\n", b"on 5.15.0-76-generic\n"),
    content("hash.txt", "random value or hash", b"h 0123456789abcdef01\n", b"h fedcba98765432100f\n"),
    content("both.txt", "build path and timestamp inside", b"/home/a/b at 10:00:00\n", b"/home/c/d at 23:59:59\n"),
    content("order.txt", "hash or folder order", TEXT, b"two\none\nthree\n"),
    content("set.json", "hash or folder order", b'{"a": 1, "b": 2}', b'{"b": 2, "a": 1}'),
    content("sorted.txt", "locale", b"B\nZ\na\nc\n", b"a\nB\nc\nZ\n"),
    content("decimal.txt", "locale", b"3.14 2.5\n", b"3,14 2,5\n"),
    content("text.txt", "text encoding", "Grüße\n".encode(), "Grüße\n".encode("latin-1")),
    content("crlf.txt", "line ends", TEXT, TEXT.replace(b"\n", b"\r\n")),
    content("blank.txt", "white space", b"a b\nc\n", b"a  b\nc"),
    content("short.bin", "cut short", b"x" * 2000, b"x" * 1500),
    content("zeros.bin", "zeros at the end", b"x" * 2000, b"x" * 1000 + bytes(1000)),
    content("elf.so", "build id", ELF, ELF[:90] + b"12345678" + ELF[98:]),
    content("head.gz", "gzip header", gzip.compress(TEXT, mtime=0), gzip.compress(TEXT, mtime=1_780_000_000)),
    content("level.gz", "compressor", gzip.compress(TEXT * 99, 9, mtime=0), gzip.compress(TEXT * 99, 1, mtime=0)),
    content("unsorted.zip", "unsorted archive", zipped(A), zipped(B)),
    content("unsorted.tar", "unsorted archive", tarred(A), tarred(B)),
    content("times.zip", "times of archive members", zipped(A), zipped(A, 2026)),
    content(
        "times.tgz", "times of archive members", gzip.compress(tarred(A), mtime=0), gzip.compress(tarred(A, 9), mtime=0)
    ),
    content("owners.tar", "owners of archive members", tarred(A), tarred(A, uid=1000)),
    content("unknown.txt", "", b"the cat\n", b"the dog\n"),
    Case("cases/__pycache__/x.cpython-310.pyc", "extra", "bytecode", theirs=b"\x6f\r\r\n"),
    Case("/var/log/build.log", "extra", "log", theirs=b"done\n"),
    Case("/var/cache/apt/pkgcache.bin", "extra", "package manager's cache", theirs=b"x"),
    Case("/tmp/.cache/pip/x", "extra", "package manager's cache", theirs=b"x"),
    Case("/var/cache/fontconfig/y", "extra", "cache", theirs=b"x"),
    Case("/etc/machine-id", "extra", "machine id", theirs=b"0123\n"),
    Case("/etc/hostname", "extra", "host's own file", theirs=b"mill\n"),
    Case("cases/.iso.txt.swp", "extra", "leftover", theirs=b"b0VIM"),
    Case("cases/.git/HEAD", "extra", "version control", theirs=b"ref"),
    Case("small-1.0.dist-info/direct_url.json", "extra", "installer's leftovers", theirs=b"{}"),
    Case("small-1.0.dist-info/RECORD", "content", "RECORD", theirs=b"small/__init__.py,,\n"),
    Case("cases/gone.txt", "missing", "", ours=b"here\n"),
    Case("cases/umask.txt", "mode", "umask", b"u\n", b"u\n", {"mode": 0o600}),
    Case("cases/group.txt", "mode", "umask", b"g\n", b"g\n", {"mode": 0o664}),
    Case("cases/run.sh", "mode", "executable bit", b"#!\n", b"#!\n", {"mode": 0o755}),
    Case("cases/root.sh", "mode", "special bits", b"#!s\n", b"#!s\n", {"mode": 0o4644}),
    Case("cases/owner.txt", "owner", "builder's owner", b"o\n", b"o\n", {"uid": 1000, "gid": 1000}),
    Case("cases/owner-name.txt", "owner", "builder's owner", b"n\n", b"n\n", {"uname": "ann", "gname": "staff"}),
    Case("cases/time.txt", "mtime", "clock", b"t\n", b"t\n", {"mtime": 1_780_000_000}),
    Case(
        "cases/label.txt",
        "xattr",
        "security label",
        b"l\n",
        b"l\n",
        {"pax_headers": {"SCHILY.xattr.security.selinux": "system_u:object_r:usr_t:s0"}},
    ),
    Case(
        "cases/user.txt",
        "xattr",
        "extended attribute",
        b"a\n",
        b"a\n",
        {"pax_headers": {"SCHILY.xattr.user.origin": "mill"}},
    ),
    Case(
        "cases/twin-b.txt",
        "kind",
        "hard link",
        b"twin\n",
        b"",
        {"type": tarfile.LNKTYPE, "linkname": "cases/twin-a.txt"},
    ),
    Case("cases/kind.txt", "kind", "", b"k\n", b"", {"type": tarfile.SYMTYPE, "linkname": "iso.txt"}),
)
OTHERS = {"cases/twin-a.txt": b"twin\n"}  # what the cases need besides


def locked_files() -> dict[str, bytes]:
    """What the package of the lock holds."""
    return {**OTHERS, **{case.path: case.ours for case in CASES if case.ours is not None}}
