"""What a person already has becomes a spec: pins, channels and hashes are kept, what can't be is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import make_wheel

from envs import sources
from envs import spec as specs
from envs.errors import EdgekilnError, SpecError, WrongUse
from envs.init import make
from envs.init.conda_files import match_spec
from envs.init.found import channel_name, conda_file
from envs.init.make import Made, init
from envs.paths import SPECS
from envs.progress import Silent
from envs.spec import EnvSpec, load_spec
from envs.verbs.init import init as verb

HASH = {letter: letter * 64 for letter in "abc"}
BASE = "https://conda.example/edge-forge"

CONDA_LOCK = f"""version: 1
metadata:
  channels:
  - url: {BASE}
    used_env_vars: []
  platforms: [linux-64, osx-64]
package:
- name: python
  version: 3.10
  manager: conda
  platform: linux-64
  url: {BASE}/linux-64/python-3.10.13-hd12c33a_1_cpython.conda
  hash: {{md5: {"0" * 32}, sha256: {HASH["a"]}}}
  category: main
- name: python
  version: 3.11.0
  manager: conda
  platform: osx-64
  url: {BASE}/osx-64/python-3.11.0-h0_0.conda
  hash: {{md5: {"0" * 32}, sha256: {HASH["b"]}}}
- name: small
  version: '1.0'
  manager: pip
  platform: linux-64
  url: https://files.example/small-1.0-py3-none-any.whl
  hash: {{sha256: {HASH["c"]}}}
  category: main
- name: tester
  version: '1.0'
  manager: pip
  platform: linux-64
  url: https://files.example/tester-1.0-py3-none-any.whl
  category: dev
"""

ENVIRONMENT = f"""name: mine
channels:
  - {BASE}
  - nodefaults
dependencies:
  - python=3.10
  - numpy=1.26.4=py310hb13e2d6_0
  - pillow >=10,<11
  - other-forge::graphs==2.0
  - winonly  # [win]
  - pip
  - pip:
      - small==1.0
      - gone==1.0; sys_platform == 'win32'
variables: {{A: b}}
"""

PIXI = f"""version: 6
environments:
  default:
    channels:
    - url: {BASE}/
    packages:
      linux-64:
      - conda: {BASE}/linux-64/python-3.11.9-hb806964_0_cpython.conda
      - pypi: https://files.example/small-1.0-py3-none-any.whl
  docs: {{packages: {{}}}}
packages:
- conda: {BASE}/linux-64/python-3.11.9-hb806964_0_cpython.conda
  sha256: {HASH["a"]}
- pypi: https://files.example/small-1.0-py3-none-any.whl
  name: small
  version: '1.0'
  sha256: {HASH["c"]}
"""

UV = f"""version = 1
revision = 3
requires-python = ">=3.11"

[[package]]
name = "project"
version = "0.1"
source = {{ virtual = "." }}
dependencies = [
    {{ name = "small", extra = ["fast"] }},
    {{ name = "tomli", marker = "python_full_version < '3.11'" }},
    {{ name = "forked", version = "1.0", marker = "sys_platform == 'linux'" }},
    {{ name = "forked", version = "2.0", marker = "sys_platform != 'linux'" }},
]

[[package]]
name = "small"
version = "1.0"
source = {{ registry = "https://index.example" }}
wheels = [
    {{ url = "https://files.example/small-1.0-cp311-cp311-win_amd64.whl", hash = "sha256:{HASH["a"]}" }},
    {{ url = "https://files.example/small-1.0-py3-none-any.whl", hash = "sha256:{HASH["c"]}" }},
]

[package.optional-dependencies]
fast = [{{ name = "speedy" }}]

[[package]]
name = "speedy"
version = "3.0"
source = {{ registry = "https://index.example" }}
sdist = {{ url = "https://files.example/speedy-3.0.tar.gz", hash = "sha256:{HASH["b"]}" }}

[[package]]
name = "tomli"
version = "2.0"
source = {{ registry = "https://index.example" }}

