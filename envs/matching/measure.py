"""`invoke match --measure`: a cell's environment by the house's own machinery, tried, recorded and removed again."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from packaging.version import Version

from envs.engines.base import Environment, Task
from envs.engines.local import LocalEngine
from envs.errors import EngineError, LockError, WorkspaceError
from envs.lock import EnvLock
from envs.matching.cells import Planned
from envs.matching.facts import MATRIX, Matrix
from envs.matching.measured import MEASURED, Cell, Result, observations, record
from envs.matching.measured import Measured as Cells
from envs.mounts import pipelines_mount
from envs.paths import cache_root
from envs.progress import Progress
from envs.resolve import make_lock
from envs.spec import EnvSpec, load_spec
from envs.tree import ensure_tree, trees_root

BASE = "light"  # whose base and interpreter the cells have
SPACE_NEEDED = 15 << 30  # bytes: a torch with its CUDA libraries, packed and unpacked
# what torch's metadata asks for and an export on a CPU never loads
UNUSED = ("triton", *(f"nvidia-{name}-cu{cuda}" for name in ("cuda-nvrtc", "cusolver") for cuda in (11, 12)))


def measure_cells(cells: Sequence[Planned], progress: Progress) -> list[Cell]:
    """Measure one after the other and record each at once. What a cell downloads goes when its torch does."""
    done: list[Cell] = []
    ordered = sorted(cells, key=lambda cell: Version(cell.versions["torch"]))
    with scratch_cache() as folder:
        for number, cell in enumerate(ordered):
            if number and ordered[number - 1].versions["torch"] != cell.versions["torch"]:
                shutil.rmtree(folder)
            progress.say(f"cell {number + 1} of {len(ordered)}: {_named(cell)}")
            done.append(measure(cell, folder, progress))
            record(MATRIX / MEASURED, done[-1])
            shutil.rmtree(trees_root(), ignore_errors=True)
    return done


@contextlib.contextmanager
def scratch_cache() -> Iterator[Path]:
    """A cache for this process alone, inside the user's, whose store it only reads; nothing of it stays.

    One that a killed process leaves behind goes as abandoned trees do: it lies among them, under its owner's pid.
    """
    own = {"EDGEKILN_CACHE": trees_root() / f".measure-{os.getpid()}", "EDGEKILN_STORE": cache_root() / "store"}
    before = {name: os.environ.get(name) for name in own}
    os.environ["EDGEKILN_CACHE"] = str(own["EDGEKILN_CACHE"])
    os.environ.setdefault("EDGEKILN_STORE", str(own["EDGEKILN_STORE"]))
    try:
        yield own["EDGEKILN_CACHE"]
    finally:
        shutil.rmtree(own["EDGEKILN_CACHE"], ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def measure(cell: Planned, folder: Path, progress: Progress) -> Cell:
    """Install, import, export, check, run. A set that the resolver refuses is a result too."""
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < SPACE_NEEDED:
        raise WorkspaceError(f"{folder}: {free >> 30} GiB free, a cell needs {SPACE_NEEDED >> 30}", "free some space")
    day = dt.datetime.now(dt.timezone.utc).date()
    about = Cell(python=cell.python, versions=cell.versions, day=day)
    try:
        lock = lean(make_lock(cell_spec(cell), day, progress))
    except LockError as error:
        return msgspec.structs.replace(about, error=error.message.partition("cause: ")[2] or error.message)
    tree = ensure_tree(lock, progress)
    return msgspec.structs.replace(about, result=probe(cell, lock, tree))


def cell_spec(cell: Planned) -> EnvSpec:
    """The cell as an environment: the packages alone, on the base and interpreter of `light`."""
    base = load_spec(BASE)
    return EnvSpec(
        name="cell",
        summary=_named(cell),
        python=cell.python,
        base=base.base,
        interpreter=base.interpreter,
        export=base.export,
        packages=cell.versions,
    )


def lean(lock: EnvLock) -> EnvLock:
    """The lock without what is never loaded."""
    kept = tuple(one for one in lock.package if one.name not in UNUSED)
    omitted = sorted(one.name for one in lock.package if one.name in UNUSED)
    return msgspec.structs.replace(lock, package=kept, omit=tuple(omitted))


def probe(cell: Planned, lock: EnvLock, tree: Path) -> tuple[Result, ...]:
    """Run `pipelines.probe` in the tree. EngineError with its last line where it gives no answer."""
    engine, mount = LocalEngine(), pipelines_mount()
    asked = {"imports": list(cell.versions), "tries": [msgspec.structs.asdict(one) for one in cell.tries]}
    out, err = bytearray(), bytearray()
    with tempfile.TemporaryDirectory() as folder:
        task = Task(
            environment=Environment(name=lock.name, lock_digest=lock.digest, tree=tree),
            command=["python3", "-m", "pipelines.probe", msgspec.json.encode(asked).decode()],
            mounts=[mount],
            workdir=folder,
            variables={"PYTHONPATH": str(Path(engine.view(mount)).parent), "OMP_NUM_THREADS": "1"},
        )
        code = engine.run(task, stdout=out.extend, stderr=err.extend)
    lines = bytes(out).strip().splitlines()
    try:
        return msgspec.json.decode(lines[-1] if lines else b"", type=tuple[Result, ...])
    except msgspec.DecodeError as error:
        said = err.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise EngineError(f"{_named(cell)}: the probe ended with {code}: {said[-1]}") from error


def surprises(matrix: Matrix, cell: Cell) -> list[str]:
    """Results that the matrix, as it was before, had otherwise."""
    found = []
    for one in observations(Cells(cell=(cell,))):
        values = dict(one.values)
        against = [fact for fact in matrix.facts if fact.parts <= set(values) and fact.broken_by(values)]
        named = ", ".join(f"{part} {value}" for part, value in one.values)
        if one.ok and against:
            found.append(f"{named} works, against: {against[0]}")
        elif not one.ok and not against:
            found.append(f"{named}: {one.said}")
    return found


def _named(cell: Planned) -> str:
    return " ".join(f"{part} {version}" for part, version in cell.versions.items())
