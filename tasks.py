"""The verbs: each parses, calls one function of envs/ and gives the exit code; imports wait until a verb runs."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

TOOL = Path(__file__).parent / ".venv" / "bin" / "python"
if any(importlib.util.find_spec(name) is None for name in ("msgspec", "rich", "tomli_w")):
    # an invoke from elsewhere found this file: hand over to the tool's own
    if not TOOL.exists():
        sys.exit("edgekiln: the tool's own environment is missing; run ./inv once, it makes it")
    os.execv(TOOL, [str(TOOL), "-m", "invoke", *sys.argv[1:]])  # noqa: S606

from invoke.context import Context  # noqa: E402
from invoke.tasks import task  # noqa: E402

from envs.cli import after_dashes, verb  # noqa: E402

ENV = {"env": "environment, as `invoke envs` lists them (default sigmastar)"}
ENGINE = {"engine": "auto, docker or local (default auto: Docker where an engine answers)"}
JSON = {"json": "print one JSON document on stdout"}
NAME = {"name": "container, by name or unique prefix of name or id (default: the environment's own)"}


@task(
    positional=["file"],
    help={
        **JSON,
        "file": "conda-lock.yml, environment.yml, requirements.txt, uv.lock or pixi.lock",
        "name": "of the new environment (default from the file or its folder)",
        "python": "where the file does not say which, 3.10",
    },
)
@verb
def init(_: Context, file: str, name: str = "", python: str = "", json: bool = False) -> int:
    """Begin a spec from packages that you have listed or locked elsewhere."""
    from envs.verbs import init

    return init.init(file, name, python, json)


@task(
    help={
        **ENV,
        **JSON,
        "newest": "consider packages up to this day, YYYY-MM-DD",
        "check": "only say whether it is up to date; --env all for every environment",
        "diff": "only show what would move and which images that touches",
        "only": "refresh one part and leave the others: base, python, packages or data",
        "platform": "linux/amd64 or linux/arm64 (default the spec's own)",
        "weights": "also download these models' weights and lock their whole sha256, NAME,NAME,...",
    }
)
@verb
def lock(
    _: Context,
    env: str = "sigmastar",
    newest: str = "",
    check: bool = False,
    diff: bool = False,
    only: str = "",
    platform: str = "",
    weights: str = "",
    json: bool = False,
) -> int:
    """Resolve a spec into its lock: every byte that goes in, with its sha256."""
    from envs.verbs import locks

    if check:
        return locks.check(env, platform, json)
    return locks.lock(env, newest, only, platform, weights, not diff, json)


@task(
    help={
        **ENV,
        **ENGINE,
        **JSON,
        "output": "write the image to oci:DIR or docker-archive:FILE instead of into an engine",
        "platform": "with --output: linux/arm64 or another that has a lock (default the spec's own)",
        "context": "write a folder for plain `docker build` instead",
    }
)
@verb
def build(
    _: Context,
    env: str = "sigmastar",
    engine: str = "auto",
    output: str = "",
    platform: str = "",
    context: str = "",
    json: bool = False,
) -> int:
    """Make the environment (and its image) from the lock; nothing to do takes no time."""
    from envs.verbs import builds

    if output or platform:
        return builds.write_image(env, platform, output, json)
    return builds.write_context(env, context) if context else builds.build_environment(env, engine, json)


@task(
    help={
        **ENV,
        **ENGINE,
        **JSON,
        "container": "compare a container's files instead, by name or unique prefix",
        "image": "compare a registry's image instead: HOST/REPOSITORY@sha256:...",
        "archive": "compare files instead: oci:DIR or docker-archive:FILE",
        "platform": "with --image or --archive: linux/arm64 or another that has a lock",
    }
)
@verb
def verify(
    _: Context,
    env: str = "sigmastar",
    engine: str = "auto",
    container: str = "",
    image: str = "",
    archive: str = "",
    platform: str = "",
    json: bool = False,
) -> int:
    """Rebuild from the lock in a fresh place and compare it with what exists, file by file where it differs."""
    from envs.verbs import verify as verbs
    from envs.verify.verify import Request

    asked = Request(env=env, engine=engine, platform=platform, container=container, image=image, archive=archive)
    return verbs.verify(asked, json)


@task(
    positional=[],
    help={
        **ENV,
        **ENGINE,
        **JSON,
        "model": "a name from `invoke models`, a .py file, or a folder with model.py",
        "sparsity": "N:M, N kept of every M input channels (default 2:4)",
        "permute": "reorder channels so that more magnitude is kept (default yes; --no-permute leaves them)",
        "gather": "also write the network that reorders at run time, and time it beside ours",
        "keep": "layers to leave dense: NAME,NAME (* and ? work), or auto: the most sensitive ones",
        "budget": "with --keep auto: share of the weights that take the pattern (default 0.9)",
        "correct": "adjust the kept weights without training: none, norms, match or obs (default none)",
        "target": "the chip to convert for, as the environment's toolchain names it (default its first)",
        "variants": "number formats to convert to: NAME,NAME (default all of the toolchain)",
        "unstructured": "also convert the network at this share of zeros, as in 0.8",
        "calibration": "folder of your own pictures to calibrate with (default the lock's)",
        "fix": "mend what the toolchain's gate finds and can be mended mechanically; outputs are proved equal",
        "patterns": "also compare 1:2, 2:4, 4:8, 8:16, 2:8 and 1:4 on this network",
        "weights": "auto, random:SEED or a state dict's path (default auto)",
        "cache": "answer unchanged stages from the cache (default yes; --no-cache runs all)",
        "allow_drift": "where locked files are nowhere, resolve that part again and say what moved",
    },
)
@verb
def run(
    _: Context,
    model: str = "",
    env: str = "sigmastar",
    engine: str = "auto",
    sparsity: str = "2:4",
    permute: bool = True,
    gather: bool = False,
    keep: str = "",
    budget: str = "",
    correct: str = "none",
    patterns: bool = False,
    target: str = "",
    variants: str = "",
    unstructured: str = "",
    calibration: str = "",
    fix: bool = False,
    weights: str = "auto",
    cache: bool = True,
    allow_drift: bool = False,
    json: bool = False,
) -> int:
    """Take a model through the pipeline: export, sparsify, verify, convert, report."""
    asked: dict[str, Any] = {name: value for name, value in locals().items() if name not in ("_", "cache", "json")}
    from envs.run_options import RunOptions
    from envs.verbs import pipeline

    return pipeline.run(RunOptions(**asked, use_cache=cache), json)


@task(
    positional=["file"],
    help={
        **ENV,
        **ENGINE,
        **JSON,
        "file": "an ONNX file anywhere on this machine",
        "toolchain": "as `invoke vendors` lists them",
        "fix": "mend what can be mended mechanically, and prove the outputs equal; needs --output",
        "output": "the mended file to write",
        "shape": "of the input, where the file leaves sizes open: 1,3,224,224",
    },
)
@verb
def check(
    _: Context,
    file: str,
    toolchain: str = "",
    fix: bool = False,
    output: str = "",
    shape: str = "",
    env: str = "sigmastar",
    engine: str = "auto",
    json: bool = False,
) -> int:
    """Say what a toolchain's converter would refuse in an ONNX file: node, limit and remedy."""
    from envs.verbs import gate

    return gate.check(file, toolchain, fix, output, shape, env, engine, json)


