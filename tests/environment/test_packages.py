"""The packages are the locked ones where it counts, at import."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from conftest import packages


def test_what_is_imported_is_the_locked_version_from_the_tree(imported: str, request: pytest.FixtureRequest) -> None:
    module = importlib.import_module(imported)
    assert module.__version__.partition("+")[0] == packages(request.config)[imported].partition("+")[0]
    assert Path(str(module.__file__)).resolve().is_relative_to(Path(sys.prefix).resolve())