[[package]]
name = "forked"
version = "1.0"
source = {{ registry = "https://index.example" }}
wheels = [{{ url = "https://files.example/forked-1.0-py3-none-any.whl", hash = "sha256:{HASH["a"]}" }}]

[[package]]
name = "forked"
version = "2.0"
source = {{ registry = "https://index.example" }}
"""


@pytest.fixture
def here(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of specs that may be written, and one for the person's file."""
    shutil.copytree(SPECS, tmp_path / "specs")
    for module in (specs, make):
        monkeypatch.setattr(module, "SPECS", tmp_path / "specs")
    (tmp_path / "my project").mkdir()
    return tmp_path / "my project"


def begin(folder: Path, file: str, text: str, **options: str) -> Made:
    (folder / file).write_text(text)
    return init(folder / file, options.get("name", "mine"), options.get("python", ""), Silent())


def said(made: Made, words: str) -> bool:
    return any(words in line for line in made.decide)


def no_host(made: Made) -> EnvSpec:
    text = made.path.read_text()
    assert "://" not in text
    assert ".example" not in text
    assert load_spec(made.spec.name) == made.spec
    return made.spec


def test_a_conda_lock_becomes_pins_with_builds_and_hashes(here: Path) -> None:
    spec = no_host(begin(here, "conda-lock.yml", CONDA_LOCK))
    assert spec.installer == "conda"
    assert spec.conda is not None
    assert spec.conda.channels == ("edge-forge",)
    assert spec.conda.packages == {"python": "3.10.13 hd12c33a_1_cpython"}
    assert spec.packages == {"small": "1.0"}
    assert spec.hashes == {"python": (HASH["a"],), "small": (HASH["c"],)}
    assert spec.python == "3.10"


def test_an_environment_file_becomes_match_specs_and_pins(here: Path) -> None:
    made = begin(here, "environment.yml", ENVIRONMENT)
    spec = no_host(made)
    assert spec.conda is not None
    assert spec.conda.channels == ("edge-forge", "other-forge")
    assert spec.conda.packages == {
        "graphs": "==2.0",
        "numpy": "1.26.4 py310hb13e2d6_0",
        "pillow": ">=10,<11",
        "pip": "*",
        "python": "3.10.*",
    }
    assert spec.packages == {"small": "1.0"}
    assert said(made, "channel edge-forge: its address is configuration now")
    assert said(made, "key 'variables' of environment.yml is not taken over")


@pytest.mark.parametrize("version", ["5", "6", "7"])
def test_a_pixi_lock_becomes_pins_of_its_default_environment(here: Path, version: str) -> None:
    made = begin(here, "pixi.lock", PIXI.replace("version: 6", f"version: {version}", 1))
    spec = no_host(made)
    assert spec.conda is not None
    assert spec.conda.packages == {"python": "3.11.9 hb806964_0_cpython"}
    assert (spec.python, spec.packages) == ("3.11", {"small": "1.0"})
    assert spec.hashes == {"python": (HASH["a"],), "small": (HASH["c"],)}
    assert said(made, "only default is read, not docs")


def test_a_uv_lock_becomes_what_linux_needs(here: Path) -> None:
    made = begin(here, "uv.lock", UV)
    spec = no_host(made)
    assert (spec.installer, spec.python) == ("uv", "3.11")
    assert spec.packages == {"forked": "1.0", "small": "1.0", "speedy": "3.0"}
    assert spec.hashes == {"forked": (HASH["a"],), "small": (HASH["c"],)}
    assert said(made, "speedy 3.0 has no wheel for linux/amd64")
    assert said(made, "project itself is not taken in")