@task(
    positional=["file"],
    help={
        **ENV,
        **ENGINE,
        **JSON,
        "file": "an ONNX file anywhere on this machine",
        "sparsity": "N:M, N kept of every M input channels (default 2:4)",
    },
)
@verb
def check_pattern(
    _: Context, file: str, sparsity: str = "2:4", env: str = "sigmastar", engine: str = "auto", json: bool = False
) -> int:
    """Say of every layer of an ONNX file whether it follows an N:M pattern, and where it breaks it."""
    from envs.verbs import pattern

    return pattern.check_pattern(file, sparsity, env, engine, json)


@task(
    help={
        **ENV,
        **ENGINE,
        **JSON,
        "platform": "linux/arm64 or another that has a lock (default the spec's own)",
        "output": "the file to write (default NAME-LOCK.bundle.tar here)",
        "layers": "carry the image's layers too (default yes; --no-layers leaves them to be built)",
        "load": "check that bundle and take it in, instead of writing one; needs no network",
    }
)
@verb
def bundle(
    _: Context,
    env: str = "sigmastar",
    platform: str = "",
    output: str = "",
    layers: bool = True,
    load: str = "",
    engine: str = "auto",
    json: bool = False,
) -> int:
    """Carry an environment to a machine without a network: one file with everything, or --load it there."""
    from envs.verbs import bundle as verbs

    return verbs.bundle(env, platform, output, layers, load, engine, json)


