"""The SDK of a run: found before anything is built, its image in the engine before the pipeline starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from envs.engines.choose import Chosen, choose
from envs.errors import EngineError
from envs.paths import runs_root
from envs.progress import Progress
from envs.run_vendor import Vendors, run_outside
from envs.sdk.keep import Sdk, check_archive, check_folder, find, lacking
from envs.sdk.record import read_record, record_path
from envs.spec import EnvSpec

if TYPE_CHECKING:
    from envs.engines.docker import DockerEngine


def sdk_of(spec: EnvSpec, progress: Progress) -> Sdk | None:
    """The SDK that this environment's converter comes with; None for any other, and where it is not whole here."""
    if spec.toolchain is None or not spec.toolchain.outside:
        return None
    vendor = spec.toolchain.vendor
    if record_path(vendor).exists() and (why := lacking(read_record(vendor))):
        progress.say(f"SDK of {vendor}: {why}; `invoke sdk add {vendor} PATH`")
    return find(vendor)


def outside_run(sdk: Sdk, chosen: Chosen, progress: Progress, *, use_cache: bool) -> Callable[[Path], None]:
    """What runs the plan of a run folder in the vendor's container; its image is in the engine and its SDK checked.

    It is Docker's also where the rest runs locally. CheckFailed where the kept SDK is not the recorded one.
    """
    docker = chosen.docker or _docker(sdk.record.vendor)
    from envs.engines.load_archive import ensure_archive  # the SDK of Docker takes 0.2 s

    assert sdk.record.image is not None
    check_folder(sdk)
    image = sdk.record.image.image_id
    ensure_archive(docker.client, sdk.archive, image, progress, lambda: check_archive(sdk))
    vendors = Vendors(sdk.record.identity, sdk.name, image, sdk.folder)

    def run(folder: Path) -> None:
        run_outside(docker, vendors, folder, progress, runs_root() / ".cache" / "vendor" if use_cache else None)

    return run


def _docker(vendor: str) -> DockerEngine:
    try:
        found = choose("docker").docker
    except EngineError as error:
        raise EngineError(
            f"the tools of {vendor} run in their vendor's image, and {error.message}",
            f"start Docker; without its SDK (`invoke sdk rm {vendor}`) the run does all but convert",
        ) from error
    assert found is not None
    return found
