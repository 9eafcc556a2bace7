"""The toolchains: where each runs, its pins, and whether it can be used on this machine."""

from __future__ import annotations

from typing import Literal

import msgspec

from envs.errors import EdgekilnError
from envs.lock import EnvLock, lock_command, lock_path, read_lock
from envs.matching.facts import Toolchain as Documented
from envs.matching.facts import read_matrix
from envs.platforms import host_platform
from envs.sdk.record import read_record as read_sdk
from envs.spec import EnvSpec, load_spec, spec_names
from envs.toolchain import exporting
from envs.tree import existing_tree, read_record

State = Literal["built", "locked", "not locked", "no SDK", "other platform", "unusable", "not here"]
USABLE: tuple[State, ...] = ("built", "locked")


class Toolchain(msgspec.Struct, frozen=True, kw_only=True):
    """One toolchain as `invoke vendors` tells of it."""

    name: str
    title: str = ""  # the converter and its version
    runs: str  # where its converter runs
    env: str = ""  # the environment to name; "" where there is none
    exports: str = ""  # the environment that exports for it
    pins: dict[str, str] = {}  # package -> version: locked, else as the spec asks, or documented
    state: State
    usable: bool
    next_step: str  # "" where there is nothing to do before `invoke run`
    download_bytes: int | None = None  # of its packages
    tree_bytes: int | None = None  # what it takes on this disk
    tree_s: float | None = None  # how long it took to make


def toolchains() -> tuple[Toolchain, ...]:
    """Those that an environment of this checkout converts with, then those that are known from documentation."""
    documented = read_matrix().toolchains
    titles = {one.environment: one.title for one in documented}
    here = [_here(name, titles.get(name, "")) for name in spec_names() if _is_toolchain(name)]
    elsewhere = [_documented(one) for one in documented if not one.environment and one.accepts]
    return (*here, *elsewhere)


def _is_toolchain(name: str) -> bool:
    try:
        return load_spec(name).toolchain is not None
    except EdgekilnError:
        return False  # `invoke envs` says why


def _here(name: str, title: str) -> Toolchain:
    spec = load_spec(name)
    assert spec.toolchain is not None
    vendor, exporter = spec.toolchain.vendor, exporting(spec).name
    runs = "its vendor's image" if spec.toolchain.outside else f"environment {name}"
    told = Toolchain(
        name=vendor,
        title=title or spec.summary,
        runs=runs,
        env=name,
        exports=exporter,
        pins=spec.packages,
        state="locked",
        usable=True,
        next_step="",
    )
    for needed in dict.fromkeys((name, exporter)):
        if not lock_path(needed).exists():
            return _no(told, "not locked", f"`{lock_command(needed)}` makes the lock of {needed}")
        try:
            lock = read_lock(needed)
        except EdgekilnError as error:
            return _no(told, "unusable", str(error))
        if lock.platform != host_platform():
            return _no(told, "other platform", f"run it on {lock.platform}; this machine is {host_platform()}")
    return _ready(told, spec, read_lock(name))


def _ready(told: Toolchain, spec: EnvSpec, lock: EnvLock) -> Toolchain:
    """With what the lock and the tree say."""
    locked = {one.name: one.version for one in lock.package}
    tree = existing_tree(lock)
    record = read_record(tree) if tree else None
    told = msgspec.structs.replace(
        told,
        pins={name: locked.get(name, version) for name, version in spec.packages.items()},
        state="built" if tree else "locked",
        next_step="" if tree else f"`invoke build --env {spec.name}`, or the first run builds it",
        download_bytes=sum(one.bytes for one in lock.package),
        tree_bytes=record.size_bytes if record else None,
        tree_s=record.elapsed_s if record else None,
    )
    assert spec.toolchain is not None
    if spec.toolchain.outside and (missing := _missing_sdk(spec.toolchain.vendor)):
        return _no(told, "no SDK", missing)
    return told


def _no(told: Toolchain, state: State, next_step: str) -> Toolchain:
    return msgspec.structs.replace(told, state=state, usable=False, next_step=next_step)


def _missing_sdk(vendor: str) -> str:
    """The next step where the user has not brought all of the vendor's SDK; "" where it is recorded."""
    record = read_sdk(vendor)
    parts = {"image": record.image, "SDK folder": record.folder}
    missing = [what for what, part in parts.items() if part is None]
    return f"`invoke sdk add {vendor} PATH` with the vendor's {' and its '.join(missing)}" if missing else ""


def _documented(one: Documented) -> Toolchain:
    return Toolchain(
        name=one.name,
        title=one.title,
        runs="not here",
        pins={part: text for fact in one.accepts for part, text in fact.needs.items()},
        state="not here",
        usable=False,
        next_step=f"`invoke match --toolchain {one.name}` says what fits; convert with the vendor's own tool",
    )