@task(
    help={
        **ENV,
        **JSON,
        "to": "HOST:PORT/REPOSITORY or HOST:PORT/REPOSITORY:TAG",
        "platform": "linux/arm64 or another that has a lock (default the spec's own)",
        "sign": "sign the provenance with this minisign key file",
        "documents": "attach bills of materials and provenance (default yes; --no-documents leaves them out)",
    }
)
@verb
def push(
    _: Context,
    env: str = "sigmastar",
    platform: str = "",
    to: str = "",
    sign: str = "",
    documents: bool = True,
    json: bool = False,
) -> int:
    """Publish the image by digest, with its documents; what the registry has is not sent."""
    from envs.verbs import registry

    return registry.push(env, platform, to, sign, documents, json)


@task(
    help={
        **ENGINE,
        **JSON,
        "reference": "HOST:PORT/REPOSITORY@sha256:... (by a tag it warns and names the digest)",
        "platform": "where it is there for several: linux/arm64 or another (default this machine's)",
    },
)
@verb
def pull(_: Context, reference: str, engine: str = "auto", platform: str = "", json: bool = False) -> int:
    """Fetch an image by digest into the store and the engine, and say of which lock it is."""
    from envs.verbs import registry

    return registry.pull(reference, engine, platform, json)


@task(help={**ENV, **ENGINE})
@verb
def shell(_: Context, env: str = "sigmastar", engine: str = "auto") -> int:
    """A bash inside the environment."""
    from envs.verbs import containers

    return containers.shell(env, engine)


@task(name="exec", help={**ENV, **ENGINE, **NAME})
@verb
def exec_(_: Context, env: str = "sigmastar", engine: str = "auto", name: str = "") -> int:
    """Run a command in the environment's container: invoke exec -- python script.py."""
    from envs.verbs import containers

    return containers.execute(env, engine, name, after_dashes())


@task(help={**ENV, **ENGINE, **NAME, **JSON})
@verb
def start(_: Context, env: str = "sigmastar", engine: str = "auto", name: str = "", json: bool = False) -> int:
    """Create a container of the environment and keep it, or start the one that is there."""
    from envs.verbs import containers

    return containers.start(env, engine, name, json)


@task(help={**ENV, **ENGINE, **NAME})
@verb
def stop(_: Context, env: str = "sigmastar", engine: str = "auto", name: str = "") -> int:
    """Stop a running container."""
    from envs.verbs import containers

    return containers.container("stop", env, engine, name)


@task(help={**ENV, **ENGINE, **NAME})
@verb
def restart(_: Context, env: str = "sigmastar", engine: str = "auto", name: str = "") -> int:
    """Stop a container and start it again."""
    from envs.verbs import containers

    return containers.container("restart", env, engine, name)


@task(help={**ENV, **ENGINE, **NAME, "force": "also a running one"})
@verb
def rm(_: Context, env: str = "sigmastar", engine: str = "auto", name: str = "", force: bool = False) -> int:
    """Remove a stopped container."""
    from envs.verbs import containers

    return containers.container("remove", env, engine, name, force=force)


