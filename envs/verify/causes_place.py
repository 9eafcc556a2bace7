"""Rules that need no content: where the path lies, and which of its properties differs."""

from __future__ import annotations

import re
from collections.abc import Callable

from envs.verify.evidence import Evidence, Rule

STAGING = re.compile(r"/(?:home|root|tmp|var/tmp|build|builddir|Users|mnt|media|usr/src)/|/\.[\w-]+-\d+/|/\.cache/")

BYTECODE = r"(?:^|/)__pycache__(?:/|$)|\.py[co]$"
PACKAGE_CACHE = (
    r"^var/(?:cache|lib)/apt/|^var/cache/debconf/|^var/lib/dpkg/.*-old$|(?:^|/)\.cache/(?:pip|uv|conda)(?:/|$)|(?:^|/)pkgs/cache/"
    r"|(?:^|/)\.(?:npm|conda|mamba)(?:/|$)|(?:^|/)uv_cache\.json$"
)
LOG = r"^var/log(?:/|$)|\.log(?:\.\d+)?(?:\.gz)?$|(?:^|/)conda-meta/history$"
CACHE = (
    r"^var/cache(?:/|$)|(?:^|/)\.cache(?:/|$)|(?:^|/)\.(?:pytest|mypy|ruff)_cache(?:/|$)|^etc/ld\.so\.cache$|\.cache$"
    r"|(?:^|/)CACHEDIR\.TAG$"
)
MACHINE = r"^etc/machine-id$|^var/lib/dbus/machine-id$|^etc/ssh/ssh_host_|^var/lib/systemd/(?:random-seed|credential)"
HOST = r"^etc/(?:hostname|hosts|resolv\.conf|mailname|timezone|localtime)$"
LEFTOVER = (
    r"(?:^|/)\.?[^/]*(?:\.lock|\.sw[a-p]|~|\.orig|\.rej|\.bak|\.part|\.tmp|\.pid|\.sock)$|(?:^|/)(?:\.#|#)[^/]*"
    r"|(?:^|/)(?:\.DS_Store|\.nfs\w+|nohup\.out|\.\w+_history|core\.\d+|Thumbs\.db|\.viminfo|\.lesshst|\.wget-hsts)$"
)
INSTALLER = r"\.dist-info/(?:INSTALLER|REQUESTED|direct_url\.json|uv_build\.json)$|(?:^|/)installed-files\.txt$"
CONTROL = r"(?:^|/)\.(?:git|hg|svn)(?:/|$)"


def _at(pattern: str) -> Callable[[Evidence], bool]:
    """Content that came, went or changed at such a path."""
    found = re.compile(pattern)
    return lambda e: e.what in ("missing", "extra", "content") and found.search(e.path) is not None


def _differs(what: str) -> Callable[[Evidence], bool]:
    return lambda e: e.what == what


def _mode_bits(mask: int) -> Callable[[Evidence], bool]:
    """All bits that differ lie in the mask."""
    return lambda e: (
        e.what == "mode" and e.ours is not None and e.theirs is not None and (e.ours.mode ^ e.theirs.mode) & ~mask == 0
    )


def _hard_link(e: Evidence) -> bool:
    return e.what == "kind" and {x.kind for x in (e.ours, e.theirs) if x} == {"file", "hardlink"}


def _security(e: Evidence) -> bool:
    changed = (*(e.ours.xattrs if e.ours else ()), *(e.theirs.xattrs if e.theirs else ()))
    return e.what == "xattr" and any(name.startswith(("security.", "selinux", "RHT.security")) for name, _ in changed)


def _link_outside(e: Evidence) -> bool:
    return e.what == "link" and e.theirs is not None and STAGING.search(e.theirs.link) is not None


def _created(e: Evidence) -> bool:
    return e.path.startswith("(configuration)") and re.search(r"created(?:$| )|created$", e.path) is not None


PLACE_RULES = (
    Rule(
        "layer memory",
        "the remembered digest is of other bytes: remove that file, the next build reads the tree",
        lambda e: e.path.startswith("(remembered layer)"),
    ),
    Rule("clock", "the image was given the time of its making; dates come from the lock's epoch", _created),
    Rule(
        "drift",
        "the image was made with replaced packages; build it again once its sources are back",
        lambda e: e.path.startswith("(configuration)") and "drift" in e.path,
    ),
    Rule(
        "tar order",
        "folders were read in the file system's order; sort the members of a layer by path",
        _differs("order"),
    ),
    Rule(
        "tar form",
        "another program wrote the archive (headers, padding); layers must come from edgekiln",
        _differs("form"),
    ),
    Rule(
        "umask", "files were made under another umask; set modes by rule, not by the builder's umask", _mode_bits(0o066)
    ),
    Rule("executable bit", "a copy or checkout lost or set the x bits; set them by rule", _mode_bits(0o177)),
    Rule(
        "special bits", "setuid, setgid or sticky moved: nobody of ours sets them, find out who did", _mode_bits(0o7777)
    ),
    Rule(
        "builder's owner",
        "files kept the uid and gid of whoever made them; owner and group must be 0:0",
        _differs("owner"),
    ),
    Rule("clock", "files kept the time of their making; set every time to the lock's epoch", _differs("mtime")),
    Rule("security label", "the builder's security module labelled files; leave security.* attributes out", _security),
    Rule(
        "extended attribute", "a program or file system added attributes; leave them out of layers", _differs("xattr")
    ),
    Rule(
        "hard link",
        "the same content, once as a link and once as a copy; write each file as one of its own",
        _hard_link,
    ),
    Rule("build path", "the link leads into the builder's own folders; make it relative", _link_outside),
    Rule(
        "bytecode",
        "Python wrote it; build without bytecode (PYTHONDONTWRITEBYTECODE=1) and remove __pycache__",
        _at(BYTECODE),
    ),
    Rule(
        "package manager's cache",
        "clean it in the step that fills it; it is no part of an environment",
        _at(PACKAGE_CACHE),
    ),
    Rule("log", "a program logged into the image; remove logs after each step", _at(LOG)),
    Rule("machine id", "made once a machine; leave it out, it is made at the first start", _at(MACHINE)),
    Rule("host's own file", "copied from the machine that built it; leave it out", _at(HOST)),
    Rule("cache", "made by use, not by the lock; remove it and keep the place read-only", _at(CACHE)),
    Rule(
        "RECORD",
        "the installer's list differs: files were added, removed or written in another order; install again",
        _at(r"\.dist-info/RECORD$"),
    ),
    Rule(
        "installer's leftovers",
        "an installer other than the locked one was at work; install again from the lock",
        _at(INSTALLER),
    ),
    Rule("leftover", "an editor, a lock or an interrupted program left it; remove it", _at(LEFTOVER)),
    Rule("version control", "a checkout was copied in; copy exported files only", _at(CONTROL)),
)

FALLBACK_RULES = (
    Rule(
        "changed after it was installed",
        "RECORD still names the locked content; remove tree and `unpacked` (they share files) and build again",
        lambda e: e.what == "content" and e.recorded,
    ),
)
