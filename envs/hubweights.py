"""Which weights torchvision publishes for each classification model, read from its wheel without running it."""

from __future__ import annotations

import ast
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from envs.lock import LockedHubWeights

_FILE = re.compile(r"([^/]+-([0-9a-f]{8,64})\.pth)$")


def published(torchvision_wheel: Path) -> tuple[LockedHubWeights, ...]:
    """One entry a classification model, sorted: the weights that the model's own DEFAULT names."""
    found: list[LockedHubWeights] = []
    with zipfile.ZipFile(torchvision_wheel) as archive:
        for name in archive.namelist():
            # classification models lie right under models/; detection, video, ... in folders of their own
            if re.fullmatch(r"torchvision/models/(?!_)\w+\.py", name):
                found += _in_module(ast.parse(archive.read(name)))
    return tuple(sorted(found, key=lambda w: w.model))


def _in_module(module: ast.Module) -> Iterator[LockedHubWeights]:
    defaults = dict(_defaults(module))
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            for argument in (*node.args.args, *node.args.kwonlyargs):
                if argument.arg == "weights" and argument.annotation is not None:
                    enum = re.search(r"\w+_Weights", ast.unparse(argument.annotation))
                    if enum and enum.group() in defaults:
                        member, file, prefix = defaults[enum.group()]
                        yield LockedHubWeights(model=node.name, name=member, file=file, sha256_prefix=prefix)


def _defaults(module: ast.Module) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """(enum class, (member behind DEFAULT, file, first hex digits of its sha256))."""
    for node in module.body:
        if not (isinstance(node, ast.ClassDef) and node.name.endswith("_Weights")):
            continue
        members: dict[str, str] = {}
        default = ""
        for line in node.body:
            if not (isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)):
                continue
            if isinstance(line.value, ast.Name):
                default = line.value.id
            elif isinstance(line.value, ast.Call):
                urls = [
                    k.value.value for k in line.value.keywords if k.arg == "url" and isinstance(k.value, ast.Constant)
                ]
                members[line.targets[0].id] = str(urls[0]) if urls else ""
        if matched := _FILE.search(members.get(default, "")):
            yield node.name, (default, matched.group(1), matched.group(2))