@task(help={**ENGINE, **JSON})
@verb
def ps(_: Context, engine: str = "auto", json: bool = False) -> int:
    """List this project's containers, running and stopped."""
    from envs.verbs import containers

    return containers.containers(engine, json)


@task(help={**ENGINE, **JSON})
@verb
def images(_: Context, engine: str = "auto", json: bool = False) -> int:
    """List this project's images (trees, under local)."""
    from envs.verbs import builds

    return builds.images(engine, json)


@task(help={**ENV, **ENGINE, **NAME, "follow": "go on until it stops"})
@verb
def logs(_: Context, env: str = "sigmastar", engine: str = "auto", name: str = "", follow: bool = False) -> int:
    """Print what a container's main process wrote."""
    from envs.verbs import containers

    return containers.logs(env, engine, name, follow)


@task(help={**JSON})
@verb
def envs(_: Context, json: bool = False) -> int:
    """List the environments and whether each is locked and built here."""
    from envs.verbs import builds

    return builds.environments(json)


@task(
    help={
        **JSON,
        "table": "what they made of a model: the newest conversion of each, from the workspace",
        "model": "with --table: of this model (default onnx_tv_resnet18)",
        "markdown": "with --table: print it for a page",
    }
)
@verb
def vendors(_: Context, table: bool = False, model: str = "", markdown: bool = False, json: bool = False) -> int:
    """List the toolchains, where each runs and whether it can be used here; --table compares what they made."""
    from envs.verbs import vendors

    return vendors.vendors(table, model, markdown, json)


@task(help={**ENV, **JSON})
@verb
def models(_: Context, env: str = "sigmastar", json: bool = False) -> int:
    """List the models that can be run by name."""
    from envs.verbs import pipeline

    return pipeline.models(env, json)


@task(
    positional=["action", "vendor", "path"],
    optional=["action", "vendor", "path"],
    help={
        **JSON,
        "action": "add, list or rm (default list)",
        "vendor": "whose SDK, as in sigmastar",
        "path": "an image archive of `docker save`, or the SDK's folder; both are needed, one after the other",
    },
)
@verb
def sdk(_: Context, action: str, vendor: str, path: str, json: bool = False) -> int:
    """Take in what a vendor gives to its customers only: its image and its SDK."""
    from envs.verbs import sdk as verbs

    return verbs.sdk(action, vendor, path, json)


@task(
    help={
        **JSON,
        "toolchain": "the converter (default none: the file runs in onnxruntime)",
        "python": "3.8 to 3.13 (default 3.10)",
        **dict.fromkeys(
            ("torch", "onnx", "onnxruntime", "numpy", "protobuf", "torchvision", "opset", "ir"),
            "hold it fixed: a version, its beginning, or a specifier as in '>=1.16'",
        ),
        "exporter": "torchscript or dynamo",
        "measure": "build that set (and one per --cells all), export, check and run, and record what happens",
        "cells": "with --measure: all, every cell of envs/matrix/cells.toml",
    }
)
@verb
def match(
    _: Context,
    toolchain: str = "onnxruntime",
    python: str = "3.10",
    torch: str = "",
    onnx: str = "",
    onnxruntime: str = "",
    numpy: str = "",
    protobuf: str = "",
    torchvision: str = "",
    opset: str = "",
    ir: str = "",
    exporter: str = "",
    measure: bool = False,
    cells: str = "",
    json: bool = False,
) -> int:
    """Say which torch, onnx, onnxruntime, opset and IR version fit together and why, or what stands against it."""
    from envs.verbs import match as verbs

    fixed = {"toolchain": toolchain, "python": python, "torch": torch, "onnx": onnx, "onnxruntime": onnxruntime}
    fixed |= {"numpy": numpy, "protobuf": protobuf, "torchvision": torchvision, "opset": opset, "ir": ir}
    return verbs.match({**fixed, "exporter": exporter}, measure, cells, json)


