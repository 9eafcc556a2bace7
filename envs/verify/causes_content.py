"""Rules that compare two contents: what is left equal when one kind of thing is masked in both is the cause."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence

from envs.verify.evidence import Evidence, Rule

AROUND = 256  # bytes before and after the differing part that a pattern may need to see
ELF = b"\x7fELF"
BUILD_ID_BYTES = 64

MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}"
CLOCK = r"\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?"
ZONE = r"(?:Z\b|UTC|GMT|[A-Z]{3,4}\b| ?[+-]\d\d:?\d\d\b)"
DATE_WORDS = re.compile(
    rf"(?:\b(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]{{0,6}}|{MONTH}|{CLOCK}|(?:19|20)\d\d|\d{{1,2}}|[AP]M|[A-Z]{{3,4}})\b"
    r"(?: [+-]\d{4})?[ ,]*){2,}"
)
DATE_NUMBERS = re.compile(
    rf"\b(?:19|20)\d\d[-/.]?[01]\d[-/.]?[0-3]\d(?:[T _-]?(?:{CLOCK}|[0-2]\d{{5}}))?{ZONE}?"
    rf"|\b\d{{1,2}}[./]\d{{1,2}}[./](?:19|20)\d\d(?: {CLOCK})?|\b{CLOCK}(?: ?{ZONE})?|\b1\d{{9}}(?:\d{{3}}|\.\d+)?\b"
)
IS_DATE = re.compile(rf"{MONTH}|\d:\d\d")

PATH = re.compile(
    r"/(?:home|root|tmp|var/tmp|build|builddir|Users|mnt|media|usr/src|work|workspace|private|opt/conda_bld)(?:/[^\s\"'`:;,)<>\0]*)+"
    r"|(?:/[^\s\"'`:;,)<>\0/]+)*/(?:\.cache|\.[\w-]+-\d+|trees|\.install|site-packages\.tmp)/[^\s\"'`:;,)<>\0]*\0*"
)
PERSON = re.compile(
    r"(?i)\b(?:build[-_ ]?)?(?:host(?:[-_ ]?name)?|user(?:[-_ ]?name)?|builder|built[-_ ]by|login|logname|nodename)"
    r"\b[\"']?\s*[:= ]\s*[\"']?[\w.@-]+|\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*"
)
UUID = re.compile(r"(?i)\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b")
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,16}\b")
HEX = re.compile(r"(?i)\b[0-9a-f]{16,}\b")
SEED = re.compile(r"(?i)\b(?:seed|nonce|salt|random_state|entropy)\b[\"']?\W{1,4}[\w-]+")
PROCESS = re.compile(r"(?i)\b(?:pid|process)\b[\"']?\W{1,4}\d+|\btmp[a-z0-9_]{6,8}\b")
CORES = re.compile(r"(?i)(?:\b-?j|\bjobs|\bn?cpus?|\bcores?|\bthreads?|\bnproc|\bparallel)[\"']?\W{0,4}\d+")
KERNEL = re.compile(r"\b\d+\.\d+\.\d+-[\w.+-]+")

_MASKS: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    (
        "build path",
        "the folder it was built in is written inside; map it away (-ffile-prefix-map, relative paths)",
        PATH,
    ),
    ("host or user name", "the builder's names are written inside; build with fixed ones or leave them out", PERSON),
    ("random uuid", "an id was drawn while building; derive it from the content", UUID),
    ("random seed", "a seed or salt was drawn while building; fix it", SEED),
    ("memory address", "an object was printed with its address; print its name", ADDRESS),
    ("process id or temporary name", "it names the process that made it; leave that out", PROCESS),
    ("number of cores", "the builder's number of cores is written inside; fix it", CORES),
    ("kernel of the builder", "the builder's kernel is written inside; leave it out", KERNEL),
    ("random value or hash", "a hexadecimal value differs: drawn at random, or a hash of something that differs", HEX),
)
TIMESTAMP = ("timestamp inside", "the time of its making is written inside; use SOURCE_DATE_EPOCH or leave it out")


@functools.lru_cache(maxsize=8)
def _differing(left: bytes, right: bytes) -> tuple[str, str]:
    """Both without what they begin and end with in common, some context kept; bytes as characters."""
    shorter = min(len(left), len(right))
    begin = _common(lambda n: left[:n] == right[:n], shorter)
    end = _common(lambda n: n == 0 or left[-n:] == right[-n:], shorter - begin)
    begin, end = _line_before(left, begin), max(0, end - AROUND)
    return tuple(side[begin : len(side) - end].decode("latin-1") for side in (left, right))  # type: ignore[return-value]


def _line_before(data: bytes, place: int) -> int:
    line = data.rfind(b"\n", max(0, place - AROUND), place)
    return line + 1 if line >= 0 else max(0, place - AROUND)


def _common(equal: Callable[[int], bool], most: int) -> int:
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if equal(middle) else (low, middle - 1)
    return low


def _pair(e: Evidence) -> tuple[str, str] | None:
    if e.what != "content" or e.left is None or e.right is None:
        return None
    return _differing(e.left, e.right)


def _masked(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub("?", text)


def _without_dates(text: str) -> str:
    numbers = DATE_NUMBERS.sub("?", DATE_WORDS.sub(lambda found: "?" if IS_DATE.search(found[0]) else found[0], text))
    return re.sub(r"\?[ ,]*(?:\?[ ,]*)*", "?", numbers)


def _equal_under(mask: Callable[[str], str]) -> Callable[[Evidence], bool]:
    def holds(e: Evidence) -> bool:
        pair = _pair(e)
        return pair is not None and mask(pair[0]) == mask(pair[1])

    return holds


def _time_zone(e: Evidence) -> bool:
    pair = _pair(e)
    if pair is None or _without_dates(pair[0]) != _without_dates(pair[1]):
        return False
    zones = [re.findall(rf"{CLOCK} ?({ZONE})", text) for text in pair]
    return bool(zones[0]) and zones[0] != zones[1]


def _both(e: Evidence, test: Callable[[bytes, bytes], bool]) -> bool:
    return e.what == "content" and e.left is not None and e.right is not None and test(e.left, e.right)


def _line_ends(left: bytes, right: bytes) -> bool:
    return left.replace(b"\r\n", b"\n") == right.replace(b"\r\n", b"\n")


def _cut_short(left: bytes, right: bytes) -> bool:
    return len(right) < len(left) and left.startswith(right)


def _zeros(left: bytes, right: bytes) -> bool:
    kept = right.rstrip(b"\0")
    return len(left) == len(right) and len(right) - len(kept) >= 512 and left.startswith(kept)


def _encoding(left: bytes, right: bytes) -> bool:
    for one, other in ((left, right), (right, left)):
        for encoding in ("latin-1", "utf-16", "utf-8-sig"):
            try:
                if one.decode("utf-8") == other.decode(encoding):
                    return True
            except UnicodeDecodeError:
                continue
    return False


def _alphabet(line: bytes) -> tuple[bytes, bytes]:
    """As most locales sort: letters first, then case."""
    return re.sub(rb"[^0-9a-z\x80-\xff]", b"", line.lower()), line.swapcase()


def _sorted_by_locale(left: bytes, right: bytes) -> bool:
    one, other = left.splitlines(), right.splitlines()
    plain = sorted(one)
    if plain != sorted(other) or len(one) < 2:
        return False
    aside = other if one == plain else one if other == plain else None
    return aside is not None and [_alphabet(x)[0] for x in aside] == sorted(_alphabet(x)[0] for x in aside)


def _permuted(left: bytes, right: bytes) -> bool:
    if sorted(left.splitlines()) == sorted(right.splitlines()):
        return True
    words: Sequence[list[bytes]] = [sorted(re.findall(rb"[^\s,;:{}()\[\]]+", side)) for side in (left, right)]
    return len(words[0]) > 1 and words[0] == words[1]


def _white_space(left: bytes, right: bytes) -> bool:
    return b"\0" not in left and left.split() == right.split()


def _build_id(left: bytes, right: bytes) -> bool:
    if not (left.startswith(ELF) and right.startswith(ELF) and len(left) == len(right)):
        return False
    places = [place for place in range(len(left)) if left[place] != right[place]]
    return bool(places) and places[-1] - places[0] < BUILD_ID_BYTES


def _own_name(e: Evidence) -> bool:
    pair = _pair(e)
    if pair is None:
        return False
    words = [set(re.findall(r"[\w.-]+", text)) for text in pair]
    return any(name in words[0] ^ words[1] for name in e.names)


def _of(test: Callable[[bytes, bytes], bool]) -> Callable[[Evidence], bool]:
    return lambda e: _both(e, test)


CONTENT_RULES = (
    Rule(
        "cut short", "the file ends early: the disk was full or a write was interrupted; build again", _of(_cut_short)
    ),
    Rule(
        "zeros at the end",
        "the end was never written: the machine stopped or the disk failed; build again",
        _of(_zeros),
    ),
    Rule(
        "line ends",
        "CRLF on one side: a checkout or editor changed line ends; switch the conversion off",
        _of(_line_ends),
    ),
    Rule("locale", "sorted by the builder's locale; sort under LC_ALL=C", _of(_sorted_by_locale)),
    Rule(
        "locale",
        "numbers were written with the builder's decimal sign; write under LC_ALL=C",
        _equal_under(lambda text: re.sub(r"(?<=\d),(?=\d)", ".", text)),
    ),
    Rule(
        "white space", "only blanks or line breaks differ: an editor or another version of a writer", _of(_white_space)
    ),
    Rule("text encoding", "the same text in another encoding; write UTF-8 always", _of(_encoding)),
    Rule(
        "hash or folder order",
        "the same lines or words in another order: a set, dict or folder was written as it came; sort",
        _of(_permuted),
    ),
    Rule(
        "build id",
        "a few bytes of a binary differ: a build id or time stamp; link with --build-id=none",
        _of(_build_id),
    ),
    Rule("time zone", "times were written in the builder's zone; use UTC", _time_zone),
    Rule(*TIMESTAMP, _equal_under(_without_dates)),
    *(Rule(name, advice, _equal_under(functools.partial(_masked, mask))) for name, advice, mask in _MASKS),
    Rule("host or user name", "this machine's or user's name stands on one side only; leave it out", _own_name),
)


def several(e: Evidence) -> Rule | None:
    """Where only several masks together make both sides equal: their names, those without which it would not hold."""
    pair = _pair(e)
    if pair is None:
        return None
    masks = [(name, functools.partial(_masked, mask)) for name, _, mask in _MASKS] + [(TIMESTAMP[0], _without_dates)]

    def equal(used: Sequence[Callable[[str], str]]) -> bool:
        left, right = pair
        for mask in used:
            left, right = mask(left), mask(right)
        return left == right

    if not equal([mask for _, mask in masks]):
        return None
    needed = [name for name, _ in masks if not equal([mask for other, mask in masks if other != name])]
    if not needed:
        return None
    return Rule(" and ".join(needed), "more than one thing of the builder is written inside", lambda _: True)
