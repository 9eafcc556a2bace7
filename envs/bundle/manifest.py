"""What a bundle says of itself: every member by path, size and sha256, and with them each byte's place in the file.

A bundle is an uncompressed tar: `manifest.json` first, then the members in the manifest's order, nothing between
or after. Headers follow from the manifest, so whatever was added, dropped, moved or changed does not fit it.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import typing
from collections.abc import Iterator

import msgspec

from envs.errors import CheckFailed, WrongUse
from envs.image_tar import Entry, tar_end, tar_header, tar_padding

FORMAT = 2  # 1 knew no kernels, and is still read
NAME = "manifest.json"
LARGEST_BYTES = 64 << 20  # of the manifest itself
AGAIN = "get the bundle again from where it was made"

Kind = typing.Literal["tool", "wheel", "spec", "lock", "source", "interpreter", "weights", "kernels", "layer"]
KINDS: tuple[Kind, ...] = typing.get_args(Kind)  # their order
PLACES: dict[Kind, str] = {
    "tool": r"tool/.+",
    "wheel": r"tool/wheels/[^/]+\.whl",
    "spec": r"tool/envs/specs/[^/]+\.toml",
    "lock": r"tool/envs/locks/[^/]+\.lock\.toml",
    "source": r"sources/[0-9a-f]{64}/[^/]+",
    "interpreter": r"interpreters/[0-9a-f]{64}\.tar",  # the name is the hash of the tree inside
    "weights": r"weights/[^/]+",
    "kernels": r"kernels/[0-9a-f]{64}\.tar",  # the name is their key
    "layer": r"layers/[0-9a-f]{64}\.tar\.zst",  # the name is the layer's diff id
}


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of the manifest's tables."""


class Member(_Part, frozen=True, kw_only=True):
    """One file of the bundle; a link (the tool has one) has no content."""

    path: str
    kind: Kind
    sha256: str = ""
    bytes: int = 0
    executable: bool = False
    link: str = ""

    @property
    def entry(self) -> Entry:
        """As the tar has it."""
        if self.link:
            return Entry(self.path, "symlink", 0o777, link=self.link)
        return Entry(self.path, "file", 0o755 if self.executable else 0o644, self.bytes)


class BundledLayer(_Part, frozen=True, kw_only=True):
    """A layer of the image; `key` is what its digest is remembered by on a machine that makes it from the tree."""

    name: str
    comment: str
    key: str
    diff_id: str
    bytes: int  # uncompressed
    member: str


class BundledImage(_Part, frozen=True, kw_only=True):
    """The image that the layers make."""

    image_id: str
    description: str
    layers: tuple[BundledLayer, ...]


class Manifest(_Part, frozen=True, kw_only=True):
    """A bundle's table of contents."""

    format: int
    env: str
    lock_digest: str
    platform: str
    epoch: int  # every member's time
    pythons: tuple[str, ...]  # the tool's own wheels are for these
    members: tuple[Member, ...]
    image: BundledImage | None = None

    @property
    def digest(self) -> str:
        """sha256:... of the content: tells one bundle from every other."""
        content = msgspec.json.encode(msgspec.to_builtins(self), order="deterministic")
        return "sha256:" + hashlib.sha256(content).hexdigest()

    def encode(self) -> bytes:
        """As it stands in the bundle: its digest first, readable."""
        tables = {"digest": self.digest, **msgspec.to_builtins(self)}
        return msgspec.json.format(msgspec.json.encode(tables), indent=1) + b"\n"


class Place(msgspec.Struct, frozen=True):
    """Where a member lies in the file."""

    member: Member
    header: bytes
    start: int  # of the header

    @property
    def content(self) -> int:
        """Offset of its first byte."""
        return self.start + len(self.header)

    @property
    def end(self) -> int:
        """Offset of what comes after it, padding included."""
        return self.content + self.member.bytes + len(tar_padding(self.member.bytes))


class _Head(msgspec.Struct, frozen=True):
    format: int


def in_order(members: list[Member]) -> tuple[Member, ...]:
    """Members as a bundle has them: by kind, then by path."""
    return tuple(sorted(members, key=lambda member: (KINDS.index(member.kind), member.path)))


def decode(content: bytes, bundle: str) -> Manifest:
    """Read and check a manifest. CheckFailed where it was changed; WrongUse where a newer tool wrote it."""
    try:
        head = msgspec.json.decode(content, type=_Head)
        if not 1 <= head.format <= FORMAT:
            raise WrongUse(
                f"{bundle}: bundle format {head.format}, this tool reads 1 to {FORMAT}",
                f"use the tool inside it: tar xf {bundle} tool && cd tool && ./inv bundle --load ../{bundle}",
            )
        tables = msgspec.json.decode(content)
        tables.pop("digest", None)
        manifest = msgspec.convert(tables, Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # a ValidationError is the former
        raise CheckFailed(f"{bundle}: {NAME} can't be read: {error}", AGAIN) from error
    if manifest.encode() != content:
        raise CheckFailed(f"{bundle}: {NAME}: its content does not match its digest, it was changed", AGAIN)
    for member in manifest.members:
        if why := _fault(member):
            raise CheckFailed(f"{bundle}: member {member.path!r} {why}", "do not use this bundle")
    paths = [member.path for member in manifest.members]
    if manifest.members != in_order(list(manifest.members)) or len(set(paths)) != len(paths):
        raise CheckFailed(f"{bundle}: {NAME}: its members are out of order", AGAIN)
    layers = manifest.image.layers if manifest.image else ()
    for layer in layers:
        digest = layer.diff_id.removeprefix("sha256:")
        if f"layers/{digest}.tar.zst" != layer.member or not re.fullmatch(r"([0-9a-f]{64})?", layer.key):
            raise CheckFailed(f"{bundle}: {NAME}: layer {layer.name!r} is not a layer", "do not use this bundle")
    held = {member.path for member in manifest.members if member.kind == "layer"}
    if odd := sorted(held ^ {layer.member for layer in layers}):
        raise CheckFailed(f"{bundle}: member {odd[0]} is not there or in no image", "do not use this bundle")
    return manifest


def _fault(member: Member) -> str:
    """Why that member may not be in a bundle, or ""."""
    path = member.path
    if path != posixpath.normpath(path) or path.startswith(("/", "../")) or not path.isprintable():
        return "would leave its folder"
    if not re.fullmatch(PLACES[member.kind], path):
        return f"is in the wrong place for a {member.kind}"
    if member.link:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.link))
        if member.kind != "tool" or member.link.startswith("/") or not target.startswith("tool/"):
            return "is a link that leads out of its folder"
        return "" if not member.bytes and not member.sha256 else "is a link with content"
    if not re.fullmatch(r"[0-9a-f]{64}", member.sha256) or member.bytes < 0:
        return "has no sha256"
    if member.kind == "source" and path.split("/")[1] != member.sha256:
        return "does not have the sha256 that its path says"
    return ""


def places(manifest: Manifest, content: bytes) -> Iterator[Place]:
    """Where everything lies, the manifest (whose bytes are `content`) first."""
    own = Member(path=NAME, kind="tool", sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    start = 0
    for member in (own, *manifest.members):
        place = Place(member, tar_header(member.entry, manifest.epoch), start)
        yield place
        start = place.end


def total_bytes(places_: list[Place]) -> int:
    """Size of the whole file."""
    return places_[-1].end + len(tar_end())