@task(
    name="prune-store",
    help={
        **JSON,
        "older-than": "days: remove what was not used for so long",
        "max-size": "GiB: remove what was not used for longest until the cache is no bigger",
        "results": "also stages' results in the workspace",
        "dry-run": "only say what would go",
    },
)
@verb
def prune_store(
    _: Context,
    older_than: str = "",
    max_size: str = "",
    results: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Make the cache smaller; what a lock, a container or a running build needs stays."""
    from envs.verbs import store

    return store.prune_store(older_than, max_size, results, dry_run, json)


@task(
    iterable=["env"],
    help={
        **ENGINE,
        **JSON,
        "env": "environment; may be given several times (default all that have a lock)",
        "push": "HOST:PORT/REPOSITORY: push each below it when all its steps are done",
        "output": "keep image layouts and documents in this folder",
        "matrix": "only print what would be built, as one line of JSON for a CI's matrix",
    },
)
@verb
def ci(
    _: Context,
    env: list[str],
    engine: str = "auto",
    push: str = "",
    output: str = "",
    matrix: bool = False,
    json: bool = False,
) -> int:
    """What CI does for an image: check the lock, build, verify, test inside, write layout and documents, push."""
    from envs.verbs import ci as verbs

    return verbs.matrix(env) if matrix else verbs.ci(env, engine, push, output, json)


@task(
    help={
        **ENGINE,
        "env": "look into this environment (default sigmastar and the toolchains' small ones)",
        "host": "only the host's tests",
        "inside": "only those inside environments",
        "all": "also inside the toolchains' environments of several GiB",
        "k": "pytest's -k, for all suites",
    }
)
@verb
def test(
    _: Context,
    env: str = "",
    engine: str = "auto",
    host: bool = False,
    inside: bool = False,
    all: bool = False,  # noqa: A002 - the option's name
    k: str = "",
) -> int:
    """Run all tests: the host's, then the pipelines', the environments' and the toolchains' inside the images."""
    from envs.verbs import checks

    return checks.test(env, engine, host, inside, all, k)


@task(
    help={
        **ENV,
        **JSON,
        "platform": "linux/arm64 or another that has a lock (default the spec's own)",
        "format": "cyclonedx, spdx, provenance or all (default all with --output, else cyclonedx on stdout)",
        "output": "write the documents into this folder",
        "sign": "sign the provenance with this minisign secret key",
        "verify": "check the signed documents in --output with this minisign public key instead",
    }
)
@verb
def sbom(
    _: Context,
    env: str = "sigmastar",
    platform: str = "",
    format: str = "",  # noqa: A002 - the option's name
    output: str = "",
    sign: str = "",
    verify: str = "",
    json: bool = False,
) -> int:
    """Bills of materials (CycloneDX, SPDX) and SLSA provenance."""
    from envs.verbs import supply

    return supply.sbom(env, platform, format, output, sign, verify, json)


@task(
    iterable=["ignore"],
    help={
        **ENV,
        **JSON,
        "platform": "linux/arm64 or another that has a lock (default the spec's own)",
        "vulnerabilities": "a file, folder or .zip in OSV format; nothing is asked of the network",
        "ignore": "an id that is known and accepted; may be given several times",
    },
)
@verb
def audit(
    _: Context,
    ignore: list[str],
    env: str = "sigmastar",
    platform: str = "",
    vulnerabilities: str = "",
    json: bool = False,
) -> int:
    """Look a lock's packages up among known vulnerabilities, offline."""
    from envs.verbs import supply

    return supply.audit(env, platform, vulnerabilities, ignore, json)


@task
@verb
def lint(_: Context) -> int:
    """ruff and mypy --strict over both wings; actionlint, zizmor, hadolint (and shellcheck) over what CI runs."""
    from envs.verbs import checks

    return checks.lint()
