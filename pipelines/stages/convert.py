"""convert: the vendor's tool. None is in these environments yet, and the stage says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.contract import RunRequest
from pipelines.stage import Context, InputFile, Outcome


class Convert:
    """Skipped, with its reason."""

    name = "convert"
    needs = ()
    uses = ()

    def parameters(self, request: RunRequest) -> Mapping[str, Any]:
        """The environment decides which tool there is."""
        return {"env": request.env}

    def input_files(self, request: RunRequest, data: Path, run_folder: Path) -> Sequence[InputFile]:
        """None."""
        del request, data, run_folder
        return ()

    def run(self, context: Context) -> Outcome:
        """There is no tool."""
        del context
        return Outcome(status="skipped", reason="no vendor tool in this environment")
