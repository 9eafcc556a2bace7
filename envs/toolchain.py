"""The toolchain that a run converts with: which environment exports for it, and what the caller may ask of it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import msgspec

from envs.build import Built
from envs.contract import VendorOffer, VendorOptions
from envs.engines.base import Engine, Task
from envs.errors import EngineError, SpecError, WrongUse
from envs.mounts import pipelines_mount, workspace_mount
from envs.run_options import Choices, RunOptions
from envs.spec import EnvSpec, load_spec

HEAVY = ("acuity", "rknn", "tpu-mlir")  # several GiB each: CI builds them where they are named or `--all` is given


def exporting(spec: EnvSpec) -> EnvSpec:
    """The spec of the environment that exports for this one: itself, or the one that its toolchain names."""
    if spec.toolchain is None or not spec.toolchain.export:
        return spec
    found = load_spec(spec.toolchain.export)
    if found.export is None:
        raise SpecError(f"envs/specs/{spec.name}.toml: [toolchain] export {found.name!r} exports nothing itself")
    return found


def vendor_options(options: RunOptions, asked: Choices, spec: EnvSpec, sdk: str = "") -> VendorOptions | None:
    """What the request says about the converter; None for an environment without one.

    WrongUse where the caller asks something of a converter that is not there.
    """
    if spec.toolchain is None:
        given = {"--target": options.target, "--variants": asked.variants, "--fix": options.fix}
        given["--unstructured"] = asked.unstructured
        if words := [word for word, value in given.items() if value]:
            raise WrongUse(
                f"{words[0]} is for a converter, and the environment {spec.name!r} has none",
                "name one that has: `invoke vendors` lists them",
            )
        return None
    return VendorOptions(
        vendor=spec.toolchain.vendor,
        target=options.target,
        variants=asked.variants,
        fix=options.fix,
        unstructured=asked.unstructured,
        sdk=sdk,
    )


def check_offer(options: VendorOptions, offered: VendorOffer) -> None:
    """WrongUse with the nearest names where the toolchain has no such target or number format."""
    if options.target and options.target not in offered.targets:
        raise _unknown("--target", options.target, options.vendor, list(offered.targets))
    known = offered.targets.get(options.target) or next(iter(offered.targets.values()), ())
    for name in options.variants:
        if name not in known:
            raise _unknown("--variants", name, options.vendor, known)


def _unknown(word: str, given: str, vendor: str, known: Sequence[str]) -> WrongUse:
    near = difflib.get_close_matches(given, known, n=2)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return WrongUse(f"{word} {given!r} is not one of {vendor}'s", f"{hint}these are: {', '.join(known) or 'none'}")


def offer(vendor: str, engine: Engine, built: Built, variables: Mapping[str, str]) -> VendorOffer:
    """Ask the adapter, inside its environment, what it converts to."""
    mounts = [workspace_mount(), pipelines_mount()]
    task = Task(
        environment=built.environment,
        command=["python3", "-m", "pipelines.vendors", "--offer", vendor],
        mounts=mounts,
        workdir=engine.view(mounts[0]),
        variables=variables,
    )
    out, err = bytearray(), bytearray()
    code = engine.run(task, stdout=out.extend, stderr=err.extend)
    try:
        return msgspec.json.decode(bytes(out), type=VendorOffer)
    except msgspec.DecodeError as error:
        said = err.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise EngineError(f"{vendor}: its adapter ended with {code}: {said[-1]}") from error