def test_requirements_are_read_as_pip_reads_them(here: Path) -> None:
    (here / "more.txt").write_text("Other.Package == 2.0  # a thought\n")
    text = (
        "# mine\n--index-url https://index.example/simple\n-r more.txt\n"
        f"small==1.0 \\\n    --hash=sha256:{HASH['a']} \\\n    --hash=sha256:{HASH['b']}\n"
        "extra[fast]==3.0\nwindows==1.0; sys_platform == 'win32'\n"
    )
    made = begin(here, "requirements.txt", text)
    spec = no_host(made)
    assert spec.packages == {"extra": "3.0", "other-package": "2.0", "small": "1.0"}
    assert spec.hashes == {"small": (HASH["a"], HASH["b"])}
    assert said(made, "set EDGEKILN_INDEX_URL")
    assert said(made, "extra[fast]: a spec has no extras")
    assert said(made, "python: the file does not say which")


def test_what_is_not_pinned_is_pinned_by_the_index(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.0", "1.5", "2.0"):
        make_wheel(here / "wheels", "small", version, {"small.py": b""})
    make_wheel(here / "wheels", "other", "1.0", {"other.py": b""})
    for project in ("small", "other"):
        (here / "simple" / project).mkdir(parents=True)
        links = "".join(f'<a href="{wheel.as_uri()}">{wheel.name}</a>' for wheel in here.glob(f"wheels/{project}-*"))
        (here / "simple" / project / "index.html").write_text(links)
    sources.index_url.cache_clear()
    monkeypatch.setenv("EDGEKILN_INDEX_URL", (here / "simple").as_uri())
    made = begin(here, "requirements.txt", "small<2\nother==1.0\n")
    assert made.spec.packages == {"other": "1.0", "small": "1.5"}
    assert said(made, "versions chosen as of today, since the file names none: small 1.5")
    with pytest.raises(SpecError, match=r"no versions could be chosen for nosuch.*write exact versions"):
        begin(here, "requirements.txt", "nosuch\n", name="other")
    sources.index_url.cache_clear()


def test_an_existing_spec_is_never_overwritten(here: Path) -> None:
    first = begin(here, "requirements.txt", "small==1.0\n")
    before = first.path.read_bytes()
    with pytest.raises(WrongUse, match=r"mine.toml is there already, and is never overwritten"):
        begin(here, "requirements.txt", "small==2.0\n")
    assert first.path.read_bytes() == before


def test_the_name_comes_from_the_file_or_its_folder(here: Path) -> None:
    assert begin(here, "requirements.txt", "small==1.0\n", name="").spec.name == "my-project"
    assert begin(here, "Edge Tools.txt", "small==1.0\n", name="").spec.name == "edge-tools"
    with pytest.raises(WrongUse, match="can't name an environment"):
        begin(here, "requirements.txt", "small==1.0\n", name="../up")


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("requirements.txt", "a==1.0\n-e ./here\n", r"requirements.txt, line 2: '-e ./here' .*"),
        ("requirements.txt", "\n\na @ https://files.example/a.whl\n", r"line 3: a comes from an address"),
        ("requirements.txt", "a==1.0\na==2.0\n", r"line 2: a is there as 1.0 and as 2.0; keep one"),
        ("requirements.txt", "a = 1.0\n", r"line 1: 'a = 1.0' can't be read"),
        ("requirements.txt", "a==1.0 --hash=md5:00\n", r"line 1: a hash that is no sha256"),
        ("requirements.txt", "-r requirements.txt\n", r"line 1: 'requirements.txt' is not there, or names itself"),
        ("requirements.txt", "--strange x\n", r"line 1: '--strange x' can't be read"),
        ("environment.yml", "channels: [a]\ndependencies:\n- a\n- b[x=1]\n", r"line 4: 'b\[x=1\]' can't be read"),
        ("environment.yml", "channels: [a]\ndependencies:\n- a\n- pip:\n  - ./b\n", r"line 5: './b' is no package"),
        ("environment.yml", "dependencies:\n- a\n", r"names no channel"),
        ("environment.yml", "dependencies: [a\n", r"line 2: not valid YAML"),
        ("conda-lock.yml", CONDA_LOCK.replace("version: 1", "version: 9", 1), r"format 9 of conda-lock.yml"),
        (
            "conda-lock.yml",
            CONDA_LOCK.replace("manager: conda", "manager: npm", 1),
            "line 8: .*is no conda package file",
        ),
        ("conda-lock.yml", "package: [a]\n", r"format None|not laid out as conda-lock.yml"),
        ("conda-lock.yml", "version: 1\npackage: [a]\n", r"not laid out as conda-lock.yml is"),
        ("pixi.lock", PIXI.replace("version: 6", "version: 9", 1), r"format 9 of pixi.lock; known are 5 to 7"),
        ("pixi.lock", PIXI.replace("linux-64:", "osx-64:"), r"no packages for linux-64"),
        ("uv.lock", UV.replace("version = 1", "version = 9", 1), r"format 9 of uv.lock"),
        ("uv.lock", UV.replace('registry = "https://index.example"', 'git = "https://x"'), r"comes from git"),
        ("uv.lock", UV.replace('virtual = "."', 'registry = "x"'), r"no project of its own"),
        ("uv.lock", "version = 1\nrevision = = 3", r"uv.lock: not valid TOML: .*line 2"),
        ("setup.py", "", r"not a kind of file that this reads; name a conda-lock.yml"),
    ],
)
def test_what_no_spec_can_hold_is_named_with_its_place(here: Path, name: str, text: str, where: str) -> None:
    with pytest.raises(EdgekilnError, match=where) as caught:
        begin(here, name, text)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    assert not (here.parent / "specs" / "mine.toml").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    st.sampled_from(["requirements.txt", "environment.yml", "conda-lock.yml", "pixi.lock", "uv.lock"]),
    st.integers(0, 60),
    st.integers(1, 12),
    st.sampled_from(["", "x", "\0", "- [", "{", "===", "\t"]),
)
def test_a_damaged_file_gives_one_line_and_no_traceback(here: Path, name: str, at: int, count: int, put: str) -> None:
    whole = {"environment.yml": ENVIRONMENT, "conda-lock.yml": CONDA_LOCK, "pixi.lock": PIXI, "uv.lock": UV}
    text = whole.get(name, f"small==1.0 --hash=sha256:{HASH['a']}\nother==2.0\n")
    place = at * len(text) // 60
    (here / name).write_text(text[:place] + put + text[place + count :])
    try:
        make.read(here / name, "")
    except EdgekilnError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", "*"),
        ("=1.20", "1.20.*"),
        ("=1.20.*", "1.20.*"),
        ("==1.20", "==1.20"),
        ("=1.20=b_0", "1.20 b_0"),
        ("==1.20=b_0", "1.20 b_0"),
        (">=1,<2", ">=1,<2"),
    ],
)
def test_a_dependency_keeps_its_meaning(text: str, meant: str) -> None:
    assert match_spec(text) == meant


def test_addresses_become_names() -> None:
    assert channel_name("https://conda.example/edge-forge/") == "edge-forge"
    assert channel_name("edge-forge/label/dev") == "edge-forge/label/dev"
    assert conda_file(f"{BASE}/noarch/a-b-1.0-h0_0.tar.bz2#00") == (BASE, "a-b", "1.0", "h0_0")
    assert conda_file("https://files.example/a.whl") is None


def test_the_verb_says_what_to_do_next(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "requirements.txt").write_text("small==1.0\n")
    assert verb(str(here / "requirements.txt"), "mine", "", False) == 0
    shown = capsys.readouterr().err
    assert "[export]: opset 13" in shown
    assert shown.rstrip().endswith("then: invoke lock --env mine")
    assert verb(str(here / "requirements.txt"), "mine-too", "3.10", True) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["env"], facts["packages"], facts["python"]) == ("mine-too", 1, "3.10")


def test_the_task_takes_the_file_as_its_own_word() -> None:
    command = [sys.executable, "-m", "invoke", "init", "/no/such/file.txt"]
    done = subprocess.run(command, cwd=SPECS.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "/no/such/file.txt: no such file; name a conda-lock.yml" in done.stderr
