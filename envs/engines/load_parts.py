"""Give an engine a large image in pieces: while it unpacks one piece, the next is on its way.

An engine takes an archive in two steps: it stores what arrives, then unpacks it layer by layer. In one archive the
second waits for the first. Here each piece is an archive of its own that makes a nameless image of the layers so
far; its last bytes are held back until the piece before it is unpacked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from envs.image import ImagePlan

PIECE_BYTES = 128 << 20


def piece_ends(plan: ImagePlan, skip: int) -> list[int]:
    """After which layer each piece ends, for the layers from `skip` on; one where only the configuration is new."""
    ends = [skip]
    size = 0
    for place, layer in enumerate(plan.layers[skip:], skip + 1):
        if size >= PIECE_BYTES:
            ends.append(place)
            size = 0
        ends[-1] = place
        size += layer.bytes
    return ends


def load_pieces(plan: ImagePlan, skip: int, load: Callable[[Iterator[bytes]], str]) -> str:
    """Load all pieces in turn; what the engine refused, or "".

    `load` takes one archive and gives what was refused; it is called from a thread for each piece. The first
    exception of any of them is raised here, and the others are given up.
    """
    ends = piece_ends(plan, skip)
    turns = [_Turn() for _ in ends]
    stop = threading.Event()
    refusals: list[str] = []
    faults: list[BaseException] = []

    def archive(number: int) -> Iterator[bytes]:
        for chunk in plan.archive_layers(ends[number - 1] if number else skip, ends[number]):
            if stop.is_set():
                raise _GivenUp
            yield chunk
        turns[number].sent.set()
        if number:
            _wait(turns[number - 1].taken, stop)
        last = ends[number] == len(plan.layers)
        config, tags = (plan.config(), plan.tags) if last else (plan.config_of_first(ends[number]), ())
        yield from plan.archive_end(config, ends[number], tags)

    def give(number: int) -> None:
        try:
            if number:
                _wait(turns[number - 1].sent, stop)
            if refusal := load(archive(number)):
                refusals.append(refusal)
                stop.set()
            turns[number].taken.set()
        except _GivenUp:
            pass
        except BaseException as error:
            faults.append(error)
            stop.set()

    # as daemons: after Ctrl-C nobody waits for an engine that goes on unpacking
    threads = [threading.Thread(target=give, args=(number,), daemon=True) for number in range(len(ends))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
    if faults:
        raise faults[0]
    return refusals[0] if refusals else ""


class _Turn:
    """How far a piece is: its layers were sent; the engine has unpacked it."""

    def __init__(self) -> None:
        self.sent = threading.Event()
        self.taken = threading.Event()


class _GivenUp(Exception):
    """Another piece failed, or the caller was interrupted."""


def _wait(event: threading.Event, stop: threading.Event) -> None:
    while not event.wait(0.1):
        if stop.is_set():
            raise _GivenUp
