"""./inv on a fresh checkout: makes its environment once, mends it, and never twice at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from envs.bundle.wheels import wheelhouse

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a network these tests use the wheels that came with the tool."""
    if folder := wheelhouse():
        monkeypatch.setenv("EDGEKILN_WHEELS", str(folder))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What ./inv needs, with requirements small enough for a test: invoke alone, hashed as in the real file."""
    folder = tmp_path / "a checkout"
    (folder / "envs/locks").mkdir(parents=True)
    shutil.copy(ROOT / "inv", folder)
    blocks = (ROOT / "envs/locks/tool.txt").read_text().split("\n")
    start = next(i for i, line in enumerate(blocks) if line.startswith("invoke=="))
    end = next(i for i in range(start + 1, len(blocks)) if not blocks[i].startswith(" "))
    (folder / "envs/locks/tool.txt").write_text("\n".join(blocks[start:end]) + "\n")
    (folder / "tasks.py").write_text("from invoke import task\n@task\ndef hello(c):\n    print('hello')\n")
    return folder


def path_with(tmp_path: Path, *programs: str, python: str = sys.executable) -> str:
    """A PATH of only these programs and a python3."""
    folder = tmp_path / f"bin-{len(programs)}-{Path(python).parent.parent.name}"
    folder.mkdir(exist_ok=True)
    for program in ("sh", "dirname", "cmp", "cat", "rm", "cp", *programs):
        target = folder / program
        if not target.exists():
            target.symlink_to(str(shutil.which(program)))
    if not (folder / "python3").exists():
        (folder / "python3").write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
        (folder / "python3").chmod(0o755)
    return str(folder)


def inv(checkout: Path, *words: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": path or os.environ["PATH"]}
    return subprocess.run([checkout / "inv", *words], env=env, capture_output=True, text=True, cwd="/", check=False)


def base_python() -> str:
    """The interpreter behind this environment: a venv's own python makes venvs too, but not with every installer."""
    return str(Path(sys.base_prefix) / "bin" / "python3")


def test_a_fresh_checkout_is_ready_after_one_command(checkout: Path, tmp_path: Path) -> None:
    done = inv(checkout, "hello", path=path_with(tmp_path, python=base_python()))  # no uv here: venv and pip
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    assert "making the tool's own environment" in done.stderr
    again = inv(checkout, "hello", path=path_with(tmp_path, python=base_python()))
    assert (again.stdout, again.stderr) == ("hello\n", "")


def uv_folder() -> str:
    return str(Path(sys.executable).parent)


def test_uv_is_used_where_it_is_present(checkout: Path) -> None:
    done = inv(checkout, "hello", path=f"{uv_folder()}:{os.environ['PATH']}")
    assert done.stdout == "hello\n", done.stderr
    assert not list((checkout / ".venv").glob("lib/*/site-packages/pip"))


@pytest.mark.parametrize("damage", ["stamp", "python", "moved", "requirements"])
def test_a_damaged_environment_is_made_again(checkout: Path, damage: str) -> None:
    path = f"{uv_folder()}:{os.environ['PATH']}"
    assert inv(checkout, "hello", path=path).returncode == 0
    if damage == "stamp":
        (checkout / ".venv/made-from.txt").unlink()
    elif damage == "python":
        (checkout / ".venv/bin/python").unlink()
    elif damage == "moved":
        checkout = checkout.rename(checkout.with_name("elsewhere"))
    else:
        with (checkout / "envs/locks/tool.txt").open("a") as file:
            file.write("# moved on\n")
    done = inv(checkout, "hello", path=path)
    assert done.stdout == "hello\n", done.stderr
    assert "making the tool's own environment" in done.stderr


def test_two_at_once_make_it_once(checkout: Path) -> None:
    env = {**os.environ, "PATH": f"{uv_folder()}:{os.environ['PATH']}"}
    both = [
        subprocess.Popen(
            [checkout / "inv", "hello"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    ends = [one.communicate(timeout=120) for one in both]
    assert [out for out, _ in ends] == ["hello\n", "hello\n"], ends
    assert sum("making the tool's own environment" in err for _, err in ends) == 1


def test_a_wrong_hash_stops_it(checkout: Path) -> None:
    path = checkout / "envs/locks/tool.txt"
    path.write_text("invoke==3.0.3 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    done = inv(checkout, "hello", path=f"{uv_folder()}:{os.environ['PATH']}")
    assert done.returncode == 3
    assert "could not be made" in done.stderr
    assert not (checkout / ".venv/made-from.txt").exists()


def test_without_venv_it_says_what_to_install(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Debian without python3-venv: the module ensurepip is missing."""
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "ensurepip.py").write_text("raise ImportError\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "missing"))
    done = inv(checkout, "hello", path=path_with(tmp_path, python=base_python()))
    assert done.returncode == 3
    assert "python3-venv" in done.stderr


def test_without_python_it_says_so(checkout: Path, tmp_path: Path) -> None:
    folder = Path(path_with(tmp_path, python="/nonexistent/python"))
    done = inv(checkout, "hello", path=str(folder))
    assert done.returncode == 3
    assert "Python 3.10 or newer" in done.stderr


def test_the_list_of_verbs_is_quick() -> None:
    """The budget is 0.5 s: what is checked is that nothing heavy is imported, which is what would break it."""
    ask = "import sys; sys.argv = ['invoke', '--list']; import invoke.main\n"
    ask += "try:\n    invoke.main.program.run()\nexcept SystemExit: pass\n"
    ask += "print(sorted({'docker', 'requests', 'rich', 'packaging', 'tomli_w'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    assert "run " in done.stdout
