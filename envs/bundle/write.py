"""Write a bundle: the same bytes for the same contents, gone on with where a call before was interrupted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from envs.bundle.manifest import Manifest, Place, places, total_bytes
from envs.bundle.read import BLOCK, Bundle, check_header, read_member
from envs.errors import BuildError, CheckFailed
from envs.image_tar import tar_end, tar_padding
from envs.progress import Bar, Progress


def write_bundle(manifest: Manifest, content: Mapping[str, Path], output: Path, progress: Progress) -> None:
    """Write `output`; `content` gives the file behind each member that is no link.

    What lies in `output`.part is kept as far as it is right. BuildError names a file that is not what was hashed.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    encoded = manifest.encode()
    plan = list(places(manifest, encoded))
    part = output.with_name(output.name + ".part")
    bar = progress.bar(f"writing {output.name}", total_bytes(plan))
    try:
        with part.open("r+b" if part.exists() else "w+b") as file:
            done = _done(Bundle(part, manifest, tuple(plan)), file, bar)
            if done:
                progress.say(f"{part.name}: going on after {done} members that are there")
            file.seek(plan[done].start if done < len(plan) else plan[-1].end)
            file.truncate()
            for place in plan[done:]:
                _append(file, place, encoded if place.start == 0 else None, content, bar)
            file.write(tar_end())
        part.chmod(0o644)
        part.replace(output)
    finally:
        bar.close()


def _done(part: Bundle, file: BinaryIO, bar: Bar) -> int:
    """How many members an interrupted call left whole."""
    for number, place in enumerate(part.places):
        try:
            check_header(part, file, place)
            read_member(part, file, place, bar.advance)
        except CheckFailed:
            return number
    return len(part.places)


def _append(file: BinaryIO, place: Place, own: bytes | None, content: Mapping[str, Path], bar: Bar) -> None:
    member = place.member
    file.write(place.header)
    if own is not None:
        file.write(own + tar_padding(len(own)))
        return
    if member.link:
        return
    path, digest, count = content[member.path], hashlib.sha256(), 0
    with path.open("rb") as source:
        while block := source.read(BLOCK):
            file.write(block)
            digest.update(block)
            count += len(block)
            bar.advance(len(block))
    if (digest.hexdigest(), count) != (member.sha256, member.bytes):
        raise BuildError(f"{path}: not the bytes that {member.path} should have", "remove it and run this again")
    file.write(tar_padding(count))
